-- What roles without authority try: see doc/security.md.
\set VERBOSITY terse
CREATE EXTENSION optout;
CREATE ROLE regress_nobody;
CREATE ROLE regress_acme;
CREATE ROLE regress_all;
CREATE ROLE regress_ingest;
SELECT optout.enroll(ARRAY['alice', 'bob'], org) FROM unnest('{acme,globex}'::text[]) AS org;
SELECT optout.enroll('gina', 'globex');
SELECT optout.opt_out('gina', 'globex', 'reason of globex'), optout.opt_out('alice', 'globex'), optout.opt_out('bob', 'acme');
SELECT optout.link('gina', ARRAY['ginas phone'], 'globex', 'reason of globex');
-- somebody who is opted out again and again, so that statistics would name them
DO $$ BEGIN
	FOR i IN 1 .. 30 LOOP
		PERFORM set_config('optout.actor', 'kim', true), optout.opt_out('bob', 'globex'), optout.opt_in('bob', 'globex', 'reason of globex');
	END LOOP;
END $$;
INSERT INTO optout.discard_ledger VALUES ('acme', '2026-05-01 10:00+00', 1, 10), ('globex', '2026-05-01 10:00+00', 1, 7);
INSERT INTO optout.purge_ledger SELECT now(), 'admin of globex', 'globex', 'public.secret', 3 FROM generate_series(1, 30);
SELECT optout.grant_authority('regress_acme', 'acme', 'read'), optout.grant_authority('regress_all', '*', 'read');
GRANT EXECUTE ON FUNCTION optout.accepts(text, text, timestamptz) TO regress_ingest;
GRANT CREATE ON SCHEMA public TO regress_nobody, regress_ingest;
ANALYZE;

-- EXPLAIN ANALYZE: the same plan and row counts for a user who is opted out
-- elsewhere, for one who is not, and for nobody.
CREATE FUNCTION explain(query text) RETURNS text LANGUAGE plpgsql SECURITY INVOKER AS $$
DECLARE
	line text;
	plan text := '';
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (ANALYZE, TIMING OFF, SUMMARY OFF, BUFFERS OFF) ' || query LOOP
		plan := plan || regexp_replace(line, '''[^'']*''', '''...''', 'g') || E'\n';
	END LOOP;
	RETURN plan;
END $$;
CREATE FUNCTION tells_apart(relation text, col text, VARIADIC vals text[]) RETURNS boolean LANGUAGE sql AS
	$$ SELECT count(DISTINCT explain(format('SELECT * FROM %s WHERE %I = %L', relation, col, v))) > 1 FROM unnest(vals) AS v $$;
CREATE VIEW probe AS
SELECT relation, col, tells_apart('optout.' || relation, col, VARIADIC vals)
  FROM (VALUES ('user_list', 'user_id', '{gina,nobody}'::text[]), ('user_list', 'organization', '{globex,nowhere}'),
			   ('opt_out_list', 'user_id', '{gina,nobody}'), ('opt_out_list', 'organization', '{globex,nowhere}'),
			   ('opt_out_list', 'reason', '{reason of globex,none}'),
			   ('opt_out_history', 'user_id', '{gina,nobody}'), ('opt_out_history', 'organization', '{globex,nowhere}'),
			   ('opt_out_history', 'opted_in_reason', '{reason of globex,none}'), ('opt_out_history', 'opted_out_actor', '{kim,none}'),
			   ('aliases', 'alias', '{ginas phone,nobody}'), ('aliases', 'user_id', '{gina,nobody}'), ('aliases', 'organization', '{globex,nowhere}'),
			   ('discards', 'organization', '{globex,nowhere}'),
			   ('purges', 'organization', '{globex,nowhere}'), ('purges', 'purged_by', '{admin of globex,nobody}'), ('purges', 'relation', '{public.secret,none}'),
			   ('readable_organization', 'organization', '{globex,nowhere}')) AS v (relation, col, vals);
