/*
 * optout 1.2
 */
\echo Use "ALTER EXTENSION optout UPDATE TO '1.2'" to load this file. \quit

----------------------------------------------------------------------
-- Filter and guard
----------------------------------------------------------------------

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
