--
-- The ledger's rows: a session finds its own where it left it, or another one
-- where that has been deleted, moved, or is no longer there
--
CREATE EXTENSION optout;
SELECT optout.enroll('alice'), optout.opt_out('alice');
CREATE TABLE event (user_id text);
SELECT optout.guard('event');
-- not across the end of an hour
DO $$
BEGIN
	PERFORM pg_sleep(30) WHERE date_trunc('hour', clock_timestamp() + interval '30 s') > clock_timestamp();
END $$;
CREATE VIEW counted AS SELECT organization, sum(discarded) AS discarded, count(*) AS nrows
  FROM optout.discard_ledger WHERE hour = date_trunc('hour', now(), 'UTC') GROUP BY 1;

-- so many transactions that their versions would fill many pages
CREATE PROCEDURE discard(transactions int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. transactions LOOP
		INSERT INTO event VALUES ('alice');
		COMMIT;
	END LOOP;
END $$;
CALL discard(10);
SELECT * FROM counted;

-- deleted, and the end of the table cut off
DELETE FROM optout.discard_ledger;
VACUUM optout.discard_ledger;
INSERT INTO event VALUES ('alice');
SELECT * FROM counted;
-- deleted, and rows of other hours and organizations where it was
CALL discard(10);
DELETE FROM optout.discard_ledger;
VACUUM optout.discard_ledger;
INSERT INTO optout.discard_ledger SELECT 'default', '2026-01-01 10:00+00', n, 1 FROM generate_series(1, 30) n;
INSERT INTO event VALUES ('alice');
SELECT * FROM counted;
SELECT hour AT TIME ZONE 'UTC' AS hour, sum(discarded) FROM optout.discard_ledger WHERE hour < '2026-01-02' GROUP BY 1;
CALL discard(10);
DELETE FROM optout.discard_ledger;
VACUUM optout.discard_ledger;
INSERT INTO optout.discard_ledger SELECT 'acme', date_trunc('hour', now(), 'UTC'), n, 1 FROM generate_series(1, 30) n;
INSERT INTO event VALUES ('alice');
SELECT * FROM counted ORDER BY 1;
-- deleted, updated or locked by the same transaction
BEGIN;
DELETE FROM optout.discard_ledger;
INSERT INTO event VALUES ('alice');
COMMIT;
SELECT * FROM counted;
BEGIN;
UPDATE optout.discard_ledger SET discarded = discarded + 100;
INSERT INTO event VALUES ('alice');
COMMIT;
SELECT * FROM counted;
BEGIN;
SELECT discarded FROM optout.discard_ledger FOR UPDATE;
INSERT INTO event VALUES ('alice');
COMMIT;
INSERT INTO event VALUES ('alice');
SELECT organization, discarded FROM counted;
-- moved to another file
VACUUM FULL optout.discard_ledger;
INSERT INTO event VALUES ('alice');
SELECT organization, discarded FROM counted;
CLUSTER optout.discard_ledger USING discard_ledger_pkey;
INSERT INTO event VALUES ('alice');
SELECT organization, discarded FROM counted;
-- truncated, for good and not
BEGIN;
TRUNCATE optout.discard_ledger;
INSERT INTO event VALUES ('alice');
ROLLBACK;
INSERT INTO event VALUES ('alice');
SELECT organization, discarded FROM counted;
BEGIN;
TRUNCATE optout.discard_ledger;
INSERT INTO event VALUES ('alice');
COMMIT;
INSERT INTO event VALUES ('alice');
SELECT * FROM counted;
-- a version that needs entries in the indexes, as one in another page does
CREATE INDEX by_discarded ON optout.discard_ledger (discarded);
CALL discard(10);
SET enable_seqscan = off;
SELECT organization, discarded FROM optout.discard_ledger WHERE discarded BETWEEN 10 AND 20;
SELECT * FROM counted WHERE organization = 'default';
RESET enable_seqscan;
DROP INDEX optout.by_discarded;
TRUNCATE optout.discard_ledger;
-- rolled back after it was written
CREATE FUNCTION fail_at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO event VALUES ('alice');
	IF NEW.user_id = 'fail' THEN
		RAISE division_by_zero;
	END IF;
	RETURN NULL;
END $$;
CREATE TABLE late (user_id text);
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail_at_commit();
\set VERBOSITY terse
INSERT INTO late VALUES ('fine'), ('fail');
INSERT INTO late VALUES ('fine');
SELECT * FROM counted;

-- many organizations in one session: they keep to their rows, since pages have room
-- for versions of all that are in them
INSERT INTO optout.opt_out_period (organization, user_id, opted_out_at, opted_out_by) SELECT 'o' || n, 'alice', now(), 'me' FROM generate_series(1, 300) n;
CREATE PROCEDURE discard_everywhere(transactions int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. transactions LOOP
		PERFORM optout.accepts('alice', 'o' || n) FROM generate_series(1, 300) n;
		COMMIT;
	END LOOP;
END $$;
CALL discard_everywhere(20);
SELECT count(*), min(discarded), max(discarded), sum(nrows) < 1500 AS few_rows FROM counted WHERE organization ~ '^o\d';

-- dropped and made anew
DROP EXTENSION optout CASCADE;
CREATE EXTENSION optout;
SELECT optout.enroll('alice'), optout.opt_out('alice'), optout.guard('event');
INSERT INTO event VALUES ('alice');
SELECT organization, discarded FROM optout.discards;

DROP TABLE event, late;
DROP FUNCTION fail_at_commit;
DROP PROCEDURE discard, discard_everywhere;
DROP EXTENSION optout;
