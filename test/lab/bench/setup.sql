--
-- setup.sql: the functions that the benchmark measures against, and those that
-- make lists and events.
--
--   :module  path of bench_floor.so
--
CREATE EXTENSION optout;
CREATE SCHEMA bench;
ALTER DATABASE postgres SET search_path = bench;
SET search_path = bench;

CREATE FUNCTION cpu() RETURNS bigint AS :'module', 'bench_cpu' LANGUAGE C;
CREATE FUNCTION stay_on(pid int, processor int) RETURNS void AS :'module', 'bench_stay_on' LANGUAGE C;

-- The floors.  Declared as the filter is.
CREATE FUNCTION no_op(user_id text, organization text DEFAULT NULL, occurred_at timestamptz DEFAULT NULL) RETURNS boolean
AS :'module', 'bench_no_op' LANGUAGE C STABLE;
CREATE FUNCTION no_op(user_id bigint, organization text DEFAULT NULL, occurred_at timestamptz DEFAULT NULL) RETURNS boolean
AS :'module', 'bench_no_op' LANGUAGE C STABLE;
CREATE FUNCTION no_op(user_id uuid, organization text DEFAULT NULL, occurred_at timestamptz DEFAULT NULL) RETURNS boolean
AS :'module', 'bench_no_op' LANGUAGE C STABLE;
CREATE FUNCTION floor_memory(bytes bigint) RETURNS void AS :'module', 'bench_floor_memory' LANGUAGE C;
CREATE FUNCTION floor(user_id text) RETURNS boolean AS :'module', 'bench_floor' LANGUAGE C STABLE;
CREATE FUNCTION floor(user_id bigint) RETURNS boolean AS :'module', 'bench_floor_bigint' LANGUAGE C STABLE;
CREATE FUNCTION floor(user_id uuid) RETURNS boolean AS :'module', 'bench_floor_uuid' LANGUAGE C STABLE;
CREATE FUNCTION keep_row() RETURNS trigger AS :'module', 'bench_keep_row' LANGUAGE C;
CREATE FUNCTION floor_row() RETURNS trigger AS :'module', 'bench_floor_row' LANGUAGE C;

-- What one would write by hand.  They ask the extension's own table, so they
-- have the same rows and the same indexes.
CREATE FUNCTION sql_accepts(uid text) RETURNS boolean
LANGUAGE sql STABLE
AS $$
	SELECT NOT EXISTS (SELECT FROM optout.opt_out_period p
	                    WHERE p.organization = 'default' AND p.user_id = uid AND p.opted_in_at IS NULL)
$$;

CREATE FUNCTION plpgsql_discard() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
	IF EXISTS (SELECT FROM optout.opt_out_period p
	            WHERE p.organization = 'default' AND p.user_id = NEW.user_id AND p.opted_in_at IS NULL) THEN
		RETURN NULL;
	END IF;
	RETURN NEW;
END
$$;

-- Ask until the filter has all keys, however many questions it takes.  A session adds
-- keys for 5 milliseconds, and then none for as long, so that it can answer; what it
-- would answer then is not what is measured.  What the filter says of itself takes a
-- while to compute, so that is looked at ever more rarely.
CREATE PROCEDURE until_ready()
LANGUAGE plpgsql
AS $$
DECLARE
	asked bigint := 0;
BEGIN
	LOOP
		PERFORM optout.accepts('nobody');
		COMMIT;
		PERFORM pg_sleep(0.005);
		asked := asked + 1;
		EXIT WHEN asked & (asked - 1) = 0 AND (SELECT shared_filter FROM optout.status) = 'ready';
	END LOOP;
END
$$;

-- Whose an event is, as good as random, yet the same in every run: the id of a
-- user on the list, or of one of a million others.  Text ids have 24 bytes.
CREATE FUNCTION user_id(n bigint, listed boolean, type regtype) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE type WHEN 'bigint'::regtype THEN (hashint8extended(n, listed::int) & 9223372036854775807)::text
                 WHEN 'uuid'::regtype THEN (md5(listed || ' ' || n)::uuid)::text
                 ELSE substr(md5(listed || ' ' || n), 1, 24) END;

CREATE FUNCTION listed(event_id bigint, share numeric) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN (hashint8extended(event_id, 1) & 2147483647) % 10000 < share * 100;

-- how many events are to be stored, without asking any of those who are measured
CREATE FUNCTION kept(events bigint, share numeric) RETURNS bigint
LANGUAGE sql IMMUTABLE
RETURN (SELECT count(*) FROM generate_series(1, events) AS i WHERE NOT listed(i, share));

CREATE PROCEDURE make_list(organization text, users bigint, type regtype)
LANGUAGE plpgsql
AS $$
BEGIN
	TRUNCATE optout.opt_out_period, optout.product_user, optout.discard_ledger;
	INSERT INTO optout.opt_out_period (organization, user_id, opted_out_at, opted_out_by)
	SELECT organization, user_id(n, true, type), now(), current_user FROM generate_series(1, users) AS n;
END
$$;

-- unlogged tables save time here, and are read like any others
CREATE PROCEDURE make_events(name text, events bigint, share numeric, users bigint, type regtype DEFAULT 'text')
LANGUAGE plpgsql SET client_min_messages = warning
AS $$
BEGIN
	EXECUTE format('DROP TABLE IF EXISTS %I', name);
	EXECUTE format($sql$
		CREATE UNLOGGED TABLE %1$I AS
		SELECT i AS event_id,
		       CASE WHEN listed(i, %3$s) THEN user_id(1 + (hashint8extended(i, 2) & 2147483647) %% %4$s, true, '%5$s')
		            ELSE user_id((hashint8extended(i, 3) & 2147483647) %% 1000000, false, '%5$s') END::%5$s AS user_id,
		       '2026-01-01 00:00:00+00'::timestamptz + i * interval '10 ms' AS occurred_at,
		       'page view' AS event
		  FROM generate_series(1, %2$s::bigint) AS i$sql$, name, events, share, users, type);
