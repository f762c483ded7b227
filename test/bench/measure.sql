--
-- measure.sql: run job number :job once, in this new session.  Run 0 is for
-- warming up.
--
SELECT prepare, statement, each, beside, after FROM job WHERE nr = :job \gset
\o /dev/null
:prepare
\o
\set got ''
\set stored 0
SELECT cpu() AS cpu, clock_timestamp() AS at, pg_current_wal_insert_lsn() AS lsn, last_value AS busy FROM busy_user \gset before_
\if :each
:statement \gexec
\else
:statement \gset
\set stored :ROW_COUNT
\endif
SELECT cpu() AS cpu, clock_timestamp() AS at, pg_current_wal_insert_lsn() AS lsn \gset after_
RESET ROLE;
\if :each
SELECT count(*) AS got FROM single \gset
\endif
INSERT INTO sample
SELECT :job, :run, :after_cpu - :before_cpu, seconds * 1000000000, :'after_lsn'::pg_lsn - :'before_lsn'::pg_lsn,
       CASE WHEN :beside > 0 THEN (last_value - :before_busy) / seconds END
  FROM busy_user, extract(epoch FROM :'after_at'::timestamptz - :'before_at') AS seconds
 WHERE :run > 0;
\o /dev/null
:after
\o
SELECT format('%s: %s rows where %s were expected', name, got, expect)
  FROM job, COALESCE(NULLIF(:'got', '')::bigint, :stored) AS got
 WHERE nr = :job AND got <> expect;
