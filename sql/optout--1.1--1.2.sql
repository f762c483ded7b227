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

-- It gets an argument and stays the same procedure, so that grants and comments
-- stay.  An overload would be ambiguous.
CREATE PROCEDURE optout.settle_with_timeout(timeout interval DEFAULT NULL)
AS 'MODULE_PATHNAME', 'optout_settle' LANGUAGE C;
UPDATE pg_catalog.pg_proc p
   SET pronargs = n.pronargs, proargtypes = n.proargtypes, proargnames = n.proargnames,
	   pronargdefaults = n.pronargdefaults, proargdefaults = n.proargdefaults
  FROM pg_catalog.pg_proc n
 WHERE p.oid = 'optout.settle()'::pg_catalog.regprocedure
   AND n.oid = 'optout.settle_with_timeout(interval)'::pg_catalog.regprocedure;
DROP PROCEDURE optout.settle_with_timeout(interval);
COMMENT ON PROCEDURE optout.settle(interval) IS
'Wait until every transaction that asked the filter before the call has ended. After it, no event that was let through before an earlier opt-out can still be committed by the transaction that asked. Nobody waits for it. Error 55000 naming those still running when the timeout is over (NULL: never; ''0'': at once). Error 25001 in a transaction that has written or has asked the filter itself.';

----------------------------------------------------------------------
-- The ledger
----------------------------------------------------------------------

-- Rows stay in their page, so there must be room for another version of each.
ALTER TABLE optout.discard_ledger SET (fillfactor = 45);

----------------------------------------------------------------------
-- Views, checks and repair
----------------------------------------------------------------------

COMMENT ON COLUMN optout.status.shared_filter IS
'''ready''; ''loading'' while this database''s keys are being added, which sessions that ask do a few milliseconds at a time; ''no room'' where the filter serves 256 other databases; ''absent'' where there is no shared memory for it: optout.filter_memory is 0, or the library is not in shared_preload_libraries and the server is older than 17 or cannot spare it; ''off'' by the setting optout.filter; ''not used'' on a standby, or if the trigger optout_filter does not fire always. Answers are right in any case, but only ''ready'' is fast.';
COMMENT ON COLUMN optout.status.load_progress IS
'While shared_filter is ''loading'': which share of the table has been read to add its keys, from 0 to 1; see optout.progress.';
COMMENT ON COLUMN optout.progress.pid IS
'Process that runs the command, as in pg_stat_activity; of ''add keys'', with which sessions go on in turns, the one that did so last.';
COMMENT ON COLUMN optout.discards.hour IS 'Start of the hour in which the transactions that discarded them were committed or prepared, whenever the events occurred.';
COMMENT ON COLUMN optout.status.false_positive_rate IS 'Estimated share of users never opted out for whom the memo or the table has to be asked, to four digits.';
COMMENT ON FUNCTION optout.verify() IS
'How many rows of optout.opt_out_period the shared filter would miss; anything but 0 is a bug. It reads the whole table. For the owner of the extension and whom they grant EXECUTE, who need nothing else.';