GRANT SELECT ON probe TO PUBLIC;
SET ROLE regress_nobody;
SELECT relation, col FROM probe WHERE tells_apart;
SELECT tells_apart('optout.opt_out_history', 'user_id', 'bob', 'nobody') AS names_in_statistics;
SET ROLE regress_acme;
SELECT relation, col FROM probe WHERE tells_apart;
-- it is not blind: whoever may read everything sees the difference
SET ROLE regress_all;
SELECT count(*) > 0 AS told FROM probe WHERE tells_apart;
RESET ROLE;
SELECT tablename, attname FROM pg_stats WHERE schemaname = 'optout'
   AND attname IN ('organization', 'user_id', 'display_name', 'email', 'opted_out_by', 'opted_in_by', 'reason', 'role',
				   'alias', 'alias_of', 'linked_by', 'opted_out_actor', 'opted_in_actor', 'opted_in_reason', 'purged_by');

-- Neither tables nor their statistics can be read, locked or referred to.
SET ROLE regress_acme;
SELECT tablename FROM pg_stats WHERE schemaname = 'optout';
BEGIN;
LOCK TABLE optout.opt_out_period IN ACCESS SHARE MODE;
ROLLBACK;
BEGIN;
LOCK TABLE optout.opt_out_list IN EXCLUSIVE MODE;
ROLLBACK;
SELECT * FROM optout.opt_out_list FOR UPDATE;
UPDATE optout.user_list SET opted_out = false;
COPY optout.opt_out_period TO STDOUT;
RESET ROLE;
SET ROLE regress_nobody;
CREATE TABLE public.copycat (organization text, user_id text, FOREIGN KEY (organization, user_id) REFERENCES optout.product_user);
CREATE TABLE public.child () INHERITS (optout.opt_out_period);
CREATE RULE peek AS ON INSERT TO optout.opt_out_period DO INSTEAD NOTHING;
CREATE TRIGGER peek BEFORE INSERT ON optout.opt_out_period FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
CREATE FUNCTION optout.accepts(text) RETURNS boolean LANGUAGE sql AS 'SELECT true';

-- Trigger functions cannot be called, nor attached without EXECUTE; with it, they
-- read no other table's rows for opt-outs.
CREATE TABLE public.mine (organization text, user_id text);
SELECT optout.discard_opted_out();
CREATE TRIGGER optout_guard BEFORE INSERT ON public.mine FOR EACH ROW EXECUTE FUNCTION optout.discard_opted_out();
CREATE TRIGGER optout_filter AFTER INSERT ON public.mine FOR EACH ROW EXECUTE FUNCTION optout.add_to_filter();
SELECT optout.guard('public.mine');
SELECT optout.verify();
CALL optout.settle();
SELECT optout.compact_discards();
RESET ROLE;
SELECT optout.discard_opted_out();
SELECT optout.add_to_filter();

