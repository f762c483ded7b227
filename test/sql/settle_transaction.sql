--
-- settle() where it could not keep its promise: an error or a warning; and its
-- timeout
--
CREATE EXTENSION optout;
SELECT optout.enroll('{alice,bob}'::text[]);
CREATE TABLE event (user_id text);

-- nobody to wait for, with and without a timeout
CALL optout.settle();
CALL optout.settle(NULL);
CALL optout.settle('0');
CALL optout.settle(timeout => '-1 s');
CALL optout.settle('1 month');

-- an opt-out that is not committed is not in force
\set SHOW_CONTEXT never
BEGIN;
SELECT optout.opt_out('alice');
\set VERBOSITY sqlstate
CALL optout.settle();
\set VERBOSITY default
ROLLBACK;
\set AUTOCOMMIT off
SELECT optout.opt_out('alice');
CALL optout.settle('1 s');
ROLLBACK;
SELECT optout.opt_out('alice');
COMMIT;
CALL optout.settle();
COMMIT;
\set AUTOCOMMIT on
SELECT optout.opt_in('alice') \; CALL optout.settle();
SELECT user_id FROM optout.opt_out_list;
-- nor one that was made in a subtransaction
BEGIN;
SAVEPOINT s;
SELECT optout.opt_in('alice');
RELEASE s;
CALL optout.settle();
ROLLBACK;

-- a transaction that has asked would have to wait for itself
BEGIN;
SELECT optout.accepts('bob');
CALL optout.settle();
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT optout.accepts('bob');
ROLLBACK TO s;
CALL optout.settle();
ROLLBACK;
-- a report is no question of an event
BEGIN;
SELECT optout.is_opted_out('bob');
CALL optout.settle();
COMMIT;

-- procedures: what was committed before counts
CREATE PROCEDURE purge(who text, commit_first boolean) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM optout.opt_out(who);
	IF commit_first THEN
		COMMIT;
	END IF;
	CALL optout.settle();
	DELETE FROM event WHERE user_id = who;
END $$;
CALL purge('bob', false);
CALL purge('bob', true);
SELECT user_id FROM optout.opt_out_list ORDER BY 1;

-- the isolation level: what follows in the same transaction does not see all
BEGIN ISOLATION LEVEL REPEATABLE READ;
CALL optout.settle();
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
CALL optout.settle('1 s');
COMMIT;
BEGIN;
CALL optout.settle();
COMMIT;
SET default_transaction_isolation = 'repeatable read';
DO 'BEGIN CALL optout.settle(); DELETE FROM event; END';
RESET default_transaction_isolation;
DO 'BEGIN CALL optout.settle(); DELETE FROM event; END';

DROP TABLE event;
DROP PROCEDURE purge;
DROP EXTENSION optout;
