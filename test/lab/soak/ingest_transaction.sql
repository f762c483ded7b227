-- Batches in a transaction that takes a while, at each isolation level, with
-- savepoints and exception blocks, which ends in each of the ways there are.
\set level random(0, 2)
\set end random(0, 9)
\set ms random(0, 20)
\set old random(0, 3)
\set age random(0, 1000)
\if :level = 0
BEGIN ISOLATION LEVEL READ COMMITTED;
\elif :level = 1
BEGIN ISOLATION LEVEL REPEATABLE READ;
\else
BEGIN ISOLATION LEVEL SERIALIZABLE;
\endif
-- its snapshot may be an old one when it asks first
\if :old = 0 and :level > 0
SELECT count(*) FROM soak.member;
\sleep :age ms
\endif
SELECT soak.ingest();
\sleep :ms ms
SELECT soak.ingest();
SAVEPOINT s;
SELECT soak.ingest('savepoint');
\sleep :ms ms
SAVEPOINT t;
SELECT soak.ingest('savepoint');
RELEASE t;
ROLLBACK TO s;
SELECT soak.ingest('savepoint');
SAVEPOINT t;
SELECT soak.ingest('savepoint');
RELEASE s;
SELECT soak.ingest_and_fail();
\sleep :ms ms
SELECT soak.ingest();
\if :end <= 5
COMMIT;
\elif :end <= 6
ROLLBACK;
\else
PREPARE TRANSACTION 'ingest :client_id';
\sleep :ms ms
\if :end <= 8
COMMIT PREPARED 'ingest :client_id';
\else
ROLLBACK PREPARED 'ingest :client_id';
\endif
\endif
