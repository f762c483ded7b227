/*
 * optout 1.2
 */
\echo Use "ALTER EXTENSION optout UPDATE TO '1.2'" to load this file. \quit

----------------------------------------------------------------------
-- Filter and guard
----------------------------------------------------------------------

-- Sessions have to learn that periods have changed, which the server tells them as
-- it tells of a changed relation.  For the table itself each of them would have to
-- read its definition anew; nobody ever opens this one.
CREATE TYPE optout.period_change AS ();
COMMENT ON TYPE optout.period_change IS
'Not a type for use: stands for a change of optout.opt_out_period in messages between sessions.';
REVOKE ALL ON TYPE optout.period_change FROM PUBLIC;
-- Sessions look for it when the table's definition changes, as it does here.  Nobody
-- may write before they have been told to.
LOCK TABLE optout.opt_out_period IN SHARE ROW EXCLUSIVE MODE;
ALTER TABLE optout.opt_out_period ALTER COLUMN reason SET STATISTICS 0;

----------------------------------------------------------------------
-- Waiting for those who ingest
----------------------------------------------------------------------

----------------------------------------------------------------------
-- Views, checks and repair
----------------------------------------------------------------------

COMMENT ON COLUMN optout.status.shared_filter IS
'''ready''; ''loading'' while this database''s keys are being added, which sessions that ask do a few milliseconds at a time; ''no room'' where the filter serves 256 other databases; ''absent'' where there is no shared memory for it: optout.filter_memory is 0, or the library is not in shared_preload_libraries and the server is older than 17 or cannot spare it; ''off'' by the setting optout.filter; ''not used'' on a standby, or if the trigger optout_filter does not fire always. Answers are right in any case, but only ''ready'' is fast.';
COMMENT ON COLUMN optout.status.load_progress IS
'While shared_filter is ''loading'': which share of the table has been read to add its keys, from 0 to 1; see optout.progress.';
COMMENT ON COLUMN optout.progress.pid IS
'Process that runs the command, as in pg_stat_activity; of ''add keys'', with which sessions go on in turns, the one that did so last.';
