-- The filter functions: types, NULLs, event time, organizations, plans.
CREATE EXTENSION optout;
SELECT optout.enroll(ARRAY['alice', '42', '-7', '9223372036854775807', '550e8400-e29b-41d4-a716-446655440000']);
SELECT optout.opt_out(ARRAY['42', '-7', '9223372036854775807', '550e8400-e29b-41d4-a716-446655440000']);

-- text, uuid and bigint agree on the same id
SELECT optout.accepts('42'), optout.accepts(42), optout.accepts(42::bigint), optout.accepts(42::smallint);
SELECT optout.is_opted_out('42'), optout.is_opted_out(42), optout.is_opted_out(42::bigint);
SELECT optout.accepts(-7), optout.accepts(7), optout.accepts('+42'), optout.accepts('042');
SELECT optout.accepts(9223372036854775807), optout.accepts((-9223372036854775808)::bigint);
SELECT optout.accepts('550e8400-e29b-41d4-a716-446655440000'),
       optout.accepts('550E8400-E29B-41D4-A716-446655440000'::uuid),
       optout.accepts('550E8400-E29B-41D4-A716-446655440000') AS text_is_bytes,
       optout.accepts('550e8400-e29b-41d4-a716-446655440001'::uuid) AS another;
SELECT optout.is_opted_out('550e8400-e29b-41d4-a716-446655440000'),
       optout.is_opted_out('550e8400-e29b-41d4-a716-446655440000'::uuid),
       optout.is_opted_out('550e8400-e29b-41d4-a716-446655440001'::uuid);
SELECT optout.accepts('42'::varchar(10)), optout.accepts('42'::char(10)), optout.accepts('42'::name);

-- An event that names nobody is kept.
SELECT optout.accepts(NULL), optout.accepts(NULL::uuid), optout.accepts(NULL::bigint), optout.is_opted_out(NULL),
       optout.accepts('');

-- Organization: NULL is the setting; what can be no organization is an error.
SELECT optout.accepts('42', NULL), optout.accepts('42', 'default'), optout.accepts('42', 'acme');
SET optout.organization = 'acme';
SELECT optout.accepts('42'), optout.accepts('42', 'default'), optout.is_opted_out('42');
RESET optout.organization;
SELECT optout.accepts('42', '*');
\echo :LAST_ERROR_SQLSTATE
SELECT optout.accepts(NULL, '*');
\echo :LAST_ERROR_SQLSTATE
SELECT optout.is_opted_out('42', '*');
\echo :LAST_ERROR_SQLSTATE
SELECT optout.accepts('42', '');
\echo :LAST_ERROR_SQLSTATE
SET optout.organization = '*';
SET optout.organization = '';
SHOW optout.organization;
SET optout.nonsense = 1;

-- Event time.  A closed period is [opted_out_at, opted_in_at).
INSERT INTO optout.opt_out_period VALUES
  ('default', 'alice', '2026-01-01 00:00+00', '2026-02-01 00:00+00', 'regress', 'regress'),
  ('default', 'alice', '2026-03-01 00:00+00', '2026-04-01 00:00+00', 'regress', 'regress');
SELECT t AS occurred_at, optout.accepts('alice', occurred_at => t), optout.is_opted_out('alice', at => t)
  FROM unnest(ARRAY['-infinity', '2025-12-31 23:59:59.999999+00', '2026-01-01 00:00+00', '2026-01-15 00:00+00',
                    '2026-01-31 23:59:59.999999+00', '2026-02-01 00:00+00', '2026-02-15 00:00+00',
                    '2026-03-01 00:00+00', '2026-03-31 23:59:59.999999+00', '2026-04-01 00:00+00',
                    'infinity']::timestamptz[]) t;
SELECT optout.accepts('alice'), optout.accepts('alice', NULL, NULL), optout.is_opted_out('alice');
SELECT optout.accepts('alice', 'acme', '2026-01-15');
-- While a user is opted out, events of any time are discarded.
SELECT optout.opt_out('alice');
SELECT optout.accepts('alice', occurred_at => '2026-02-15'), optout.accepts('alice', occurred_at => '2000-01-01');
SELECT optout.opt_in('alice');
SELECT optout.accepts('alice', occurred_at => '2026-02-15'), optout.accepts('alice', occurred_at => '2026-03-15');
-- An event queued during the opt-out and delivered after the opt-in.
SELECT optout.accepts('alice', occurred_at => opted_out_at) AS at_opt_out,
       optout.accepts('alice', occurred_at => opted_in_at - interval '1 microsecond') AS before_opt_in,
       optout.accepts('alice', occurred_at => opted_in_at) AS at_opt_in
  FROM optout.opt_out_history WHERE user_id = 'alice' ORDER BY opted_out_at DESC LIMIT 1;
SELECT optout.accepts(42, occurred_at => '2000-01-01'),
       optout.accepts('550e8400-e29b-41d4-a716-446655440000'::uuid, NULL, '2000-01-01');

-- Wherever it stands.
CREATE TABLE event (user_id bigint, n int);
COPY event FROM STDIN (FORMAT csv) WHERE optout.accepts(user_id) AND n < 3;
42,1
43,2
43,3
,1
\.
PREPARE ingest (bigint, int) AS INSERT INTO event SELECT $1, $2 WHERE optout.accepts($1);
EXECUTE ingest (42, 10);
EXECUTE ingest (44, 10);
SELECT optout.opt_out('42'), optout.opt_in('42');
EXECUTE ingest (42, 11);
SELECT optout.opt_out('42');
EXECUTE ingest (42, 12);
CREATE TABLE copied AS SELECT * FROM event WHERE optout.accepts(user_id);
SELECT * FROM event ORDER BY n, user_id;
SELECT * FROM copied ORDER BY n, user_id;
DELETE FROM event WHERE NOT optout.accepts(user_id);
SELECT count(*) FROM event;

-- is_opted_out may run in parallel workers, accepts may not run in a parallel plan.
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
CREATE TABLE big AS SELECT 'u' || n AS user_id FROM generate_series(1, 10000) n;
ANALYZE big;
CREATE FUNCTION plan_is_parallel(query text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  line text;
BEGIN
  FOR line IN EXECUTE 'EXPLAIN ' || query LOOP
    IF line LIKE '%Parallel Seq Scan%' THEN RETURN true; END IF;
  END LOOP;
  RETURN false;
END $$;
SELECT plan_is_parallel('SELECT count(*) FROM big WHERE optout.is_opted_out(user_id)');
SELECT plan_is_parallel('SELECT count(*) FROM big WHERE optout.accepts(user_id)');
SELECT optout.enroll('u77'), optout.opt_out('u77');
SELECT count(*) FROM big WHERE optout.is_opted_out(user_id);
SELECT count(*) FROM big WHERE optout.accepts(user_id);

-- The answer does not depend on the caller's search_path.
CREATE SCHEMA regress_evil;
CREATE FUNCTION regress_evil.texteq(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false';
CREATE OPERATOR regress_evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = regress_evil.texteq);
SET search_path = regress_evil, pg_catalog;
SELECT optout.accepts('42'), optout.accepts('43');
SELECT optout.opt_in('42'), optout.accepts('42'), optout.opt_out('42'), optout.accepts('42');
SELECT user_id FROM optout.opt_out_list ORDER BY user_id LIMIT 2;
RESET search_path;

DROP SCHEMA regress_evil CASCADE;
DROP FUNCTION plan_is_parallel;
DROP TABLE event, copied, big;
DROP EXTENSION optout;
