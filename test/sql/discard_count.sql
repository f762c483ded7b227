--
-- How many events a query counts as discarded: those for which accepts() is asked,
-- and where that is done depends on the rest of the query.
--
CREATE EXTENSION optout;
SELECT optout.enroll(ARRAY(SELECT 'u' || n FROM generate_series(1, 100) n));
SELECT optout.opt_out(ARRAY(SELECT 'u' || n FROM generate_series(10, 100, 10) n));

-- Ten events of each of 100 users, of whom every tenth is opted out.  30 of them
-- are known, so are 3 of those opted out.
CREATE TABLE staging (id int, user_id text, what text);
INSERT INTO staging SELECT n, 'u' || 1 + n % 100, 'what ' || n % 7 FROM generate_series(0, 999) n;
CREATE TABLE known (user_id text PRIMARY KEY, country text);
INSERT INTO known SELECT 'u' || n, CASE WHEN n <= 20 THEN 'fr' ELSE 'de' END FROM generate_series(1, 30) n;
CREATE TABLE event (id int, user_id text, what text);
CREATE TABLE unique_event (id int PRIMARY KEY, user_id text, what text);
ANALYZE staging, known;

-- an expensive condition
CREATE FUNCTION is_early(id int) RETURNS boolean LANGUAGE plpgsql STABLE COST 1000 AS $$ BEGIN RETURN id < 500; END $$;

