-- What sqlsmith finds in a database of its own, a copy of that of the other
-- statements.

-- it cannot quote names, nor read a catalog with a table that nobody can read
DROP FOREIGN TABLE fuzz.event_foreign;
DROP TABLE fuzz."Odd ""table'; --";
ALTER TABLE fuzz.event DROP "User Id", DROP "a""b'; --";

CREATE SCHEMA smith;
GRANT USAGE ON SCHEMA smith TO PUBLIC;

-- sqlsmith reads "pg_proc" and "pg_type" from its search_path.  It takes
-- functions at random: the extension's, and about as many of the server's.
CREATE VIEW smith.pg_proc AS
SELECT oid, pronamespace, proname, prokind, proretset, prorettype, proargtypes FROM fuzz.routine WHERE prokind = 'f'
UNION ALL
SELECT oid, pronamespace, proname, prokind, proretset, prorettype, proargtypes FROM pg_catalog.pg_proc
 WHERE pronamespace = 'pg_catalog'::regnamespace
   AND proname IN ('lower', 'md5', 'left', 'array_append', 'cardinality', 'to_regclass', 'to_regrole', 'date_trunc', 'quote_ident', 'hashtext',
	'count', 'max', 'min', 'bool_and', 'array_agg', 'string_agg', 'sum');
-- It does not know that there are no values of these.
CREATE TYPE smith.kind AS ENUM ('a', 'b');
CREATE VIEW smith.pg_type AS
SELECT oid, CASE typname WHEN 'anyenum' THEN 'smith'::regnamespace ELSE typnamespace END AS typnamespace,
	   CASE typname WHEN 'anyrange' THEN 'int4range' WHEN 'anymultirange' THEN 'int4multirange'
	   WHEN 'anyelement' THEN 'int4' WHEN 'anyenum' THEN 'kind' ELSE typname END AS typname,
	   typdelim, typrelid, typelem, typarray, typtype
  FROM pg_catalog.pg_type;

-- Most expressions of sqlsmith are columns, so these have the extension's
-- functions behind them.
CREATE VIEW smith.filtered AS
SELECT e.*, optout.accepts(user_id, organization, at) AS accepted, optout.is_opted_out(user_id, organization, at) AS opted_out
  FROM fuzz.event_plain e
 WHERE optout.accepts(user_id, NULLIF(organization, '*'));
CREATE VIEW smith.filtered_strictly WITH (security_barrier) AS
SELECT e.*, optout.is_opted_out(user_id) AS opted_out
  FROM fuzz.event_part e
 WHERE optout.accepts(user_id, organization, at);
CREATE VIEW smith.reported AS
SELECT r.n, r.relation, optout.is_opted_out(uid, 'acme', at) AS uuid_out, optout.is_opted_out(big, 'acme') AS big_out,
	   optout.accepts(uid, 'default', at) AS uuid_accepted, optout.accepts(big) AS big_accepted,
	   optout.verify() AS missed, (optout.filter_statistics()).shared_filter
  FROM fuzz.row r WHERE n <= 40;
CREATE VIEW smith.administered AS
SELECT m.*, optout.opt_out(user_id, organization, 'smith') AS opted_out, optout.opt_in(user_id, organization) AS opted_in,
	   optout.sign_in(user_id, organization, 'smith') AS signed_in, optout.opt_out(ARRAY[user_id], organization) AS opted_out_many,
	   optout.opt_in(ARRAY[user_id, 'u1'], organization) AS opted_in_many, optout.enroll(user_id, organization)::text AS enrolled
  FROM fuzz.member m WHERE organization IN ('acme', 'default') AND user_id LIKE 'u1%';
CREATE VIEW smith.erased AS
SELECT m.*, optout.forget(user_id, organization, true) AS erased, optout.forget(ARRAY[user_id], organization, true) AS erased_many
  FROM fuzz.member m WHERE organization = 'acme' AND user_id LIKE '%1';
CREATE VIEW smith.guarded AS
SELECT relation, user_id, organization, occurred_at, optout.guard(relation, user_id, organization, occurred_at)::text AS again
  FROM optout.guarded;
GRANT ALL ON ALL TABLES IN SCHEMA smith TO PUBLIC;
-- of no use here
REVOKE ALL ON fuzz.routine, fuzz.template, fuzz.value FROM PUBLIC;
