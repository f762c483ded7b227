-- What CREATE EXTENSION makes, and what PUBLIC may do with it.
\set VERBOSITY terse
CREATE SCHEMA optout;
CREATE EXTENSION optout;        -- somebody else's schema is not taken over
DROP SCHEMA optout;
CREATE EXTENSION optout SCHEMA public;
CREATE EXTENSION optout;
ALTER EXTENSION optout SET SCHEMA public;
\set VERBOSITY default

SELECT extversion, extnamespace::regnamespace, extrelocatable FROM pg_extension WHERE extname = 'optout';

-- Functions: name, arguments, result, volatility, parallel safety
SELECT p.proname AS function, pg_get_function_arguments(p.oid) AS arguments,
       pg_get_function_result(p.oid) AS result, p.provolatile AS vol, p.proparallel AS par
  FROM pg_proc p WHERE p.pronamespace = 'optout'::regnamespace
 ORDER BY p.proname, pg_get_function_arguments(p.oid) COLLATE "C";

-- Tables and views: columns, types
SELECT c.relname AS relation, c.relkind AS kind,
       string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
                  || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END, ', ' ORDER BY a.attnum) AS columns
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
 WHERE c.relnamespace = 'optout'::regnamespace AND c.relkind IN ('r', 'v')
 GROUP BY 1, 2 ORDER BY 2, 1;

-- All identifier columns are compared byte for byte.
SELECT a.attrelid::regclass, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
 WHERE c.relnamespace = 'optout'::regnamespace AND c.relkind = 'r'
   AND a.attname IN ('organization', 'user_id', 'alias', 'alias_of') AND a.attcollation <> '"C"'::regcollation;

-- Every table, view, column and function says what it is.
SELECT c.oid::regclass, a.attname
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND (a.attnum > 0 OR a.attname = 'tableoid')
 WHERE c.relnamespace = 'optout'::regnamespace AND c.relkind IN ('r', 'v')
   AND col_description(c.oid, GREATEST(a.attnum, 0)) IS NULL;
SELECT c.oid::regclass FROM pg_class c
 WHERE c.relnamespace = 'optout'::regnamespace AND c.relkind IN ('r', 'v')
   AND obj_description(c.oid, 'pg_class') IS NULL;
SELECT p.oid::regprocedure FROM pg_proc p
 WHERE p.pronamespace = 'optout'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL;
SELECT obj_description('optout'::regnamespace, 'pg_namespace') IS NOT NULL AS schema_commented;

-- One event trigger
SELECT evtname, evtevent, evtenabled, evtfoid::regproc, evttags, obj_description(oid, 'pg_event_trigger') IS NOT NULL AS commented FROM pg_event_trigger;

-- All tables are dumped.
SELECT c.oid::regclass, x.cond
  FROM pg_extension e, unnest(e.extconfig, e.extcondition) AS x (tab, cond) JOIN pg_class c ON c.oid = x.tab
 WHERE e.extname = 'optout' ORDER BY c.relname;

-- PUBLIC reads the views; it executes nothing but what status and progress show and
-- waiting for replicas, and touches no table.
CREATE ROLE regress_nobody;
SELECT c.oid::regclass AS relation, p.privilege
  FROM pg_class c, unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) AS p (privilege)
 WHERE c.relnamespace = 'optout'::regnamespace AND c.relkind IN ('r', 'v')
   AND has_table_privilege('regress_nobody', c.oid, p.privilege) ORDER BY c.relname, 2;
SELECT p.oid::regprocedure FROM pg_proc p
 WHERE p.pronamespace = 'optout'::regnamespace
   AND has_function_privilege('regress_nobody', p.oid, 'EXECUTE')
 ORDER BY p.oid::regprocedure::text COLLATE "C";
SELECT has_schema_privilege('regress_nobody', 'optout', 'CREATE') AS create_in_schema;

-- Whatever a site's default privileges give, PUBLIC gets no more.
DROP EXTENSION optout;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO PUBLIC;
CREATE EXTENSION optout;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON SCHEMAS FROM PUBLIC;
SELECT c.oid::regclass AS relation, p.privilege
  FROM pg_class c, unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) AS p (privilege)
 WHERE c.relnamespace = 'optout'::regnamespace AND c.relkind IN ('r', 'v')
   AND has_table_privilege('regress_nobody', c.oid, p.privilege) ORDER BY c.relname, 2;
SELECT has_schema_privilege('regress_nobody', 'optout', 'CREATE') AS create_in_schema;

-- Elevated functions pin their search_path.
SELECT p.oid::regprocedure FROM pg_proc p
 WHERE p.pronamespace = 'optout'::regnamespace
   AND p.proname !~ '^(accepts|is_opted_out|discard_opted_out|store_event|add_to_filter|refuse_aliases|filter_statistics|load_progress|command_progress|committed_lsn|json_id)'
   AND p.proconfig IS DISTINCT FROM '{"search_path=pg_catalog, pg_temp"}';

DROP ROLE regress_nobody;
DROP EXTENSION optout;
