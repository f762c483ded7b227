--
-- measure.sql: run job :job once, in this new session.
--
SELECT prepare, statement FROM job WHERE nr = :job \gset
\o /dev/null
SELECT stay_on(pg_backend_pid(), :processor);
:prepare
\o
\set got ''
SELECT * FROM clock \gset before_
:statement \gset
\set stored :ROW_COUNT
SELECT * FROM clock \gset after_
RESET ROLE;
INSERT INTO sample
SELECT :job, :run, :after_cpu - :before_cpu, :after_elapsed - :before_elapsed, :after_wal - :before_wal,
       (:after_opt_outs - :before_opt_outs) * 1e9 / (:after_elapsed - :before_elapsed);
SELECT format('%s: %s rows where %s were expected', name, got, expect)
  FROM job, COALESCE(NULLIF(:'got', '')::bigint, :stored) AS got
 WHERE nr = :job AND got <> expect;