-- search_path, with impostors in front of pg_catalog, changes nothing.
SET ROLE regress_ingest;
SET search_path = pg_temp, public, pg_catalog;
CREATE FUNCTION pg_temp.caught() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'caught as %', current_user; END $$;
CREATE FUNCTION public.yes(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT pg_temp.caught()';
CREATE FUNCTION public.yes(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT pg_temp.caught()';
CREATE FUNCTION public.yes(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql AS 'SELECT pg_temp.caught()';
CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = public.yes);
CREATE OPERATOR public.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = public.yes);
CREATE OPERATOR public.< (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = public.yes);
CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT pg_temp.caught(), 'epoch'::timestamptz; SELECT 'epoch'::timestamptz $$;
CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT pg_temp.caught(); SELECT 'epoch'::timestamptz $$;
CREATE FUNCTION public.unnest(text[]) RETURNS SETOF text LANGUAGE sql AS $$ SELECT pg_temp.caught()::text $$;
CREATE FUNCTION public.pg_has_role(oid, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION public.date_trunc(text, timestamptz, text) RETURNS timestamptz LANGUAGE sql AS $$ SELECT pg_temp.caught(); SELECT 'epoch'::timestamptz $$;
CREATE TEMP TABLE opt_out_period (organization text, user_id text);
CREATE TEMP TABLE pg_extension (extname name, extowner oid);
CREATE TABLE public.event (user_id text, organization text, at timestamptz);
RESET ROLE;
SET search_path = public, pg_catalog;
SET client_min_messages = warning;
SELECT optout.enroll('carol', 'acme'), optout.opt_out('carol', 'acme'), optout.opt_in('carol', 'acme'), optout.sign_in('carol', 'acme');
SELECT optout.enroll('{carol,dave}'::text[], 'acme'), optout.opt_out('{carol,dave}'::text[], 'acme'), optout.opt_in('{carol,dave}'::text[], 'acme'),
	   optout.forget('{carol}'::text[], 'acme'), optout.forget('dave', 'acme');
SELECT optout.guard('public.event', 'user_id', 'organization', 'at');
INSERT INTO event VALUES ('alice', 'globex', NULL), ('alice', 'acme', NULL) RETURNING *;
SELECT optout.accepts('alice', 'globex'), optout.is_opted_out('alice', 'globex', 'infinity'), optout.verify(), optout.compact_discards();
SELECT optout.grant_authority('regress_nobody', 'acme', 'administer'), optout.revoke_authority('regress_nobody', 'acme', 'administer');
CALL optout.settle();
SELECT count(*) FROM optout.user_list;
SELECT count(*) FROM optout.discards;
SELECT relation FROM optout.guarded;
RESET client_min_messages;
RESET search_path;

-- Who may not execute the filter learns nothing from the planner either.
SET ROLE regress_nobody;
EXPLAIN SELECT 1 WHERE optout.accepts('alice', 'globex');
PREPARE ask AS SELECT optout.is_opted_out('alice', 'globex');
EXPLAIN EXECUTE ask;
-- Settings that decide about the filter are not theirs.
SET optout.filter = off;
SET optout.unknown = 1;
RESET ROLE;
-- not even before the library is loaded, which then takes the setting back
\c -
\set VERBOSITY terse
SET client_min_messages = error;
DO $$ BEGIN
	SET ROLE regress_nobody;
	SET optout.filter = off;
EXCEPTION WHEN insufficient_privilege THEN
END $$;
RESET ROLE;
SELECT optout.accepts('alice', 'globex');
SHOW optout.filter;
RESET client_min_messages;

-- Default privileges do not give more than the extension means to.
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;
SELECT optout.unguard('public.event');
DROP EXTENSION optout;
CREATE EXTENSION optout;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM PUBLIC;
SELECT count(*) FILTER (WHERE has_function_privilege('regress_nobody', p.oid, 'EXECUTE')) AS executable FROM pg_proc p
 WHERE p.pronamespace = 'optout'::regnamespace;
SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'optout'::regnamespace AND p.prosecdef
   AND (has_function_privilege('regress_nobody', p.oid, 'EXECUTE') OR
		('search_path=pg_catalog, pg_temp' = ANY (p.proconfig)) IS NOT TRUE);
SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'optout'::regnamespace AND c.relkind = 'r'
   AND has_any_column_privilege('regress_nobody', c.oid, 'SELECT, INSERT, UPDATE, REFERENCES');

-- Nobody else can make or change the extension.
SET ROLE regress_nobody;
ALTER EXTENSION optout UPDATE;
ALTER EXTENSION optout DROP TABLE optout.opt_out_period;
DROP EXTENSION optout;
RESET ROLE;
DROP EXTENSION optout;
SET ROLE regress_nobody;
CREATE EXTENSION optout;
RESET ROLE;

-- nothing of theirs is in the way: it is made all the same
SET client_min_messages = warning;
DROP FUNCTION explain, tells_apart CASCADE;
DROP OWNED BY regress_nobody, regress_ingest CASCADE;
DROP ROLE regress_nobody, regress_acme, regress_all, regress_ingest;