-- in the place of the filter, to find out how many events a query offers
CREATE FUNCTION everybody(user_id text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';

CREATE TABLE form (n int GENERATED ALWAYS AS IDENTITY, form text, query text, stored bigint, discarded bigint, offered bigint);

-- Execute the queries, each in a transaction of its own.
\set try 'SELECT unnest(ARRAY[''TRUNCATE event, optout.discard_ledger'', format(''INSERT INTO event %s'', query), format(''UPDATE form SET stored = (SELECT count(*) FROM event), discarded = (SELECT COALESCE(sum(d.discarded), 0) FROM optout.discards d), offered = (SELECT count(*) FROM (%s) AS q) WHERE n = %s'', replace(query, ''optout.accepts'', ''everybody''), n)]) FROM form ORDER BY n \\gexec'

-- What doc/recipes.md recommends: whatever may drop an event or double it is done
-- below OFFSET 0, and the filter is asked above it.
INSERT INTO form (form, query)
SELECT form, format('SELECT e.* FROM (%s OFFSET 0) e WHERE optout.accepts(e.user_id)', query)
  FROM (VALUES
	('table', 'SELECT * FROM staging'),
	('cheap condition', $$SELECT * FROM staging WHERE what = 'what 1'$$),
	('expensive condition', 'SELECT * FROM staging WHERE is_early(id)'),
	('join', 'SELECT s.* FROM staging s JOIN known USING (user_id)'),
	('left join, condition', $$SELECT s.* FROM staging s LEFT JOIN known k USING (user_id) WHERE k.country = 'de'$$),
	('join that doubles', 'SELECT s.id, s.user_id, s.what FROM staging s, generate_series(1, 2)'),
	('EXISTS', 'SELECT * FROM staging s WHERE EXISTS (SELECT FROM known k WHERE k.user_id = s.user_id)'),
	('NOT EXISTS', 'SELECT * FROM staging s WHERE NOT EXISTS (SELECT FROM known k WHERE k.user_id = s.user_id)'),
	('IN', 'SELECT * FROM staging WHERE user_id IN (SELECT user_id FROM known)'),
	('sub-select in condition', $$SELECT * FROM staging s WHERE (SELECT country FROM known k WHERE k.user_id = s.user_id) = 'de'$$),
	('LIMIT', 'SELECT * FROM staging LIMIT 100'),
	('ORDER BY, LIMIT', 'SELECT * FROM staging ORDER BY id LIMIT 100'),
	('DISTINCT', 'SELECT DISTINCT ON (user_id) * FROM staging ORDER BY user_id'),
	('GROUP BY', $$SELECT min(id) AS id, user_id, 'first' AS what FROM staging GROUP BY user_id$$),
	('window', $$SELECT id, user_id, what FROM (SELECT *, row_number() OVER (PARTITION BY user_id ORDER BY id) FROM staging) s WHERE row_number = 1$$),
	('UNION', 'SELECT * FROM staging UNION SELECT * FROM staging'),
	('EXCEPT', 'SELECT * FROM staging EXCEPT SELECT * FROM staging WHERE id >= 500'),
	('LATERAL', 'SELECT s.id, k.user_id, s.what FROM staging s, LATERAL (SELECT * FROM known k WHERE k.user_id = s.user_id) k')
  ) AS v (form, query);
\set ECHO none
:try
\set ECHO all
SELECT form, stored, discarded, offered = stored + discarded AS exact FROM form ORDER BY n;

-- Exact as well: what neither drops nor doubles events, cheap conditions, a
-- materialized CTE, the other side of OR, CASE.
TRUNCATE form;
INSERT INTO form (form, query) VALUES
	('table', 'SELECT * FROM staging WHERE optout.accepts(user_id)'),
	('cheap condition after', $$SELECT * FROM staging WHERE optout.accepts(user_id) AND what = 'what 1'$$),
	('cheap condition before', $$SELECT * FROM staging WHERE what = 'what 1' AND optout.accepts(user_id)$$),
	('OR, asked last', $$SELECT * FROM staging WHERE what = 'what 1' OR optout.accepts(user_id)$$),
	('CASE', $$SELECT * FROM staging WHERE CASE WHEN is_early(id) THEN optout.accepts(user_id) ELSE false END$$),
	('left join to a unique key', 'SELECT s.id, s.user_id, k.country FROM staging s LEFT JOIN known k USING (user_id) WHERE optout.accepts(s.user_id)'),
	('sub-select in the result', 'SELECT s.id, s.user_id, (SELECT country FROM known k WHERE k.user_id = s.user_id) FROM staging s WHERE optout.accepts(s.user_id)'),
	('UNION ALL', 'SELECT * FROM (SELECT * FROM staging WHERE id < 500 UNION ALL SELECT * FROM staging WHERE id >= 500) s WHERE optout.accepts(user_id)'),
	('materialized CTE', 'WITH s AS MATERIALIZED (SELECT s.* FROM staging s JOIN known USING (user_id)) SELECT * FROM s WHERE optout.accepts(user_id)');
\set ECHO none
:try
\set ECHO all
SELECT form, stored, discarded, offered = stored + discarded AS exact FROM form ORDER BY n;

-- Not exact: the same events are stored, but what is counted depends on the plan.
TRUNCATE form;
INSERT INTO form (form, query) VALUES
	('expensive condition', 'SELECT * FROM staging WHERE is_early(id) AND optout.accepts(user_id)'),
	('OR, asked first', $$SELECT * FROM staging WHERE optout.accepts(user_id) OR what = 'what 1'$$),
	('join', 'SELECT s.* FROM staging s JOIN known USING (user_id) WHERE optout.accepts(s.user_id)'),
	('join, asked of the other side', 'SELECT s.* FROM staging s JOIN known k USING (user_id) WHERE optout.accepts(k.user_id)'),
	('join, subquery', 'SELECT * FROM (SELECT s.* FROM staging s JOIN known USING (user_id)) s WHERE optout.accepts(user_id)'),
	('join, CTE', 'WITH s AS (SELECT s.* FROM staging s JOIN known USING (user_id)) SELECT * FROM s WHERE optout.accepts(user_id)'),
	('left join, condition', $$SELECT s.* FROM staging s LEFT JOIN known k USING (user_id) WHERE k.country = 'de' AND optout.accepts(s.user_id)$$),
	('join that doubles', 'SELECT s.id, s.user_id, s.what FROM staging s, generate_series(1, 2) WHERE optout.accepts(s.user_id)'),
	('EXISTS', 'SELECT * FROM staging s WHERE EXISTS (SELECT FROM known k WHERE k.user_id = s.user_id) AND optout.accepts(user_id)'),
	('NOT EXISTS', 'SELECT * FROM staging s WHERE NOT EXISTS (SELECT FROM known k WHERE k.user_id = s.user_id) AND optout.accepts(user_id)'),
	('sub-select in condition', $$SELECT * FROM staging s WHERE (SELECT country FROM known k WHERE k.user_id = s.user_id) = 'de' AND optout.accepts(user_id)$$),
	('ORDER BY, LIMIT', 'SELECT * FROM staging WHERE optout.accepts(user_id) ORDER BY id LIMIT 100'),
	('DISTINCT', 'SELECT DISTINCT ON (user_id) * FROM staging WHERE optout.accepts(user_id) ORDER BY user_id'),
	('GROUP BY', $$SELECT min(id), user_id, 'first' FROM staging GROUP BY user_id HAVING optout.accepts(user_id)$$),
	('window', $$SELECT id, user_id, what FROM (SELECT *, row_number() OVER (PARTITION BY user_id ORDER BY id) FROM staging) s WHERE row_number = 1 AND optout.accepts(user_id)$$),
	('UNION', 'SELECT * FROM (SELECT * FROM staging UNION SELECT * FROM staging) s WHERE optout.accepts(user_id)');
\set ECHO none
:try
\set ECHO all
SELECT form, stored, discarded > offered - stored AS counts_more, discarded < offered - stored AS counts_less FROM form ORDER BY n;

-- What would have been a duplicate counts as discarded: nobody has looked for it.
TRUNCATE optout.discard_ledger;
INSERT INTO unique_event SELECT id / 2, user_id, what FROM staging WHERE optout.accepts(user_id) ON CONFLICT DO NOTHING;
SELECT count(*) AS stored FROM unique_event;
SELECT discarded FROM optout.discards;

-- EXPLAIN ANALYZE executes the statement, and counts; EXPLAIN does not.
TRUNCATE optout.discard_ledger;
DO $$ BEGIN EXECUTE 'EXPLAIN INSERT INTO event SELECT * FROM staging WHERE optout.accepts(user_id)'; END $$;
SELECT count(*) AS counted FROM optout.discards;
DO $$ BEGIN EXECUTE 'EXPLAIN ANALYZE INSERT INTO event SELECT * FROM staging WHERE optout.accepts(user_id)'; END $$;
SELECT discarded FROM optout.discards;

-- A guard is asked of what is about to be stored, so it is exact with any query.
SELECT optout.guard('event');
TRUNCATE form;
INSERT INTO form (form, query) VALUES
	('join', 'SELECT s.* FROM staging s JOIN known USING (user_id)'),
	('EXISTS', 'SELECT * FROM staging s WHERE EXISTS (SELECT FROM known k WHERE k.user_id = s.user_id)'),
	('ORDER BY, LIMIT', 'SELECT * FROM staging ORDER BY id LIMIT 100'),
	('UNION', 'SELECT * FROM staging UNION SELECT * FROM staging');
\set ECHO none
:try
\set ECHO all
SELECT form, stored, discarded, offered = stored + discarded AS exact FROM form ORDER BY n;

DROP TABLE staging, known, event, unique_event, form;
DROP FUNCTION is_early, everybody;
DROP EXTENSION optout;
