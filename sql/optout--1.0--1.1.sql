/*
 * optout 1.1: how far long commands have come, and how far other servers are
 * behind this one.
 */
\echo Use "ALTER EXTENSION optout UPDATE TO '1.1'" to load this file. \quit

-- It stays so small that it would never be analyzed, and the planner takes a table
-- that it knows nothing of for a large one: queries of the views on a large site
-- would pass for expensive ones, and be compiled.
ALTER TABLE optout.authority SET (autovacuum_analyze_threshold = 0, autovacuum_analyze_scale_factor = 0);

CREATE FUNCTION optout.load_progress()
RETURNS double precision
AS 'MODULE_PATHNAME', 'optout_load_progress' LANGUAGE C;
COMMENT ON FUNCTION optout.load_progress() IS
'What the view optout.status shows as load_progress.';
CREATE FUNCTION optout.command_progress(OUT pid integer, OUT command text, OUT phase text, OUT done bigint, OUT total bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'optout_command_progress' LANGUAGE C;
COMMENT ON FUNCTION optout.command_progress() IS
'What the view optout.progress shows.';
REVOKE ALL ON FUNCTION optout.load_progress(), optout.command_progress() FROM PUBLIC;
-- the views' reader needs them
GRANT EXECUTE ON FUNCTION optout.load_progress(), optout.command_progress() TO PUBLIC;

CREATE VIEW optout.progress AS
SELECT p.pid, p.command, p.phase, p.done, p.total
  FROM optout.command_progress() p;
COMMENT ON VIEW optout.progress IS
'How far commands have come that are running in this database: the adding of keys after a start, and administration of 1000 users or more by one call. It names nobody. Not seen are those for which there is no shared memory, and more than 64 at once on the server.';
COMMENT ON COLUMN optout.progress.pid IS 'Process that runs the command, as in pg_stat_activity.';
COMMENT ON COLUMN optout.progress.command IS '''add keys'', ''enroll'', ''opt out'', ''opt in'', or ''forget''.';
COMMENT ON COLUMN optout.progress.phase IS
'What it is doing. ''add keys'': ''reading the table''. The others, in this order as far as they need to: ''locking users'', ''locking periods'', ''locking open periods''; ''writing users'', ''writing periods'' or ''deleting''; ''updating the filter''.';
COMMENT ON COLUMN optout.progress.done IS 'How much of total is done in this phase. While the command looks for users to lock, and while it writes or deletes, it stays 0.';
COMMENT ON COLUMN optout.progress.total IS 'How much there is to do in this phase, at most: when reading the table its blocks, else users; when deleting and then updating the filter, periods.';
REVOKE ALL ON optout.progress FROM PUBLIC;
GRANT SELECT ON optout.progress TO PUBLIC;

-- Who has applied what.  A subscriber is known by its slot, which says what the
-- subscriber has confirmed; its first copy of a table by a slot that the server
-- names.  A standby is known by its connection, which says what it has replayed,
-- and while there is none by its slot, which does not.  Who receives without
-- applying, as pg_receivewal does, is no replica.
CREATE VIEW optout.replicas AS
SELECT r.name, r.kind, r.connected, r.applied,
	   CASE WHEN r.applied IS NOT NULL THEN
			GREATEST(pg_catalog.pg_wal_lsn_diff(
				CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END,
				r.applied), 0)::bigint
	   END AS lag
  FROM (SELECT s.slot_name::text AS name,
			   CASE WHEN s.slot_name::text ~ '^pg_[0-9]+_sync_[0-9]+_' THEN 'initial copy' ELSE 'subscriber' END AS kind,
			   s.active AS connected,
			   CASE WHEN s.slot_name::text !~ '^pg_[0-9]+_sync_[0-9]+_' THEN s.confirmed_flush_lsn END AS applied
		  FROM pg_catalog.pg_replication_slots s
		 WHERE s.slot_type = 'logical' AND s.plugin = 'pgoutput'
		   AND s.database = pg_catalog.current_database()
		 UNION ALL
		SELECT COALESCE(s.slot_name::text, w.application_name), 'standby', true, w.replay_lsn
		  FROM pg_catalog.pg_stat_replication w
			   LEFT JOIN pg_catalog.pg_replication_slots s ON s.active_pid = w.pid
		 WHERE s.slot_type IS DISTINCT FROM 'logical' AND w.application_name !~ '^pg_[0-9]+_sync_[0-9]+_'
		   AND COALESCE(w.state, 'streaming') IN ('catchup', 'streaming')
		   AND NOT (w.write_lsn IS NOT NULL AND w.replay_lsn IS NULL)
		 UNION ALL
		SELECT s.slot_name::text, 'standby', false, NULL
		  FROM pg_catalog.pg_replication_slots s
		 WHERE s.slot_type = 'physical' AND NOT s.active) r;
COMMENT ON VIEW optout.replicas IS
'Who receives this server''s opt-outs: subscribers of this database by logical replication, and streaming standbys. A standby without a slot is seen only while it is connected.';
COMMENT ON COLUMN optout.replicas.name IS 'Name of the replication slot (a subscriber''s is named after its subscription), or the application_name of a standby that uses none.';
COMMENT ON COLUMN optout.replicas.kind IS '''subscriber'', ''standby'', or ''initial copy'' of a table by a subscriber.';
COMMENT ON COLUMN optout.replicas.connected IS 'Whether it is connected now.';
COMMENT ON COLUMN optout.replicas.applied IS 'Changes up to here are in force there; NULL where unknown: during the initial copy, for a standby that is not connected, and for a standby where the reader is no member of pg_monitor.';
COMMENT ON COLUMN optout.replicas.lag IS 'How much write-ahead log, in bytes, it has yet to apply, of other changes too; NULL where unknown.';
REVOKE ALL ON optout.replicas FROM PUBLIC;
GRANT SELECT ON optout.replicas TO PUBLIC;

CREATE PROCEDURE optout.settle_replicas(timeout interval DEFAULT NULL, names text[] DEFAULT NULL)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	target CONSTANT pg_lsn := CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END;
	deadline CONSTANT timestamptz := clock_timestamp() + timeout;
	unknown text;
	behind text;
BEGIN
	IF pg_current_xact_id_if_assigned() IS NOT NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'active_sql_transaction',
			MESSAGE = 'optout.settle_replicas() cannot run in a transaction that has written',
			DETAIL = 'Replicas receive nothing of it before it is committed.',
			HINT = 'Commit first.';
	END IF;
	SELECT n INTO unknown FROM unnest(names) AS n
	 WHERE n IS NULL OR NOT EXISTS (SELECT FROM optout.replicas r WHERE r.name = n) LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'undefined_object',
			MESSAGE = format('replica %s does not exist', COALESCE(quote_ident(unknown), 'NULL')),
			HINT = 'See the view optout.replicas.';
	END IF;
	LOOP
		-- or a transaction keeps seeing the connections it has seen first
		PERFORM pg_stat_clear_snapshot();
		SELECT string_agg(r.name, ', ' ORDER BY r.name) INTO behind
		  FROM (SELECT name, applied FROM optout.replicas WHERE names IS NULL
				 UNION ALL
				SELECT n, (SELECT min(r.applied) FROM optout.replicas r WHERE r.name = n) FROM unnest(names) AS n) AS r
		 WHERE r.applied IS NULL OR r.applied < target;
		EXIT WHEN behind IS NULL;
		IF clock_timestamp() >= deadline THEN
			RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
				MESSAGE = format('replicas have not applied all changes within %s', timeout),
				DETAIL = format('Behind: %s.', behind),
				HINT = 'See the view optout.replicas.';
		END IF;
		PERFORM pg_sleep(0.02);
	END LOOP;
END
$$;
COMMENT ON PROCEDURE optout.settle_replicas(interval, text[]) IS
'Wait until all of optout.replicas, or those named, have applied whatever was committed before the call; after it, an opt-out committed before is in force there. Error 55000 naming those behind when the timeout is over (NULL: never; ''0'': at once).';
REVOKE ALL ON PROCEDURE optout.settle_replicas(interval, text[]) FROM PUBLIC;
-- it tells nothing that the view does not
GRANT EXECUTE ON PROCEDURE optout.settle_replicas(interval, text[]) TO PUBLIC;

-- Replaced, not made anew: what others have built on it stays.
CREATE OR REPLACE VIEW optout.status AS
SELECT s.shared_filter, s.memory, s.keys, s.false_positive_rate,
	   s.lookups_filter, s.lookups_cache, s.lookups_memo, s.lookups_table,
	   optout.load_progress() AS load_progress,
	   (SELECT pg_catalog.jsonb_object_agg(r.name, r.lag ORDER BY r.lag) FROM optout.replicas r WHERE r.name IS NOT NULL) AS replica_lag
  FROM optout.filter_statistics() s;
COMMENT ON COLUMN optout.status.load_progress IS
'While shared_filter is ''loading'': which share of the table another session has read to add its keys, from 0 to 1; see optout.progress.';
COMMENT ON COLUMN optout.status.replica_lag IS
'How much write-ahead log, in bytes, each of optout.replicas has yet to apply; null where unknown. NULL where there is none.';
