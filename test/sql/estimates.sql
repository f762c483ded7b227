-- What the planner's estimates tell, which EXPLAIN shows.
\set VERBOSITY terse
CREATE EXTENSION optout;
CREATE ROLE regress_nobody;
CREATE ROLE regress_reports;
CREATE ROLE regress_text;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA optout TO regress_reports;
GRANT EXECUTE ON FUNCTION optout.accepts(text, text, timestamptz) TO regress_text;
SELECT optout.enroll('{alice,42,12345678-9abc-def0-1234-56789abcdef0}'::text[] || array_agg('user' || i))
  FROM generate_series(1, 30) i;
-- from here on every session has the shared filter that can have it, which the costs depend on
SELECT optout.opt_out('user1');
ANALYZE optout.product_user, optout.opt_out_period;

-- EXECUTE is checked when a part of a plan is initialized.  Here all parts that ask
-- are pruned before that: there is no partition 3.
CREATE TABLE event (t text, u uuid, i bigint, k integer) PARTITION BY LIST (k);
CREATE TABLE event_1 PARTITION OF event FOR VALUES IN (1);
CREATE TABLE event_2 PARTITION OF event FOR VALUES IN (2);
INSERT INTO event SELECT 'alice', '12345678-9abc-def0-1234-56789abcdef0', 42, 1 + n % 2 FROM generate_series(1, 3000) n;
CREATE TABLE protected (LIKE event) PARTITION BY LIST (k);
CREATE TABLE protected_1 PARTITION OF protected FOR VALUES IN (1);
INSERT INTO protected SELECT * FROM event WHERE k = 1;
ALTER TABLE protected ENABLE ROW LEVEL SECURITY;
CREATE POLICY filter ON protected USING (optout.accepts(t));
ANALYZE event, protected;
SELECT format('CREATE VIEW %1$s_%2$s AS SELECT * FROM event WHERE optout.%1$s(%2$s)', f, c),
	   format('CREATE FUNCTION inlined_%1$s(%2$s) RETURNS boolean LANGUAGE sql STABLE AS %3$L', f, y, format('SELECT optout.%s($1)', f))
  FROM unnest('{accepts,is_opted_out}'::text[]) AS f, (VALUES ('t', 'text'), ('u', 'uuid'), ('i', 'bigint')) AS v (c, y) \gexec
CREATE FUNCTION definer(text) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'SELECT optout.accepts($1)';
GRANT SELECT ON ALL TABLES IN SCHEMA public TO PUBLIC;

CREATE TABLE question (query text);
INSERT INTO question
SELECT format(template, f, c)
  FROM unnest('{accepts,is_opted_out}'::text[]) AS f, unnest('{t,u,i}'::text[]) AS c,
	   (VALUES ('SELECT FROM event WHERE optout.%s(%s) AND k = $1'),
			   ('SELECT FROM event WHERE NOT optout.%s(%s, ''default'', now()) AND k = $1'),
			   ('SELECT FROM %s_%s WHERE k = $1'),
			   ('SELECT FROM event WHERE inlined_%s(%s) AND k = $1'),
			   ('SELECT FROM event a JOIN event b USING (k) WHERE optout.%s(a.%s) AND k = $1')) AS v (template);
