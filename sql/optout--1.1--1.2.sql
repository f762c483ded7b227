/*
 * optout 1.2
 */
\echo Use "ALTER EXTENSION optout UPDATE TO '1.2'" to load this file. \quit

----------------------------------------------------------------------
-- Filter and guard
----------------------------------------------------------------------

COMMENT ON FUNCTION optout.unguard(regclass) IS
'Take all guards off an event table, by whatever name somebody gave them. Error 42704 where there is none.';

----------------------------------------------------------------------
-- Waiting for those who ingest
----------------------------------------------------------------------

----------------------------------------------------------------------
-- Views, checks and repair
----------------------------------------------------------------------

CREATE FUNCTION optout.repair()
RETURNS bigint
AS 'MODULE_PATHNAME', 'optout_repair' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.repair() IS
'Let guards, and the trigger optout_filter of optout.opt_out_period, fire always again where they do not, as after pg_restore --disable-triggers: of tables, partitions and inheritance children alike. Alters nothing else. Returns how many it has put back. For superusers and the owner of the extension.';
REVOKE ALL ON FUNCTION optout.repair() FROM PUBLIC;

-- The filter compares the text of what a column holds with the id, byte for byte,
-- so an id in any other form than its column's matches nothing.
CREATE VIEW optout.unmatchable WITH (security_barrier) AS
WITH RECURSIVE guard_column (type, typmod) AS (
	SELECT a.atttypid, a.atttypmod
	  FROM optout.guarded g
		   JOIN pg_catalog.pg_attribute a ON a.attrelid = g.relation AND a.attname = g.user_id
	 UNION
	SELECT t.typbasetype, GREATEST(c.typmod, t.typtypmod)
	  FROM guard_column c
		   JOIN pg_catalog.pg_type t ON t.oid = c.type AND t.typtype = 'd'
)
SELECT u.organization, u.user_id, u.opted_out
  FROM (SELECT l.organization, l.user_id, l.opted_out FROM optout.user_list l
		 UNION
		SELECT l.organization, l.user_id, true FROM optout.opt_out_list l) u
 WHERE EXISTS (SELECT FROM guard_column)
   AND NOT EXISTS
	   (SELECT
		  FROM guard_column c
		 WHERE CASE c.type
			   WHEN 'text'::pg_catalog.regtype THEN true
			   WHEN 'varchar'::pg_catalog.regtype THEN
					c.typmod < 0 OR pg_catalog.char_length(u.user_id) <= c.typmod - 4
			   WHEN 'bpchar'::pg_catalog.regtype THEN
					(c.typmod < 0 OR pg_catalog.char_length(u.user_id) <= c.typmod - 4)
					AND pg_catalog.right(u.user_id, 1) <> ' '
			   WHEN 'name'::pg_catalog.regtype THEN
					pg_catalog.octet_length(u.user_id) <= pg_catalog.current_setting('max_identifier_length')::integer
			   WHEN 'uuid'::pg_catalog.regtype THEN
					u.user_id ~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
			   WHEN 'bigint'::pg_catalog.regtype THEN
					CASE WHEN u.user_id ~ '^(0|-?[1-9][0-9]{0,18})$' THEN u.user_id::numeric BETWEEN -9223372036854775808 AND 9223372036854775807 END
			   WHEN 'integer'::pg_catalog.regtype THEN
					CASE WHEN u.user_id ~ '^(0|-?[1-9][0-9]{0,9})$' THEN u.user_id::numeric BETWEEN -2147483648 AND 2147483647 END
			   WHEN 'smallint'::pg_catalog.regtype THEN
					CASE WHEN u.user_id ~ '^(0|-?[1-9][0-9]{0,4})$' THEN u.user_id::numeric BETWEEN -32768 AND 32767 END
			   END);
COMMENT ON VIEW optout.unmatchable IS
'Users of your organizations whose id no guarded column can hold, such as ''007'' where all are bigint, or a uuid in capitals: no event will ever match them. Empty where no table is guarded.';
COMMENT ON COLUMN optout.unmatchable.organization IS 'Organization of the user.';
COMMENT ON COLUMN optout.unmatchable.user_id IS 'The id that no guarded column can hold.';
COMMENT ON COLUMN optout.unmatchable.opted_out IS 'Whether the user is opted out now, and so believed to be protected.';
REVOKE ALL ON optout.unmatchable FROM PUBLIC;
GRANT SELECT ON optout.unmatchable TO PUBLIC;
