-- The rules of opting out and in.
CREATE EXTENSION optout;
SELECT optout.enroll(ARRAY['alice', 'bob', 'carol']);
SELECT optout.enroll(ARRAY['alice', 'dave'], 'acme');

-- True where newly opted out; then nothing changes, not even the reason.
SELECT optout.opt_out('alice', reason => 'first');
SELECT optout.opt_out('alice', reason => 'second');
SELECT organization, user_id, opted_in_at, opted_in_by, reason,
       opted_out_at BETWEEN now() - interval '1 minute' AND now() AS by_the_clock
  FROM optout.opt_out_period;

-- Organizations are apart.
SELECT optout.accepts('alice'), optout.accepts('alice', 'acme');
SELECT optout.opt_out('alice', 'acme');
SELECT optout.opt_in('alice');
SELECT optout.accepts('alice'), optout.accepts('alice', 'acme');
SELECT optout.opt_in('alice', 'acme');

-- A typing error does not pass for protection, and one bad id changes nothing.
SELECT optout.opt_out('alcie');
\echo :LAST_ERROR_SQLSTATE
SELECT optout.opt_out('dave');
SELECT optout.opt_out(ARRAY['alice', 'bob', 'dave', 'zoe']);
\echo :LAST_ERROR_SQLSTATE
SELECT optout.opt_out(ARRAY['alice', NULL]);
\echo :LAST_ERROR_SQLSTATE
SELECT optout.opt_out(ARRAY['alice', '']);
\echo :LAST_ERROR_SQLSTATE
SELECT optout.opt_out(ARRAY[['alice', 'bob'], ['carol', 'alice']]);
\echo :LAST_ERROR_SQLSTATE
SELECT optout.opt_out(NULL::text);
\echo :LAST_ERROR_SQLSTATE
SELECT optout.opt_out(NULL::text[]);
\echo :LAST_ERROR_SQLSTATE
SELECT optout.opt_out('');
\echo :LAST_ERROR_SQLSTATE
SELECT optout.opt_out(repeat('x', 1000000));
\echo :LAST_ERROR_SQLSTATE
SELECT optout.opt_out('alice', '');
\echo :LAST_ERROR_SQLSTATE
SELECT optout.opt_out('alice', '*');
\echo :LAST_ERROR_SQLSTATE
SELECT optout.opt_out('alice', repeat('x', 1025));
SELECT optout.opt_in('alcie');
\echo :LAST_ERROR_SQLSTATE
SELECT optout.opt_in(NULL::text);
\echo :LAST_ERROR_SQLSTATE
SELECT optout.opt_in('');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) AS open_periods FROM optout.opt_out_list;

SELECT optout.opt_out(ARRAY['alice', 'bob']);
SELECT optout.opt_in(ARRAY['alice', 'bob', 'zoe']);
\echo :LAST_ERROR_SQLSTATE
SELECT optout.opt_in(ARRAY['alice', NULL]);
SELECT optout.opt_in('alice', '*');
SELECT user_id FROM optout.opt_out_list ORDER BY 1;

-- Counts: duplicates count once, and those already there not at all.
SELECT optout.opt_out('{}'::text[]), optout.opt_in('{}'::text[]);
SELECT optout.opt_out(ARRAY['carol', 'carol', 'bob']);
SELECT optout.opt_in(ARRAY['carol', 'carol', 'bob', 'alice']);
SELECT optout.opt_in(ARRAY['carol', 'bob']);

-- Every period is kept.
SELECT user_id, count(*), bool_and(opted_in_at > opted_out_at) AS in_order,
       bool_and(opted_in_by = current_user AND opted_out_by = current_user) AS by_me
  FROM optout.opt_out_history GROUP BY organization, user_id ORDER BY organization, user_id;

-- A clock that goes back: periods neither overlap nor are empty.  The rows of
-- a session whose clock was an hour ahead:
INSERT INTO optout.opt_out_period VALUES
  ('default', 'carol', now() + interval '30 minutes', now() + interval '1 hour', 'regress', 'regress', 'ahead'),
  ('default', 'bob', now() + interval '30 minutes', NULL, 'regress', NULL, 'ahead');
