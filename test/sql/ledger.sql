--
-- The ledger: how many events were discarded, wherever the filter stands
--
CREATE EXTENSION optout;
SELECT optout.enroll('{alice,bob,carol}'::text[]);
SELECT optout.opt_out('{alice,bob}'::text[]);
SELECT optout.enroll('{alice,bob}'::text[], 'acme'), optout.opt_out('alice', 'acme');

CREATE TABLE event (user_id text, what text, organization text);
CREATE TABLE guarded (user_id text);
SELECT optout.guard('guarded');

-- What has been counted since the last time.
CREATE TABLE seen (organization text, discarded bigint);
CREATE FUNCTION counted() RETURNS text LANGUAGE sql AS $$
	WITH now AS (SELECT organization, sum(discarded) AS discarded FROM optout.discards GROUP BY 1),
	old AS (DELETE FROM seen RETURNING *),
	new AS (INSERT INTO seen SELECT * FROM now)
	SELECT COALESCE(string_agg(now.organization || ' ' || now.discarded - COALESCE(old.discarded, 0), ', ' ORDER BY now.organization)
					FILTER (WHERE now.discarded > COALESCE(old.discarded, 0)), 'none')
	  FROM now LEFT JOIN old USING (organization)
$$;
SELECT counted();

-- each place in which it can stand
COPY event (user_id) FROM STDIN WHERE optout.accepts(user_id);
alice
carol
bob
alice
\.
SELECT counted() AS copy_where;
COPY guarded FROM STDIN;
alice
carol
\.
SELECT counted() AS copy_guarded;
INSERT INTO event SELECT u FROM unnest('{alice,bob,carol}'::text[]) u WHERE optout.accepts(u);
SELECT counted() AS insert_select;
INSERT INTO guarded VALUES ('alice'), ('bob'), ('carol');
SELECT counted() AS guard;
UPDATE guarded SET user_id = 'alice' WHERE user_id = 'carol';
SELECT counted() AS guard_on_update;
CREATE TABLE copied AS SELECT u FROM unnest('{alice,carol}'::text[]) u WHERE optout.accepts(u);
SELECT counted() AS create_table_as;
PREPARE ingest (text) AS INSERT INTO event SELECT $1 WHERE optout.accepts($1);
EXECUTE ingest ('alice');
EXECUTE ingest ('carol');
EXECUTE ingest ('bob');
SELECT counted() AS prepared_statement;
DO $$
BEGIN
	FOR i IN 1 .. 10 LOOP
		IF optout.accepts(CASE WHEN i % 2 = 0 THEN 'alice' ELSE 'carol' END) THEN
			INSERT INTO event VALUES ('carol');
		END IF;
	END LOOP;
END $$;
SELECT counted() AS plpgsql;
BEGIN;
DECLARE c CURSOR FOR SELECT u FROM unnest('{alice,carol,bob,bob}'::text[]) u WHERE optout.accepts(u);
FETCH c;
COMMIT;
SELECT counted() AS cursor_read_in_part;
CREATE PROCEDURE ingest() LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO guarded VALUES ('alice');
	COMMIT;
	INSERT INTO guarded VALUES ('alice');
	ROLLBACK;
	INSERT INTO guarded VALUES ('alice'), ('bob');
END $$;
CALL ingest();
SELECT counted() AS procedure_that_commits;

-- organizations, one of them by the setting
COPY event FROM STDIN WHERE optout.accepts(user_id, organization);
alice	1	acme
bob	2	acme
alice	3	\N
carol	4	acme
\.
SELECT counted() AS organizations;
SET optout.organization = 'acme';
INSERT INTO guarded VALUES ('alice'), ('bob');
RESET optout.organization;
SELECT counted() AS by_setting;

