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

COMMENT ON COLUMN optout.discards.hour IS 'Start of the hour in which the transactions that discarded them were committed or prepared, whenever the events occurred.';
COMMENT ON COLUMN optout.status.false_positive_rate IS 'Estimated share of users never opted out for whom the memo or the table has to be asked, to four digits.';
COMMENT ON FUNCTION optout.verify() IS
'How many rows of optout.opt_out_period the shared filter would miss; anything but 0 is a bug. It reads the whole table. For the owner of the extension and whom they grant EXECUTE, who need nothing else.';