INSERT INTO question VALUES
('SELECT FROM event a JOIN event b ON optout.accepts(a.t || b.t) AND a.k = $1'),
('SELECT FROM protected WHERE k = $1'),
('SELECT FROM event WHERE definer(t) AND k = $1'),
('SELECT FROM event WHERE optout.accepts(t, ''another'') AND k = $1'),
('SELECT FROM event WHERE optout.accepts(t, '''') AND k = $1'),
('SELECT FROM event WHERE optout.accepts(t, t) AND k = $1'),
('SELECT FROM event WHERE optout.accepts(t || t) AND k = $1'),
('SELECT FROM event WHERE t = optout.accepts(t)::text AND k = $1'),
('SELECT FROM event WHERE t = optout.accepts(''alice'')::text AND k = $1');
GRANT SELECT ON question TO PUBLIC;
CREATE FUNCTION answer(query text) RETURNS text LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
	line text;
	plan text := '';
BEGIN
	EXECUTE 'PREPARE question (integer) AS ' || query;
	BEGIN
		FOR line IN EXECUTE 'EXPLAIN EXECUTE question (3)' LOOP
			plan := plan || line || E'\n';
		END LOOP;
	EXCEPTION WHEN insufficient_privilege THEN
		plan := SQLERRM;
	END;
	DEALLOCATE question;
	RETURN plan;
END $$;
CREATE TABLE told (role text, state text, query text, plan text);
GRANT INSERT, SELECT ON told TO PUBLIC;
\set ask 'INSERT INTO told SELECT current_user, :''state'', query, answer(query) FROM question'

-- The same plans whoever, and however many, are opted out.
\set state nobody
SET ROLE regress_nobody;
:ask;
SET ROLE regress_reports;
:ask;
SET ROLE regress_text;
:ask;
RESET ROLE;
SELECT optout.opt_out('{alice,42,12345678-9abc-def0-1234-56789abcdef0}'::text[]);
\set state alice
SET ROLE regress_nobody;
:ask;
SET ROLE regress_reports;
:ask;
SET ROLE regress_text;
:ask;
RESET ROLE;
SELECT optout.opt_out(array_agg('user' || i)) FROM generate_series(2, 30) i;
ANALYZE optout.product_user, optout.opt_out_period;
\set state all
SET ROLE regress_nobody;
:ask;
RESET ROLE;
SELECT query FROM told WHERE role = 'regress_nobody' GROUP BY query HAVING count(DISTINCT plan) <> 1;
-- those of a function without planner support: a third
SELECT DISTINCT role, substring(plan FROM 'rows=\d+') AS rows FROM told
 WHERE query LIKE 'SELECT FROM event WHERE optout.%' AND role = 'regress_nobody';
-- It is not blind: who may ask is told, and by the functions that they may execute.
SELECT query FROM told WHERE role = 'regress_reports' GROUP BY query HAVING count(DISTINCT plan) = 1
 ORDER BY query COLLATE "C";
SELECT query FROM told WHERE role = 'regress_text' GROUP BY query HAVING count(DISTINCT plan) <> 1
 ORDER BY query COLLATE "C";

-- A cached plan is its role's only, in whichever way the role changes.
SET plan_cache_mode = force_generic_plan;
CREATE FUNCTION shown(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN ' || query LOOP
		RETURN substring(line FROM 'rows=\d+');
	END LOOP;
END $$;
PREPARE discarded (integer) AS SELECT FROM event WHERE optout.is_opted_out(t) AND k = $1;
SELECT shown('EXECUTE discarded (3)');
SET ROLE regress_nobody;
SELECT shown('EXECUTE discarded (3)');
RESET ROLE;
SET SESSION AUTHORIZATION regress_reports;
SELECT shown('EXECUTE discarded (3)');
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION regress_nobody;
SELECT shown('EXECUTE discarded (3)');
RESET SESSION AUTHORIZATION;
DEALLOCATE discarded;

-- A column's statistics are not asked about where the user may not see all of its
-- rows, for the function is not leakproof.
CREATE TABLE theirs (t text, owner name);
ALTER TABLE theirs ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON theirs USING (owner = current_user);
CREATE TABLE theirs_too (LIKE theirs);
ALTER TABLE theirs_too ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON theirs_too USING (owner = current_user);
INSERT INTO theirs SELECT v.* FROM generate_series(1, 500), (VALUES ('alice', 'regress_nobody'), ('zoe', 'regress_reports')) AS v;
INSERT INTO theirs_too SELECT v.* FROM generate_series(1, 500), (VALUES ('zoe', 'regress_nobody'), ('zoe', 'regress_reports')) AS v;
ANALYZE theirs, theirs_too;
GRANT SELECT ON theirs, theirs_too TO regress_reports;
SELECT shown('SELECT FROM theirs WHERE optout.accepts(t)') AS theirs, shown('SELECT FROM theirs_too WHERE optout.accepts(t)') AS theirs_too;
SET ROLE regress_reports;
SELECT shown('SELECT FROM theirs') AS theirs, shown('SELECT FROM theirs_too') AS theirs_too;
SELECT shown('SELECT FROM theirs WHERE NOT optout.accepts(t)') = shown('SELECT FROM theirs_too WHERE NOT optout.accepts(t)') AS the_same;
RESET ROLE;

-- What can be no organization is an error only where the function is called.
CREATE TABLE empty (t text);
EXPLAIN (COSTS OFF) SELECT FROM empty WHERE optout.accepts(t, '');
EXPLAIN (COSTS OFF) SELECT FROM empty WHERE NOT optout.is_opted_out(t, '*');
SELECT FROM empty WHERE optout.accepts(t, '');
INSERT INTO empty VALUES ('alice');
SELECT FROM empty WHERE optout.accepts(t, '');

-- Who may not ask cannot have it asked in other ways: EXECUTE is needed by whoever
-- evaluates an expression of theirs, be it for the planner or for ANALYZE.
GRANT CREATE ON SCHEMA public TO regress_nobody;
SET ROLE regress_nobody;
CREATE TABLE mine (t text CHECK (optout.accepts(t)), accepted boolean DEFAULT optout.accepts('alice'));
INSERT INTO mine (accepted) VALUES (true);
INSERT INTO mine (t) VALUES (NULL);
EXPLAIN SELECT FROM event WHERE t = optout.accepts('alice')::text;
CREATE FUNCTION standard() RETURNS boolean LANGUAGE sql STABLE BEGIN ATOMIC SELECT optout.accepts('alice'); END;
EXPLAIN SELECT FROM event WHERE t = standard()::text;
CREATE DOMAIN accepted AS text CHECK (optout.accepts(VALUE));
SELECT 'alice'::accepted;
CREATE TABLE sampled AS SELECT t, k FROM event;
CREATE STATISTICS sampled ON (optout.accepts(t)), k FROM sampled;
ANALYZE sampled;
CREATE FUNCTION theirs(text, text, timestamptz) RETURNS boolean LANGUAGE sql SUPPORT optout.accepts_support AS 'SELECT true';
RESET ROLE;
-- nor by having a superuser do so
ANALYZE sampled;

SET client_min_messages = warning;
DROP OWNED BY regress_nobody CASCADE;
DROP FUNCTION answer, definer, shown;
DROP TABLE event, protected, question, told, theirs, theirs_too, empty CASCADE;
SELECT format('DROP FUNCTION inlined_%s(%s)', f, y) FROM unnest('{accepts,is_opted_out}'::text[]) AS f, unnest('{text,uuid,bigint}'::text[]) AS y \gexec
DROP EXTENSION optout;
DROP ROLE regress_nobody, regress_reports, regress_text;