-- what is rolled back does not count
BEGIN;
INSERT INTO guarded VALUES ('alice');
ROLLBACK;
SELECT counted() AS rolled_back;
BEGIN;
INSERT INTO guarded VALUES ('alice');
SAVEPOINT a;
INSERT INTO guarded VALUES ('alice'), ('bob');
SAVEPOINT b;
INSERT INTO guarded VALUES ('alice');
ROLLBACK TO a;
SELECT counted() AS not_yet;
INSERT INTO guarded VALUES ('bob');
SAVEPOINT c;
SAVEPOINT d;
INSERT INTO guarded VALUES ('alice'), ('alice');
SELECT optout.accepts('alice', 'acme');
RELEASE c;
COMMIT;
SELECT counted() AS savepoints;
DO $$
BEGIN
	INSERT INTO guarded VALUES ('alice');
	BEGIN
		INSERT INTO guarded VALUES ('alice'), ('bob');
		BEGIN
			INSERT INTO guarded VALUES ('bob');
		END;
		RAISE division_by_zero;
	EXCEPTION WHEN division_by_zero THEN
		INSERT INTO guarded VALUES ('alice');
		BEGIN
			INSERT INTO guarded VALUES ('bob');
		EXCEPTION WHEN OTHERS THEN
			NULL;
		END;
	END;
END $$;
SELECT counted() AS exception_blocks;
COPY event (user_id, what) FROM STDIN WHERE optout.accepts(user_id);
alice	1
alice	2	too many columns
\.
SELECT counted() AS failed_copy;

-- a read-only transaction counts nothing, and is no error
BEGIN READ ONLY;
SELECT optout.accepts('alice');
COMMIT;
SELECT counted() AS read_only;
BEGIN;
INSERT INTO guarded VALUES ('alice');
SET TRANSACTION READ ONLY;
COMMIT;
SELECT counted() AS read_only_later;

-- nor does planning, which looks at what STABLE functions return
EXPLAIN (COSTS OFF) SELECT FROM event WHERE (what IS NULL) = optout.accepts('alice');
SELECT counted() AS planned_only;
SELECT count(*) FROM event WHERE optout.is_opted_out('alice');
SELECT counted() AS report;

-- conditions beside it decide first, so that nothing counts that they leave out
INSERT INTO event SELECT 'alice', n::text FROM generate_series(1, 10) n
 WHERE optout.accepts('alice' || left(n::text, 0)) AND (n % 5 = 0 OR n * 2 = 6 OR abs(n - 100) < length('x'));
SELECT counted() AS conditions;

-- any isolation level; deferred triggers come before the count
BEGIN ISOLATION LEVEL REPEATABLE READ;
INSERT INTO guarded VALUES ('alice');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
INSERT INTO guarded VALUES ('alice');
COMMIT;
SELECT counted() AS isolation_levels;
CREATE FUNCTION ingest_later() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO guarded VALUES (NEW.user_id);
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER later AFTER INSERT ON event DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION ingest_later();
INSERT INTO event VALUES ('alice'), ('carol');
SELECT counted() AS deferred_trigger;

-- one row for each slot and hour, and old hours can be made one row each
SELECT count(*) = count(DISTINCT (organization, hour)) AS one_row_each FROM optout.discard_ledger;
INSERT INTO optout.discard_ledger VALUES
	('default', '2026-01-01 10:00+00', 1, 5), ('default', '2026-01-01 10:00+00', 2, 6), ('default', '2026-01-01 10:00+00', -7, 7),
	('acme', '2026-01-01 10:00+00', 1, 1), ('default', '2026-01-01 11:00+00', 1, 8), ('default', '2026-01-01 11:00+00', 2, 9);
SET timezone = 'Asia/Kolkata';
SELECT optout.compact_discards('2026-01-01 11:59+00');
RESET timezone;
SELECT organization, hour AT TIME ZONE 'UTC' AS hour, slot, discarded FROM optout.discard_ledger
 WHERE hour < '2026-01-02' ORDER BY 2, 1, 3;
SELECT optout.compact_discards();
SELECT optout.compact_discards();
SELECT organization, hour AT TIME ZONE 'UTC' AS hour, discarded FROM optout.discard_ledger
 WHERE hour < '2026-01-02' ORDER BY 2, 1;
-- hours that have not ended are left alone
INSERT INTO optout.discard_ledger SELECT 'default', date_trunc('hour', now()) + interval '1 hour', slot, 1 FROM generate_series(1, 2) slot;
SELECT optout.compact_discards('infinity');
SELECT optout.compact_discards('-infinity');

-- dropped by the transaction that discards
BEGIN;
INSERT INTO guarded VALUES ('alice');
DROP EXTENSION optout CASCADE;
COMMIT;
DROP TABLE event, guarded, seen, copied;
DROP FUNCTION counted, ingest_later;
DROP PROCEDURE ingest;