END
$$;

-- Two tables of stored events, of which one is guarded.  Each run adds those of
-- listed users first, all over the table, where there is room for them.
CREATE PROCEDURE make_stored(events bigint, users bigint, indexed boolean)
LANGUAGE plpgsql SET client_min_messages = warning
AS $$
DECLARE
	name text;
BEGIN
	CALL make_events('event', events, 1, users);
	DROP TABLE IF EXISTS listed_event, purged;
	CREATE TABLE listed_event AS SELECT * FROM event WHERE listed(event_id, 1);
	CREATE TABLE purged AS SELECT array_agg(user_id) AS user_ids FROM optout.opt_out_period;
	FOREACH name IN ARRAY ARRAY['stored', 'stored_guard'] LOOP
		EXECUTE format('DROP TABLE IF EXISTS %I', name);
		EXECUTE format('CREATE TABLE %I AS SELECT * FROM event', name);
		EXECUTE format('DELETE FROM %I WHERE listed(event_id, 1)', name);
		IF indexed THEN
			EXECUTE format('CREATE INDEX ON %I (user_id)', name);
		END IF;
	END LOOP;
	-- the others, which are not needed any more, would be looked into
	PERFORM optout.unguard(relation) FROM optout.guarded;
	PERFORM optout.guard('stored_guard');
END
$$;

-- add the listed users' events, past the guard
CREATE PROCEDURE add_listed(name text)
LANGUAGE plpgsql
AS $$
BEGIN
	EXECUTE format('ALTER TABLE %I DISABLE TRIGGER USER', name);
	EXECUTE format('INSERT INTO %I SELECT * FROM listed_event', name);
	EXECUTE format('ALTER TABLE %I ENABLE TRIGGER USER', name);
	PERFORM optout.repair();
END
$$;

-- the fastest of plain DELETEs: the planner knows the ids
CREATE FUNCTION plain_purge() RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
	deleted bigint;
BEGIN
	EXECUTE 'DELETE FROM stored WHERE user_id = ANY ($1)' USING (SELECT user_ids FROM purged);
	GET DIAGNOSTICS deleted = ROW_COUNT;
	RETURN deleted;
END
$$;

CREATE FUNCTION purge() RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
	ids CONSTANT text[] := (SELECT user_ids FROM purged);
BEGIN
	CALL optout.purge(ids);
	RETURN (SELECT sum(deleted) FROM optout.purge_ledger WHERE purged_at >= now());
END
$$;

-- a peer has to be what its name says
CREATE FUNCTION require_plan(node text, statement text) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
	line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN ' || statement LOOP
		IF line ~ node THEN
			RETURN;
		END IF;
	END LOOP;
	RAISE 'plan has no %: %', node, statement;
END
$$;

-- What is ingested into.
CREATE TABLE logged (event_id bigint PRIMARY KEY, user_id text, occurred_at timestamptz, event text);
CREATE TABLE logged_no_op (LIKE logged INCLUDING ALL);
CREATE TABLE logged_floor (LIKE logged INCLUDING ALL);
CREATE TABLE logged_guard (LIKE logged INCLUDING ALL);
CREATE TABLE logged_plpgsql (LIKE logged INCLUDING ALL);
CREATE TABLE logged_one (LIKE logged INCLUDING ALL, anonymous_id text);
CREATE TABLE logged_two (LIKE logged_one INCLUDING ALL);
CREATE TABLE logged_json (event_id bigint PRIMARY KEY, payload jsonb);
CREATE TABLE logged_path (LIKE logged_json INCLUDING ALL);
CREATE TABLE single (LIKE logged INCLUDING ALL);
CREATE TRIGGER keep_row BEFORE INSERT ON logged_no_op FOR EACH ROW EXECUTE FUNCTION keep_row();
CREATE TRIGGER floor_row BEFORE INSERT ON logged_floor FOR EACH ROW EXECUTE FUNCTION floor_row();
CREATE TRIGGER discard BEFORE INSERT ON logged_plpgsql FOR EACH ROW EXECUTE FUNCTION plpgsql_discard();
SELECT optout.guard('logged_guard'), optout.guard('single'), optout.guard('logged_one'),
       optout.guard('logged_two', ARRAY['user_id', 'anonymous_id']), optout.guard('logged_path', ARRAY['$.user.id'], payload => 'payload');

-- the extension's columns, constraints and indexes, but no trigger
CREATE TABLE plain_period (LIKE optout.opt_out_period INCLUDING ALL);

-- Users to be opted out while others ingest, or stored elsewhere; no event is theirs.
CREATE SEQUENCE busy_user;
CREATE TABLE busy (LIKE optout.opt_out_period INCLUDING ALL);

-- What is read before and after.  Elapsed time is in nanoseconds, too.
CREATE VIEW clock AS
SELECT cpu() AS cpu, (extract(epoch FROM clock_timestamp()) * 1000000000)::bigint AS elapsed,
       (pg_current_wal_insert_lsn() - '0/0')::bigint AS wal, last_value AS opt_outs
  FROM busy_user;

-- Row-level security hides rows from readers; it cannot discard events, for an
-- INSERT that violates a policy is an error.  So it is measured by reading.
CREATE ROLE bench_reader;
GRANT USAGE ON SCHEMA bench TO bench_reader;
GRANT SELECT ON optout.opt_out_period, clock TO bench_reader;
