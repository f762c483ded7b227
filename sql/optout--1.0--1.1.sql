/*
 * optout 1.1: how far the adding of keys has come after a start.
 */
\echo Use "ALTER EXTENSION optout UPDATE TO '1.1'" to load this file. \quit

CREATE FUNCTION optout.load_progress()
RETURNS double precision
AS 'MODULE_PATHNAME', 'optout_load_progress' LANGUAGE C;
COMMENT ON FUNCTION optout.load_progress() IS
'What the view optout.status shows as load_progress.';
REVOKE ALL ON FUNCTION optout.load_progress() FROM PUBLIC;
-- the view's reader needs it
GRANT EXECUTE ON FUNCTION optout.load_progress() TO PUBLIC;

-- Replaced, not made anew: what others have built on it stays.
CREATE OR REPLACE VIEW optout.status AS
SELECT s.shared_filter, s.memory, s.keys, s.false_positive_rate,
	   s.lookups_filter, s.lookups_cache, s.lookups_memo, s.lookups_table,
	   optout.load_progress() AS load_progress
  FROM optout.filter_statistics() s;
COMMENT ON COLUMN optout.status.load_progress IS
'While shared_filter is ''loading'': which share of the table another session has read to add its keys, from 0 to 1; the last state where that session was interrupted.';
