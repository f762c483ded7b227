-- A loader makes a table from its rows.
\set ms random(0, 10)
SELECT nextval('soak.next_load') AS load \gset
BEGIN;
SELECT soak.load_as(:load);
\sleep :ms ms
SELECT soak.load_finish(:load);
COMMIT;
