-- A loader makes a table in a schema with a rule, in one of the ways there are,
-- fills it, and drops it.
\set way random(0, 4)
\set end random(0, 9)
\set ms random(0, 10)
SELECT nextval('soak.next_load') AS load \gset
\if :end <= 4
SELECT soak.load_create(:load, :way);
\sleep :ms ms
SELECT soak.load_ingest(:load, :way);
\sleep :ms ms
SELECT soak.load_ingest(:load, :way);
SELECT soak.load_finish(:load);
\else
\if :end <= 6
BEGIN ISOLATION LEVEL REPEATABLE READ;
\else
BEGIN;
\endif
SELECT count(*) FROM soak.member;
SAVEPOINT s;
SELECT soak.load_create(:load, :way);
SELECT soak.load_ingest(:load, :way);
ROLLBACK TO s;
\sleep :ms ms
SELECT soak.load_create(:load, :way);
SELECT soak.load_ingest(:load, :way);
\sleep :ms ms
SELECT soak.load_ingest(:load, :way);
SELECT soak.load_finish(:load);
\if :end <= 7
COMMIT;
\elif :end = 8
ROLLBACK;
\else
PREPARE TRANSACTION 'loader :client_id';
COMMIT PREPARED 'loader :client_id';
\endif
\endif