SELECT optout.opt_out('carol', reason => 'after'), optout.opt_in('carol');
SELECT optout.opt_in('bob'), optout.opt_out('bob', reason => 'after');
SELECT user_id, reason, opted_out_at = lag(opted_in_at) OVER w AS starts_where_last_ended,
       opted_in_at - opted_out_at AS duration
  FROM optout.opt_out_history
 WHERE opted_out_at > now() + interval '20 minutes'
WINDOW w AS (PARTITION BY user_id ORDER BY opted_out_at) ORDER BY user_id, opted_out_at;
SELECT optout.opt_in('bob');

\set VERBOSITY terse
-- The table itself refuses a second open period and a period that ends before it starts.
SELECT optout.opt_out('alice');
INSERT INTO optout.opt_out_period (organization, user_id, opted_out_at, opted_out_by)
VALUES ('default', 'alice', now() - interval '1 day', 'regress');
INSERT INTO optout.opt_out_period VALUES ('default', 'x', '2026-01-02', '2026-01-01', 'regress', 'regress');
INSERT INTO optout.opt_out_period VALUES ('default', 'x', '2026-01-02', '2026-01-02', 'regress', 'regress');

\set VERBOSITY default
-- What is rolled back leaves no trace; a transaction sees its own changes.
SELECT optout.opt_in('alice');
BEGIN;
SELECT optout.opt_out('alice');
SELECT optout.accepts('alice');
SAVEPOINT s;
SELECT optout.opt_in('alice');
SELECT optout.accepts('alice');
SELECT optout.opt_out('bob');
ROLLBACK TO s;
SELECT optout.accepts('alice'), optout.accepts('bob');
SELECT user_id FROM optout.opt_out_list;
RELEASE s;
ROLLBACK;
SELECT optout.accepts('alice'), optout.accepts('bob');
SELECT user_id FROM optout.opt_out_list;
-- the same within one statement, and in exception blocks
SELECT optout.opt_out('alice'), optout.accepts('alice'), optout.opt_in('alice'), optout.accepts('alice');
DO $$
BEGIN
  PERFORM optout.opt_out('alice');
  BEGIN
    PERFORM optout.opt_out('bob');
    PERFORM optout.opt_out('nobody');
  EXCEPTION WHEN undefined_object THEN
    RAISE NOTICE 'alice accepted: %, bob accepted: %', optout.accepts('alice'), optout.accepts('bob');
  END;
  PERFORM optout.opt_in('alice');
END $$;

-- Nothing is changed, and no row is locked, in a read-only transaction.
BEGIN READ ONLY;
SELECT optout.opt_out('alice');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;

-- Odd ids are ids like any other.
SELECT optout.enroll(ARRAY['O''Brien', 'a"b', '%', '_', 'a\b', ' x', 'x ', 'ünïcödé', 'مستخدم', E'tab\there', '42', 'null']);
SELECT optout.opt_out(ARRAY['O''Brien', 'a"b', '%', '_', 'a\b', ' x', 'ünïcödé', 'مستخدم', E'tab\there', '42', 'null']);
SELECT user_id, optout.accepts(user_id), optout.accepts(user_id || ' '), optout.accepts(' ' || user_id)
  FROM optout.opt_out_list ORDER BY user_id;
SELECT optout.accepts('x '), optout.accepts('anything'), optout.accepts(repeat('x', 1000000));
SELECT optout.opt_out(repeat('x', 1024));
SELECT optout.enroll(repeat('x', 1024));
SELECT optout.opt_out(repeat('x', 1024)), optout.accepts(repeat('x', 1024)), optout.accepts(repeat('x', 1023));
-- cut between characters
SELECT optout.opt_out(repeat('ü', 600));

-- Many at once.
SELECT optout.enroll(array_agg('u' || n)) FROM generate_series(1, 20000) n;
SELECT optout.opt_out(array_agg('u' || n)) FROM generate_series(1, 20000) n;
SELECT count(*) FILTER (WHERE optout.accepts('u' || n)) FROM generate_series(1, 20001) n;
SELECT optout.opt_in(array_agg('u' || n ORDER BY random())) FROM generate_series(1, 20000) n;
SELECT count(*) FILTER (WHERE optout.accepts('u' || n)) FROM generate_series(1, 20001) n;

DROP EXTENSION optout;
