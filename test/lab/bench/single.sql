--
-- single.sql: for pgbench, one client: ingest a row by a prepared statement, in
-- a transaction of its own, :transactions times; what it took goes to job :job.
--
\set n :n + 1
\if :n = 1
SELECT stay_on(pg_backend_pid(), :processor);
CALL until_ready();
SELECT * FROM clock \gset before_
\endif
INSERT INTO single VALUES (:n, :user_id, now(), 'page view');
\if :n = :transactions
INSERT INTO sample
SELECT :job, :run, cpu - :before_cpu, elapsed - :before_elapsed, wal - :before_wal,
       (opt_outs - :before_opt_outs) * 1e9 / (elapsed - :before_elapsed) FROM clock;
\endif
