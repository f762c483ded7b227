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
'Not for use as a type. It stands for optout.opt_out_period in the messages by which sessions tell each other that periods have changed.';
REVOKE ALL ON TYPE optout.period_change FROM PUBLIC;
-- Sessions look for it when the table's definition changes, as it does below by a
-- command that keeps writers off until sessions have been told: ADD COLUMN.

-- Sessions that have loaded the library of 1.1 do not, and would go by what they
-- remember.  So the filter gets new symbols, which that library does not have.
CREATE OR REPLACE FUNCTION optout.accepts(user_id text, organization text DEFAULT NULL, occurred_at timestamptz DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'optout_accepts_text_1_2' LANGUAGE C STABLE PARALLEL UNSAFE
SUPPORT optout.accepts_support;
CREATE OR REPLACE FUNCTION optout.accepts(user_id uuid, organization text DEFAULT NULL, occurred_at timestamptz DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'optout_accepts_uuid_1_2' LANGUAGE C STABLE PARALLEL UNSAFE
SUPPORT optout.accepts_support;
CREATE OR REPLACE FUNCTION optout.accepts(user_id bigint, organization text DEFAULT NULL, occurred_at timestamptz DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'optout_accepts_bigint_1_2' LANGUAGE C STABLE PARALLEL UNSAFE
SUPPORT optout.accepts_support;
CREATE OR REPLACE FUNCTION optout.is_opted_out(user_id text, organization text DEFAULT NULL, at timestamptz DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'optout_is_opted_out_text_1_2' LANGUAGE C STABLE PARALLEL SAFE
SUPPORT optout.is_opted_out_support;
CREATE OR REPLACE FUNCTION optout.is_opted_out(user_id uuid, organization text DEFAULT NULL, at timestamptz DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'optout_is_opted_out_uuid_1_2' LANGUAGE C STABLE PARALLEL SAFE
SUPPORT optout.is_opted_out_support;
CREATE OR REPLACE FUNCTION optout.is_opted_out(user_id bigint, organization text DEFAULT NULL, at timestamptz DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'optout_is_opted_out_bigint_1_2' LANGUAGE C STABLE PARALLEL SAFE
SUPPORT optout.is_opted_out_support;

-- One column of ids as before, or several, or paths into documents.  varchar, because
-- with text, calls of the other form would be ambiguous.
CREATE FUNCTION optout.guard(relation regclass, user_ids text[], organization varchar DEFAULT NULL,
							 occurred_at varchar DEFAULT NULL, payload name DEFAULT NULL,
							 time_zone text DEFAULT NULL, fixed_organization text DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME', 'optout_guard_array' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.guard(regclass, text[], varchar, varchar, name, text, text) IS
'Guard an event table whose rows name their user in several places: an event is discarded, and counted once, if any of its ids is opted out. A name that begins with $ is a path into the json or jsonb column payload, such as $.user.id. time_zone is the zone of times that do not name one. fixed_organization: all events of the table are of this organization, whatever the setting of the writing session.';
REVOKE ALL ON FUNCTION optout.guard(regclass, text[], varchar, varchar, name, text, text) FROM PUBLIC;

-- The same function under a new symbol: where a session still has the library of
-- 1.1, which would read only one of several columns, it fails.
CREATE OR REPLACE FUNCTION optout.discard_opted_out()
RETURNS trigger
AS 'MODULE_PATHNAME', 'optout_discard_event' LANGUAGE C;

CREATE FUNCTION optout.guard_columns(guard oid, OUT user_id name, OUT organization name, OUT occurred_at name,
									 OUT user_ids text[], OUT payload name, OUT time_zone text, OUT fixed_organization text, OUT gap text)
AS 'MODULE_PATHNAME', 'optout_guard_columns' LANGUAGE C STABLE STRICT
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.guard_columns(oid) IS
'What the views optout.guarded and optout.unguarded show of a trigger.';
REVOKE ALL ON FUNCTION optout.guard_columns(oid) FROM PUBLIC;
-- the view's reader needs it
GRANT EXECUTE ON FUNCTION optout.guard_columns(oid) TO PUBLIC;

-- The chunks of TimescaleDB's hypertables are inheritance children, to which it
-- copies the hypertable's triggers, those of later chunks without ENABLE ALWAYS.
-- A hypertable is listed once, with whatever the weakest of its chunks does.
CREATE OR REPLACE VIEW optout.guarded WITH (security_barrier) AS
SELECT t.tgrelid::regclass AS relation, g.user_id, g.organization, g.occurred_at,
	   CASE COALESCE((SELECT pg_catalog.min(c.tgenabled::text) FILTER (WHERE c.tgenabled <> 'A')
						FROM pg_catalog.pg_trigger c
							 JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.tgrelid
							 JOIN pg_catalog.pg_class k ON k.oid = c.tgrelid
					   WHERE t.tgenabled = 'A' AND i.inhparent = t.tgrelid AND c.tgfoid = t.tgfoid
						 AND k.relnamespace = pg_catalog.to_regnamespace('_timescaledb_internal')), t.tgenabled::text)
			WHEN 'A' THEN 'always' WHEN 'O' THEN 'origin' WHEN 'R' THEN 'replica' ELSE 'never' END AS fires,
	   g.user_ids, g.payload, g.time_zone, g.fixed_organization,
	   t.tgname ~ '^optout_guard_rule(_[0-9]+)?$' AS by_rule
  FROM pg_catalog.pg_trigger t
	   CROSS JOIN LATERAL optout.guard_columns(t.oid) g
 WHERE t.tgfoid = 'optout.discard_opted_out()'::pg_catalog.regprocedure
   AND (t.tgparentid = 0 OR t.tgenabled <> 'A')
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_class k
						  JOIN pg_catalog.pg_inherits i ON i.inhrelid = k.oid
						  JOIN pg_catalog.pg_trigger p ON p.tgrelid = i.inhparent
					WHERE k.oid = t.tgrelid AND p.tgfoid = t.tgfoid
					  AND k.relnamespace = pg_catalog.to_regnamespace('_timescaledb_internal'));
COMMENT ON VIEW optout.guarded IS
'Event tables under optout.guard(), and what the guard reads of their rows; also partitions whose guard somebody altered.';
COMMENT ON COLUMN optout.guarded.user_id IS 'Column that holds the user''s id; NULL where the guard reads several ids, or a path: see user_ids.';
COMMENT ON COLUMN optout.guarded.organization IS 'Column or path that holds the organization; NULL where fixed_organization or else the setting optout.organization counts.';
COMMENT ON COLUMN optout.guarded.occurred_at IS 'Column or path that holds the time of the event; NULL where it is not looked at.';
COMMENT ON COLUMN optout.guarded.fires IS '''always'', as optout.guard() leaves it; anything else means that somebody altered the trigger, or that TimescaleDB has made chunks since, and events may get past it.';
COMMENT ON COLUMN optout.guarded.user_ids IS 'All columns and paths that hold ids of the event''s user.';
COMMENT ON COLUMN optout.guarded.payload IS 'Column of type json or jsonb that the paths lead into; NULL where there are none.';
COMMENT ON COLUMN optout.guarded.time_zone IS 'Time zone of times that do not name one.';
COMMENT ON COLUMN optout.guarded.fixed_organization IS 'Organization of all events of the table; NULL where the column organization or the setting optout.organization counts.';
COMMENT ON COLUMN optout.guarded.by_rule IS 'Whether a rule for tables to come has made the guard; see optout.guard_schema().';

COMMENT ON FUNCTION optout.unguard(regclass) IS
'Remove all guards from an event table, whatever their names. Error 42704 where there is none.';

-- Rules for tables to come; see src/rules.c.  By the schema's name, because pg_upgrade
-- takes no regnamespace, and so that a rule goes for a schema that is made again.
CREATE TABLE optout.guard_rule (
	schema name NOT NULL,
	user_ids text[] NOT NULL,
	organization text COLLATE pg_catalog."C",
	occurred_at text,
	payload name,
	time_zone text,
	fixed_organization text,
	CONSTRAINT guard_rule_pkey PRIMARY KEY (schema)
) USING heap;
COMMENT ON TABLE optout.guard_rule IS
'Rules for tables to come. Written by optout.guard_schema() and optout.unguard_schema() only.';
COMMENT ON COLUMN optout.guard_rule.schema IS 'Schema whose tables are guarded, by its name.';
COMMENT ON COLUMN optout.guard_rule.user_ids IS 'Columns and paths that hold ids of an event''s user; a table is guarded by those that it has.';
COMMENT ON COLUMN optout.guard_rule.organization IS 'Column or path that holds the organization; a table without the column is not guarded.';
COMMENT ON COLUMN optout.guard_rule.occurred_at IS 'Column or path that holds the time of the event; left out where a table has none.';
COMMENT ON COLUMN optout.guard_rule.payload IS 'Column of type json or jsonb that the paths lead into.';
COMMENT ON COLUMN optout.guard_rule.time_zone IS 'Time zone of times that do not name one.';
COMMENT ON COLUMN optout.guard_rule.fixed_organization IS 'Organization of all events.';
REVOKE ALL ON optout.guard_rule FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('optout.guard_rule', '');

CREATE VIEW optout.guard_rules WITH (security_barrier) AS
SELECT r.schema, r.user_ids, r.organization, r.occurred_at, r.payload, r.time_zone, r.fixed_organization
  FROM optout.guard_rule r;
COMMENT ON VIEW optout.guard_rules IS
'Rules for tables to come, as optout.guard_schema() has made them; the schemas need not exist.';
COMMENT ON COLUMN optout.guard_rules.schema IS 'Schema whose tables are guarded, by its name.';
COMMENT ON COLUMN optout.guard_rules.user_ids IS 'Columns and paths that hold ids of an event''s user; a table is guarded by those that it has.';
COMMENT ON COLUMN optout.guard_rules.organization IS 'Column or path that holds the organization; NULL where fixed_organization or else the setting optout.organization counts.';
COMMENT ON COLUMN optout.guard_rules.occurred_at IS 'Column or path that holds the time of the event; NULL where it is not looked at.';
COMMENT ON COLUMN optout.guard_rules.payload IS 'Column of type json or jsonb that the paths lead into; NULL where there are none.';
COMMENT ON COLUMN optout.guard_rules.time_zone IS 'Time zone of times that do not name one.';
COMMENT ON COLUMN optout.guard_rules.fixed_organization IS 'Organization of all events; NULL where the column organization or the setting optout.organization counts.';
REVOKE ALL ON optout.guard_rules FROM PUBLIC;
GRANT SELECT ON optout.guard_rules TO PUBLIC;

CREATE FUNCTION optout.guard_schema(schema regnamespace, user_ids text[] DEFAULT ARRAY['user_id'], organization varchar DEFAULT NULL,
									occurred_at varchar DEFAULT NULL, payload name DEFAULT NULL,
									time_zone text DEFAULT NULL, fixed_organization text DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME', 'optout_guard_schema' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.guard_schema(regnamespace, text[], varchar, varchar, name, text, text) IS
'Guard every table of a schema that has any of the columns, by the columns that it has. From then on, also guard every table that anybody creates there, moves there, or gives such a column. The arguments are those of optout.guard(). Calling it again replaces the rule. A NOTICE names a column that none of the tables has. What cannot be guarded is a WARNING, and a fault in optout.unguarded. Waits for transactions that have created tables there. For superusers and the owner of the extension.';

CREATE FUNCTION optout.unguard_schema(schema name)
RETURNS void
AS 'MODULE_PATHNAME', 'optout_unguard_schema' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.unguard_schema(name) IS
'End the rule for a schema, which need not exist any more. The guards that it has made stay. Error 42704 where there is none. For superusers and the owner of the extension.';

CREATE FUNCTION optout.apply_rules()
RETURNS event_trigger
AS 'MODULE_PATHNAME', 'optout_apply_rules' LANGUAGE C SECURITY DEFINER
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.apply_rules() IS
'Event trigger function that guards tables for which there is a rule.';
REVOKE ALL ON FUNCTION optout.guard_schema(regnamespace, text[], varchar, varchar, name, text, text),
	optout.unguard_schema(name), optout.apply_rules() FROM PUBLIC;

-- It stores as the writer and fires their triggers, under their search_path.
CREATE FUNCTION optout.store_event()
RETURNS trigger
AS 'MODULE_PATHNAME', 'optout_store_event' LANGUAGE C;
COMMENT ON FUNCTION optout.store_event() IS
'Trigger function of the views that optout.guard_view() creates.';
REVOKE ALL ON FUNCTION optout.store_event() FROM PUBLIC;

CREATE FUNCTION optout.guard_view(relation regclass, view text)
RETURNS void
AS 'MODULE_PATHNAME', 'optout_guard_view' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.guard_view(regclass, text) IS
'Create a view of an event table through which every event counts as inserted, RETURNING included, while only the accepted ones are stored. A name without a schema is created in the schema of the table. Call it again after columns, names or defaults of the table have changed. A role that inserts needs INSERT on the view and on the table. Needs ownership of the table.';
REVOKE ALL ON FUNCTION optout.guard_view(regclass, text) FROM PUBLIC;

----------------------------------------------------------------------
-- Waiting for those who ingest
----------------------------------------------------------------------

-- It gets an argument and stays the same procedure, so that grants and comments
-- stay.  An overload would be ambiguous.
CREATE PROCEDURE optout.settle_with_timeout(timeout interval DEFAULT NULL)
AS 'MODULE_PATHNAME', 'optout_settle_1_2' LANGUAGE C;
UPDATE pg_catalog.pg_proc p
   SET pronargs = n.pronargs, proargtypes = n.proargtypes, proargnames = n.proargnames,
	   pronargdefaults = n.pronargdefaults, proargdefaults = n.proargdefaults, prosrc = n.prosrc
  FROM pg_catalog.pg_proc n
 WHERE p.oid = 'optout.settle()'::pg_catalog.regprocedure
   AND n.oid = 'optout.settle_with_timeout(interval)'::pg_catalog.regprocedure;
DROP PROCEDURE optout.settle_with_timeout(interval);
COMMENT ON PROCEDURE optout.settle(interval) IS
'Wait until every transaction that asked the filter before the call has ended. After it, no event that was let through before an earlier opt-out can still be committed by the transaction that asked. It also waits for transactions that change or vacuum optout.opt_out_period. Nobody waits for it. Error 55000 naming those still running when the timeout is over (NULL: never; ''0'': at once). Error 25001 in a transaction that has written or has asked the filter itself.';

----------------------------------------------------------------------
-- The ledger
----------------------------------------------------------------------

-- Rows stay in their page, so there must be room for another version of each.
ALTER TABLE optout.discard_ledger SET (fillfactor = 45);

----------------------------------------------------------------------
-- Many servers
----------------------------------------------------------------------

CREATE FUNCTION optout.committed_lsn()
RETURNS pg_lsn
AS 'MODULE_PATHNAME', 'optout_committed_lsn' LANGUAGE C;
COMMENT ON FUNCTION optout.committed_lsn() IS
'What optout.settle_replicas() waits for: a position in the write-ahead log that comes after all transactions committed by now, and that replicas can confirm.';
REVOKE ALL ON FUNCTION optout.committed_lsn() FROM PUBLIC;
-- settle_replicas() needs it
GRANT EXECUTE ON FUNCTION optout.committed_lsn() TO PUBLIC;

-- What a slot is for, the publisher cannot know: every slot of pgoutput or pglogical
-- counts, unless the setting names it.
CREATE OR REPLACE VIEW optout.replicas AS
SELECT r.name, r.kind, r.connected, r.applied,
	   CASE WHEN r.applied IS NOT NULL THEN
			GREATEST(pg_catalog.pg_wal_lsn_diff(
				CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_flush_lsn() END,
				r.applied), 0)::bigint
	   END AS lag
  FROM (SELECT s.slot_name::text AS name,
			   CASE WHEN s.slot_name::text ~ '^pg_[0-9]+_sync_[0-9]+_' THEN 'initial copy' ELSE 'subscriber' END AS kind,
			   s.active AS connected,
			   CASE WHEN s.slot_name::text !~ '^pg_[0-9]+_sync_[0-9]+_' THEN s.confirmed_flush_lsn END AS applied
		  FROM pg_catalog.pg_replication_slots s
		 WHERE s.slot_type = 'logical' AND s.plugin IN ('pgoutput', 'pglogical_output')
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
		 WHERE s.slot_type = 'physical' AND NOT s.active) r
 WHERE r.name IS NULL
	OR r.name <> ALL (pg_catalog.regexp_split_to_array(COALESCE(pg_catalog.current_setting('optout.no_replicas', true), ''), '[ ,]+'));
COMMENT ON VIEW optout.replicas IS
'Who receives this server''s opt-outs: subscribers of this database by logical replication or pglogical, and streaming standbys, except those that the setting optout.no_replicas names. A standby without a slot is seen only while it is connected. Only a subscriber itself knows whether it has begun to copy the table: see the view optout.status there.';

CREATE OR REPLACE PROCEDURE optout.settle_replicas(timeout interval DEFAULT NULL, names text[] DEFAULT NULL)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	target pg_lsn;
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
	target := optout.committed_lsn();
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
				HINT = 'See the view optout.replicas. Name what receives no opt-outs in the setting optout.no_replicas.';
		END IF;
		PERFORM pg_sleep(0.02);
	END LOOP;
END
$$;

-- The upper half of a slot says which server and database the row belongs to; see
-- src/ledger.c.
ALTER TABLE optout.discard_ledger ALTER COLUMN slot TYPE bigint;
COMMENT ON COLUMN optout.discard_ledger.slot IS 'Which of several rows of the hour, so that ingesting sessions do not wait for each other; view optout.discards adds them up. The upper 32 bits stand for the server and database that discarded; 0, or the sign of a negative number, where version 1.1 or older did.';

CREATE OR REPLACE FUNCTION optout.compact_discards(before timestamptz DEFAULT NULL)
RETURNS bigint
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
	WITH removed AS (
		DELETE FROM optout.discard_ledger l
		 WHERE l.hour < date_trunc('hour', LEAST(before, clock_timestamp()), 'UTC')
		   AND EXISTS (SELECT FROM optout.discard_ledger other
						WHERE other.organization = l.organization AND other.hour = l.hour
						  AND GREATEST(other.slot >> 32, 0) = GREATEST(l.slot >> 32, 0)
						  AND other.slot <> l.slot)
		RETURNING l.organization, l.hour, l.slot, l.discarded
	), added AS (
		INSERT INTO optout.discard_ledger (organization, hour, slot, discarded)
		SELECT r.organization, r.hour, min(r.slot), sum(r.discarded)
		  FROM removed r
		 GROUP BY r.organization, r.hour, GREATEST(r.slot >> 32, 0)
		RETURNING 1
	)
	SELECT (SELECT count(*) FROM removed) - (SELECT count(*) FROM added)
$$;
COMMENT ON FUNCTION optout.compact_discards(timestamptz) IS
'Merge the rows of optout.discard_ledger to one for each organization, hour and server, of hours that ended before the given time (NULL: all but the current hour). Returns how many rows fewer there are. For the owner of the extension, and for roles with EXECUTE on it.';


----------------------------------------------------------------------
-- Links: other ids of a user
----------------------------------------------------------------------

-- A subscriber that lacks a column which its publisher sends stops for ever.  Where
-- the extension is being created, nobody has its tables yet.
DO $$
DECLARE
	publication text;
BEGIN
	SELECT p.pubname INTO publication
	  FROM pg_catalog.pg_publication p
	 WHERE p.puballtables
		OR EXISTS (SELECT FROM pg_catalog.pg_publication_rel r
					WHERE r.prpubid = p.oid AND r.prrelid = 'optout.opt_out_period'::regclass AND r.prattrs IS NULL)
		OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace n
					WHERE n.pnpubid = p.oid AND n.pnnspid = 'optout'::regnamespace)
	 ORDER BY p.pubname LIMIT 1;
	IF publication IS NOT NULL
	   AND pg_catalog.current_setting('optout.subscribers_updated', true) IS DISTINCT FROM 'on'
	   AND EXISTS (SELECT FROM pg_catalog.pg_replication_slots s
					WHERE s.slot_type = 'logical' AND s.database = pg_catalog.current_database())
	   AND EXISTS (SELECT FROM pg_catalog.pg_namespace n
					WHERE n.nspname = 'optout' AND pg_catalog.age(n.xmin) > 0) THEN
		RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
			MESSAGE = pg_catalog.format('publication %I sends all columns of table optout.opt_out_period', publication),
			DETAIL = 'The update adds columns, and a subscriber that does not have them stops.',
			HINT = 'Update optout on all subscribers first, then SET optout.subscribers_updated = on and try again; or give the publication a column list.';
	END IF;
END
$$;

ALTER TABLE optout.opt_out_period
	ADD COLUMN alias_of text COLLATE pg_catalog."C"
		CONSTRAINT opt_out_period_alias_of_check CHECK (alias_of <> user_id),
	ADD COLUMN opted_out_actor text,
	ADD COLUMN opted_in_actor text,
	ADD COLUMN opted_in_reason text;
ALTER TABLE optout.opt_out_period
	ALTER COLUMN alias_of SET STATISTICS 0, ALTER COLUMN opted_out_actor SET STATISTICS 0,
	ALTER COLUMN opted_in_actor SET STATISTICS 0, ALTER COLUMN opted_in_reason SET STATISTICS 0;
COMMENT ON TABLE optout.opt_out_period IS
'Who is and was opted out: state, history and audit trail in one. One row a period [opted_out_at, opted_in_at); opted_in_at IS NULL is the open one. Each alias has a copy of each of its user''s rows. Written by optout.opt_out(), optout.opt_in(), optout.forget(), optout.link() and optout.unlink() only.';
COMMENT ON COLUMN optout.opt_out_period.user_id IS 'The user opted out, or an alias of theirs.';
COMMENT ON COLUMN optout.opt_out_period.alias_of IS 'Where user_id is an alias: the user whose row this is a copy of. NULL in a user''s own row.';
COMMENT ON COLUMN optout.opt_out_period.opted_out_actor IS 'Setting optout.actor of the session that opted the user out; nobody vouches for it.';
COMMENT ON COLUMN optout.opt_out_period.opted_in_actor IS 'Setting optout.actor of the session that opted the user in again; nobody vouches for it.';
COMMENT ON COLUMN optout.opt_out_period.opted_in_reason IS 'Reason given with the opt-in, if any.';

CREATE TABLE optout.user_alias (
	organization text COLLATE pg_catalog."C" NOT NULL,
	alias text COLLATE pg_catalog."C" NOT NULL,
	user_id text COLLATE pg_catalog."C" NOT NULL,
	linked_at timestamptz NOT NULL,
	linked_by text NOT NULL,
	reason text,
	CONSTRAINT user_alias_pkey PRIMARY KEY (organization, alias),
	CONSTRAINT user_alias_organization_check
		CHECK (organization NOT IN ('', '*') AND pg_catalog.octet_length(organization) <= 1024),
	CONSTRAINT user_alias_alias_check
		CHECK (alias <> '' AND pg_catalog.octet_length(alias) <= 1024 AND alias <> user_id),
	CONSTRAINT user_alias_user_id_check
		CHECK (user_id <> '' AND pg_catalog.octet_length(user_id) <= 1024)
) USING heap;
CREATE INDEX user_alias_user_id_idx ON optout.user_alias (organization, user_id);
ALTER TABLE optout.user_alias
	ALTER COLUMN organization SET STATISTICS 0, ALTER COLUMN alias SET STATISTICS 0,
	ALTER COLUMN user_id SET STATISTICS 0, ALTER COLUMN linked_by SET STATISTICS 0,
	ALTER COLUMN reason SET STATISTICS 0;
COMMENT ON TABLE optout.user_alias IS
'Other ids of users: device, anonymous and hashed ids. An alias belongs to one user, who need not be in the directory any more. Written by optout.link(), optout.unlink() and optout.forget() only.';
COMMENT ON COLUMN optout.user_alias.organization IS 'Organization the user belongs to.';
COMMENT ON COLUMN optout.user_alias.alias IS 'The other id, compared byte for byte.';
COMMENT ON COLUMN optout.user_alias.user_id IS 'User whose id it is.';
COMMENT ON COLUMN optout.user_alias.linked_at IS 'When it was linked.';
COMMENT ON COLUMN optout.user_alias.linked_by IS 'Role that linked it.';
COMMENT ON COLUMN optout.user_alias.reason IS 'Reason given with the link, if any.';
SELECT pg_catalog.pg_extension_config_dump('optout.user_alias', '');

-- An id is a user or an alias, not both.  Rows that replication brings are not checked.
CREATE FUNCTION optout.refuse_aliases()
RETURNS trigger
AS 'MODULE_PATHNAME', 'optout_refuse_aliases' LANGUAGE C;
COMMENT ON FUNCTION optout.refuse_aliases() IS
'Trigger function of optout.product_user that refuses ids which are aliases.';
CREATE TRIGGER optout_aliases AFTER INSERT OR UPDATE OF organization, user_id ON optout.product_user
	FOR EACH ROW EXECUTE FUNCTION optout.refuse_aliases();

-- Whoever deletes old periods need not know of aliases; see src/links.c.
CREATE FUNCTION optout.delete_alias_periods()
RETURNS trigger
AS 'MODULE_PATHNAME', 'optout_delete_alias_periods' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.delete_alias_periods() IS
'Trigger function of optout.opt_out_period that deletes the copies of a row together with it.';
CREATE TRIGGER optout_aliases AFTER DELETE ON optout.opt_out_period
	FOR EACH ROW WHEN (OLD.alias_of IS NULL) EXECUTE FUNCTION optout.delete_alias_periods();

CREATE FUNCTION optout.link(user_id text, aliases text[], organization text DEFAULT NULL, reason text DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'optout_link' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.link(text, text[], text, text) IS
'Make other ids aliases of a user: they are opted out whenever the user is or was. Returns how many were newly linked. Error 42704 for a user who is neither in the directory nor opted out, 23505 for an id that is another user''s alias, or a user, 55000 for one that was opted out by itself.';

CREATE FUNCTION optout.link(user_ids text[], aliases text[], organization text DEFAULT NULL, reason text DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'optout_link_array' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.link(text[], text[], text, text) IS
'Make each id in aliases an alias of the user at the same position in user_ids, all or none. Returns how many were newly linked. Errors as for one user, and 2202E where the arrays differ in length.';

CREATE FUNCTION optout.unlink(aliases text[], organization text DEFAULT NULL, force boolean DEFAULT false)
RETURNS bigint
AS 'MODULE_PATHNAME', 'optout_unlink' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.unlink(text[], text, boolean) IS
'Take aliases away from their users, all or none. Returns how many of the ids were aliases. Error 55000 while the user of one is opted out, unless force => true, after which events of that id are accepted again.';

-- They act on a user's aliases as well now.  A session that still has the older
-- library gets an error, because it would leave these out.
CREATE OR REPLACE FUNCTION optout.opt_out(user_id text, organization text DEFAULT NULL, reason text DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'optout_opt_out_1_2' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
CREATE OR REPLACE FUNCTION optout.opt_out(user_ids text[], organization text DEFAULT NULL, reason text DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'optout_opt_out_array_1_2' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
CREATE OR REPLACE FUNCTION optout.forget(user_id text, organization text DEFAULT NULL, force boolean DEFAULT false)
RETURNS boolean
AS 'MODULE_PATHNAME', 'optout_forget_1_2' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
CREATE OR REPLACE FUNCTION optout.forget(user_ids text[], organization text DEFAULT NULL, force boolean DEFAULT false)
RETURNS bigint
AS 'MODULE_PATHNAME', 'optout_forget_array_1_2' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.opt_out(text, text, text) IS
'Opt a user, with all aliases, out of tracking. True where newly opted out, false where they already were (then nothing changes). Error 42704 for a user the directory does not hold.';
COMMENT ON FUNCTION optout.opt_out(text[], text, text) IS
'Opt users, with all aliases, out of tracking, all or none. Returns how many users were newly opted out. Error 42704 for a user the directory does not hold.';
COMMENT ON FUNCTION optout.forget(text, text, boolean) IS
'Erase a person: their directory row, aliases and all their opt-out periods. True where there was something to erase. Error 55000 while the user is opted out, unless force => true, after which their events are accepted again.';
COMMENT ON FUNCTION optout.forget(text[], text, boolean) IS
'Erase persons, all or none: directory rows, aliases and opt-out periods. Returns how many persons had something to erase. Error 55000 while one is opted out, unless force => true, after which their events are accepted again.';

CREATE OR REPLACE FUNCTION optout.verify()
RETURNS bigint
AS 'MODULE_PATHNAME', 'optout_verify_1_2' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.verify() IS
'How many rows of optout.opt_out_period the shared filter would miss, and how many aliases have other periods than their user or are enrolled as a user themselves. Anything but 0 means a bug, or that somebody has written to the tables directly. It reads the whole table. For the owner of the extension, and for roles with EXECUTE on it, which need no other privilege.';

-- purge() looks for a user's aliases by their periods as well: a subscriber has no others.
CREATE INDEX opt_out_period_alias_of_idx ON optout.opt_out_period (organization, alias_of)
	WHERE alias_of IS NOT NULL;

REVOKE ALL ON optout.user_alias FROM PUBLIC;
REVOKE ALL ON FUNCTION optout.refuse_aliases(), optout.delete_alias_periods(),
	optout.link(text, text[], text, text), optout.link(text[], text[], text, text),
	optout.unlink(text[], text, boolean) FROM PUBLIC;

----------------------------------------------------------------------
-- What was stored before
----------------------------------------------------------------------

CREATE TABLE optout.purge_ledger (
	purged_at timestamptz NOT NULL,
	purged_by text NOT NULL,
	organization text COLLATE pg_catalog."C" NOT NULL,
	relation text NOT NULL,
	deleted bigint NOT NULL,
	CONSTRAINT purge_ledger_organization_check
		CHECK (organization NOT IN ('', '*') AND pg_catalog.octet_length(organization) <= 1024),
	CONSTRAINT purge_ledger_deleted_check CHECK (deleted >= 0)
) USING heap;
CREATE INDEX purge_ledger_organization_idx ON optout.purge_ledger (organization, purged_at);
ALTER TABLE optout.purge_ledger
	ALTER COLUMN organization SET STATISTICS 0, ALTER COLUMN purged_by SET STATISTICS 0,
	ALTER COLUMN relation SET STATISTICS 0;
COMMENT ON TABLE optout.purge_ledger IS
'How many events optout.purge() has deleted: a row for each guarded table that it looked into. It never says whose they were.';
COMMENT ON COLUMN optout.purge_ledger.purged_at IS 'When they had been deleted; the same for all tables of a call.';
COMMENT ON COLUMN optout.purge_ledger.purged_by IS 'Role that called optout.purge().';
COMMENT ON COLUMN optout.purge_ledger.organization IS 'Organization of the users.';
COMMENT ON COLUMN optout.purge_ledger.relation IS 'Name of the table at that time, with its schema.';
COMMENT ON COLUMN optout.purge_ledger.deleted IS 'Number of events deleted, which may be 0.';
SELECT pg_catalog.pg_extension_config_dump('optout.purge_ledger', '');
REVOKE ALL ON optout.purge_ledger FROM PUBLIC;

CREATE VIEW optout.purges WITH (security_barrier) AS
SELECT p.purged_at, p.purged_by, p.organization, p.relation, p.deleted
  FROM optout.purge_ledger p
 WHERE EXISTS (SELECT FROM optout.readable_organization r WHERE r.organization = '*')
UNION ALL
SELECT o.*
  FROM optout.readable_organization r
	   CROSS JOIN LATERAL
	   (SELECT p.purged_at, p.purged_by, p.organization, p.relation, p.deleted
		  FROM optout.purge_ledger p
		 WHERE p.organization = r.organization
		OFFSET 0) o
 WHERE NOT EXISTS (SELECT FROM optout.readable_organization r WHERE r.organization = '*');
COMMENT ON VIEW optout.purges IS
'How many events of your organizations optout.purge() has deleted, a row for each call and guarded table; never whose.';
COMMENT ON COLUMN optout.purges.purged_at IS 'When they had been deleted; the same for all tables of a call.';
COMMENT ON COLUMN optout.purges.purged_by IS 'Role that called optout.purge().';
COMMENT ON COLUMN optout.purges.organization IS 'Organization of the users.';
COMMENT ON COLUMN optout.purges.relation IS 'Name of the table at that time, with its schema.';
COMMENT ON COLUMN optout.purges.deleted IS 'Number of events deleted, which may be 0.';
REVOKE ALL ON optout.purges FROM PUBLIC;
GRANT SELECT ON optout.purges TO PUBLIC;

-- Immutable, for indexes.  It knows of nobody, so everybody may execute it.
CREATE FUNCTION optout.json_id(document json, path text)
RETURNS text
AS 'MODULE_PATHNAME', 'optout_json_id' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION optout.json_id(json, text) IS
'The id that a guard reads at a path such as $.user.id of a document: a string or number as text, else NULL. A document never causes an error. For indexes on columns of type json, which optout.purge() and optout.stored_events() use.';
REVOKE ALL ON FUNCTION optout.json_id(json, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION optout.json_id(json, text) TO PUBLIC;

CREATE FUNCTION optout.stored_events(user_ids text[], organization text DEFAULT NULL)
RETURNS TABLE (relation regclass, events bigint)
AS 'MODULE_PATHNAME', 'optout_stored_events' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.stored_events(text[], text) IS
'How many events of these users and their aliases guarded tables hold: a row for each table that holds any. Needs authority to read the organization, and the privileges to read the tables. Error 42501 names a table that the caller may not read, or whose row-level security applies to the caller.';
REVOKE ALL ON FUNCTION optout.stored_events(text[], text) FROM PUBLIC;
-- it asks for authority, as the views do
GRANT EXECUTE ON FUNCTION optout.stored_events(text[], text) TO PUBLIC;

CREATE PROCEDURE optout.purge(user_ids text[], organization text DEFAULT NULL, dry_run boolean DEFAULT false)
AS 'MODULE_PATHNAME', 'optout_purge' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON PROCEDURE optout.purge(text[], text, boolean) IS
'Delete what guarded tables hold of these users, who are opted out, and of their aliases. After it is committed, no guarded table holds an event of theirs, and none can come while they are out. It waits for all transactions that have asked the filter; opting these users in waits for it. A NOTICE says how many events of each table it has deleted or, with dry_run, would delete. Needs SELECT and DELETE on the tables (error 42501). Error 55000 for a user who is not opted out, a guard that does not fire always or misses events, and events that a trigger or rule keeps from being deleted; 25001 in a transaction that has written, or at another isolation level than READ COMMITTED.';
REVOKE ALL ON PROCEDURE optout.purge(text[], text, boolean) FROM PUBLIC;

----------------------------------------------------------------------
-- Who it was
----------------------------------------------------------------------

-- Replaced under the same OID, so that what was granted on the functions stays, and
-- so do views and functions that call them.  No command can add an argument.
CREATE FUNCTION optout.new_opt_in(user_id text, organization text DEFAULT NULL, reason text DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'optout_opt_in_1_2' LANGUAGE C;
CREATE FUNCTION optout.new_opt_in(user_ids text[], organization text DEFAULT NULL, reason text DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'optout_opt_in_array_1_2' LANGUAGE C;
UPDATE pg_catalog.pg_proc AS f
   SET pronargs = n.pronargs, pronargdefaults = n.pronargdefaults, proargtypes = n.proargtypes,
	   proargnames = n.proargnames, proargdefaults = n.proargdefaults, prosrc = n.prosrc
  FROM pg_catalog.pg_proc n
 WHERE (f.oid = 'optout.opt_in(text, text)'::pg_catalog.regprocedure
		AND n.oid = 'optout.new_opt_in(text, text, text)'::pg_catalog.regprocedure)
	OR (f.oid = 'optout.opt_in(text[], text)'::pg_catalog.regprocedure
		AND n.oid = 'optout.new_opt_in(text[], text, text)'::pg_catalog.regprocedure);
DROP FUNCTION optout.new_opt_in(text, text, text), optout.new_opt_in(text[], text, text);
COMMENT ON FUNCTION optout.opt_in(text, text, text) IS
'Opt a user, with all aliases, back into tracking. True where they were opted out, false where not. Error 42704 for a user who is neither opted out nor in the directory.';
COMMENT ON FUNCTION optout.opt_in(text[], text, text) IS
'Opt users, with all aliases, back into tracking, all or none. Returns how many users were opted out before. Error 42704 for a user who is neither opted out nor in the directory.';

----------------------------------------------------------------------
-- Views, checks and repair
----------------------------------------------------------------------

COMMENT ON COLUMN optout.status.shared_filter IS
'''ready''; ''incomplete'' where this server cannot know yet who is opted out, so that filter and guards raise an error; ''loading'' while sessions that ask add this database''s keys, a few milliseconds at a time; ''no room'' where the filter serves 256 other databases; ''absent'' where there is no shared memory for it: optout.filter_memory is 0, or the library is not in shared_preload_libraries and the server is older than 17 or cannot spare it; ''off'' by the setting optout.filter; ''not used'' on a standby, or if the trigger optout_filter does not fire always. Answers are right in any state (in ''incomplete'' there are none), but only ''ready'' is fast.';
COMMENT ON COLUMN optout.status.load_progress IS
'While shared_filter is ''loading'': which share of the table has been read to add its keys, from 0 to 1; see optout.progress.';
COMMENT ON COLUMN optout.progress.pid IS
'Process that runs the command, as in pg_stat_activity. For ''add keys'', at which sessions take turns, the process that had the last turn.';
COMMENT ON COLUMN optout.discards.hour IS 'Start of the hour in which the discarding transactions were committed or prepared, whenever the events occurred.';
COMMENT ON COLUMN optout.status.false_positive_rate IS 'Estimated share of users never opted out for whom the memo or the table has to be asked, to four digits.';
COMMENT ON COLUMN optout.status.replica_lag IS
'How much write-ahead log, in bytes, each of optout.replicas has yet to apply, by its name; a JSON null where that is unknown. NULL where there are no replicas.';
CREATE FUNCTION optout.repair()
RETURNS bigint
AS 'MODULE_PATHNAME', 'optout_repair' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.repair() IS
'Make triggers fire always again that do not, for example after pg_restore --disable-triggers: guards of tables, partitions and inheritance children, the triggers of the extension''s own tables, and the event trigger of rules. Alters nothing else. Returns how many triggers it has altered. For superusers and the owner of the extension.';
REVOKE ALL ON FUNCTION optout.repair() FROM PUBLIC;

CREATE VIEW optout.aliases WITH (security_barrier) AS
SELECT a.organization, a.alias, a.user_id, a.linked_at, a.linked_by, a.reason
  FROM optout.user_alias a
 WHERE EXISTS (SELECT FROM optout.readable_organization r WHERE r.organization = '*')
UNION ALL
SELECT o.*
  FROM optout.readable_organization r
	   CROSS JOIN LATERAL
	   (SELECT a.organization, a.alias, a.user_id, a.linked_at, a.linked_by, a.reason
		  FROM optout.user_alias a
		 WHERE a.organization = r.organization
		OFFSET 0) o
 WHERE NOT EXISTS (SELECT FROM optout.readable_organization r WHERE r.organization = '*');
COMMENT ON VIEW optout.aliases IS
'Other ids of the users of your organizations, as linked with optout.link().';
COMMENT ON COLUMN optout.aliases.organization IS 'Organization the user belongs to.';
COMMENT ON COLUMN optout.aliases.alias IS 'The other id.';
COMMENT ON COLUMN optout.aliases.user_id IS 'User whose id it is.';
COMMENT ON COLUMN optout.aliases.linked_at IS 'When it was linked.';
COMMENT ON COLUMN optout.aliases.linked_by IS 'Role that linked it.';
COMMENT ON COLUMN optout.aliases.reason IS 'Reason given with the link, if any.';
REVOKE ALL ON optout.aliases FROM PUBLIC;
GRANT SELECT ON optout.aliases TO PUBLIC;

-- Lists and history are of persons: an alias's row is a copy of its user's.
CREATE OR REPLACE VIEW optout.user_list WITH (security_barrier) AS
SELECT u.organization, u.user_id, u.display_name, u.email, u.signed_in_at,
	   p.user_id IS NOT NULL AS opted_out,
	   ARRAY(SELECT a.alias FROM optout.user_alias a
			  WHERE a.organization = u.organization AND a.user_id = u.user_id ORDER BY a.alias) AS aliases
  FROM optout.product_user u
	   LEFT JOIN optout.opt_out_period p
	   ON p.organization = u.organization AND p.user_id = u.user_id AND p.opted_in_at IS NULL
 WHERE EXISTS (SELECT FROM optout.readable_organization r WHERE r.organization = '*')
UNION ALL
SELECT o.*
  FROM optout.readable_organization r
	   CROSS JOIN LATERAL
	   (SELECT u.organization, u.user_id, u.display_name, u.email, u.signed_in_at,
			   p.user_id IS NOT NULL AS opted_out,
			   ARRAY(SELECT a.alias FROM optout.user_alias a
					  WHERE a.organization = u.organization AND a.user_id = u.user_id ORDER BY a.alias) AS aliases
		  FROM optout.product_user u
			   LEFT JOIN optout.opt_out_period p
			   ON p.organization = u.organization AND p.user_id = u.user_id AND p.opted_in_at IS NULL
		 WHERE u.organization = r.organization
		OFFSET 0) o
 WHERE NOT EXISTS (SELECT FROM optout.readable_organization r WHERE r.organization = '*');
COMMENT ON COLUMN optout.user_list.aliases IS 'Other ids of the user, sorted; empty where there are none.';

CREATE OR REPLACE VIEW optout.opt_out_list WITH (security_barrier) AS
SELECT p.organization, p.user_id, u.display_name, u.email,
	   p.opted_out_at, p.opted_out_by, p.reason,
	   COALESCE(u.signed_in_at < p.opted_out_at, false) AS client_may_still_track,
	   ARRAY(SELECT a.alias FROM optout.user_alias a
			  WHERE a.organization = p.organization AND a.user_id = p.user_id ORDER BY a.alias) AS aliases
  FROM optout.opt_out_period p
	   LEFT JOIN optout.product_user u
	   ON u.organization = p.organization AND u.user_id = p.user_id
 WHERE p.opted_in_at IS NULL AND p.alias_of IS NULL
   AND EXISTS (SELECT FROM optout.readable_organization r WHERE r.organization = '*')
UNION ALL
SELECT o.*
  FROM optout.readable_organization r
	   CROSS JOIN LATERAL
	   (SELECT p.organization, p.user_id, u.display_name, u.email,
			   p.opted_out_at, p.opted_out_by, p.reason,
			   COALESCE(u.signed_in_at < p.opted_out_at, false) AS client_may_still_track,
			   ARRAY(SELECT a.alias FROM optout.user_alias a
					  WHERE a.organization = p.organization AND a.user_id = p.user_id ORDER BY a.alias) AS aliases
		  FROM optout.opt_out_period p
			   LEFT JOIN optout.product_user u
			   ON u.organization = p.organization AND u.user_id = p.user_id
		 WHERE p.opted_in_at IS NULL AND p.alias_of IS NULL AND p.organization = r.organization
		OFFSET 0) o
 WHERE NOT EXISTS (SELECT FROM optout.readable_organization r WHERE r.organization = '*');
COMMENT ON COLUMN optout.opt_out_list.display_name IS 'Name of the user; NULL where the directory has none.';
COMMENT ON COLUMN optout.opt_out_list.email IS 'Mail address of the user; NULL where the directory has none.';
COMMENT ON COLUMN optout.opt_out_list.aliases IS 'Other ids of the user, sorted; empty where there are none.';

CREATE OR REPLACE VIEW optout.opt_out_history WITH (security_barrier) AS
SELECT p.organization, p.user_id, p.opted_out_at, p.opted_out_by, p.opted_in_at, p.opted_in_by, p.reason,
	   p.opted_out_actor, p.opted_in_actor, p.opted_in_reason
  FROM optout.opt_out_period p
 WHERE p.alias_of IS NULL
   AND EXISTS (SELECT FROM optout.readable_organization r WHERE r.organization = '*')
UNION ALL
SELECT o.*
  FROM optout.readable_organization r
	   CROSS JOIN LATERAL
	   (SELECT p.organization, p.user_id, p.opted_out_at, p.opted_out_by, p.opted_in_at, p.opted_in_by, p.reason,
			   p.opted_out_actor, p.opted_in_actor, p.opted_in_reason
		  FROM optout.opt_out_period p
		 WHERE p.alias_of IS NULL AND p.organization = r.organization
		OFFSET 0) o
 WHERE NOT EXISTS (SELECT FROM optout.readable_organization r WHERE r.organization = '*');
COMMENT ON COLUMN optout.opt_out_history.opted_out_actor IS 'Who opted the user out, by the setting optout.actor of the session that did; nobody vouches for it.';
COMMENT ON COLUMN optout.opt_out_history.opted_in_actor IS 'Who opted the user in again, by the setting optout.actor of the session that did; nobody vouches for it.';
COMMENT ON COLUMN optout.opt_out_history.opted_in_reason IS 'Reason given with the opt-in, if any.';

-- The filter compares the text of what a column holds with the id, byte for byte,
-- so an id in any other form than its column's matches nothing.
CREATE VIEW optout.unmatchable WITH (security_barrier) AS
WITH RECURSIVE guard_column (type, typmod) AS (
	SELECT a.atttypid, a.atttypmod
	  FROM optout.guarded g
		   JOIN pg_catalog.pg_attribute a ON a.attrelid = g.relation AND a.attname::text = ANY (g.user_ids)
	 UNION
	-- a path leads to any text
	SELECT 'text'::pg_catalog.regtype, -1
	  FROM optout.guarded g
	 WHERE g.payload IS NOT NULL AND EXISTS (SELECT FROM pg_catalog.unnest(g.user_ids) AS id WHERE id LIKE '$%')
	 UNION
	SELECT t.typbasetype, GREATEST(c.typmod, t.typtypmod)
	  FROM guard_column c
		   JOIN pg_catalog.pg_type t ON t.oid = c.type AND t.typtype = 'd'
)
SELECT u.organization, u.user_id, u.opted_out
  FROM (SELECT l.organization, id AS user_id, l.opted_out
		  FROM optout.user_list l CROSS JOIN LATERAL pg_catalog.unnest(l.user_id || l.aliases) AS id
		 UNION
		SELECT l.organization, id, true
		  FROM optout.opt_out_list l CROSS JOIN LATERAL pg_catalog.unnest(l.user_id || l.aliases) AS id) u
 WHERE EXISTS (SELECT FROM guard_column)
   AND NOT EXISTS
	   (SELECT
		  FROM guard_column c
		 WHERE CASE c.type
			   WHEN 'text'::pg_catalog.regtype THEN true
			   WHEN 'varchar'::pg_catalog.regtype THEN
					c.typmod < 0 OR pg_catalog.char_length(u.user_id) <= c.typmod - 4
			   WHEN 'bpchar'::pg_catalog.regtype THEN
					(c.typmod < 0 OR pg_catalog.char_length(u.user_id) <= c.typmod - 4)
					AND pg_catalog.right(u.user_id, 1) <> ' '
			   WHEN 'name'::pg_catalog.regtype THEN
					pg_catalog.octet_length(u.user_id) <= pg_catalog.current_setting('max_identifier_length')::integer
			   WHEN 'uuid'::pg_catalog.regtype THEN
					u.user_id ~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
			   WHEN 'bigint'::pg_catalog.regtype THEN
					CASE WHEN u.user_id ~ '^(0|-?[1-9][0-9]{0,18})$' THEN u.user_id::numeric BETWEEN -9223372036854775808 AND 9223372036854775807 END
			   WHEN 'integer'::pg_catalog.regtype THEN
					CASE WHEN u.user_id ~ '^(0|-?[1-9][0-9]{0,9})$' THEN u.user_id::numeric BETWEEN -2147483648 AND 2147483647 END
			   WHEN 'smallint'::pg_catalog.regtype THEN
					CASE WHEN u.user_id ~ '^(0|-?[1-9][0-9]{0,4})$' THEN u.user_id::numeric BETWEEN -32768 AND 32767 END
			   END);
COMMENT ON VIEW optout.unmatchable IS
'Ids and aliases of users of your organizations that no guarded column can hold, such as ''007'' where all are bigint, or a uuid in capitals: no event will ever match them. Empty where no table is guarded.';
COMMENT ON COLUMN optout.unmatchable.organization IS 'Organization of the user.';
COMMENT ON COLUMN optout.unmatchable.user_id IS 'The id that no guarded column can hold.';
COMMENT ON COLUMN optout.unmatchable.opted_out IS 'Whether the user is opted out now, and so believed to be protected.';
REVOKE ALL ON optout.unmatchable FROM PUBLIC;
GRANT SELECT ON optout.unmatchable TO PUBLIC;

COMMENT ON VIEW optout.progress IS
'How far commands have come that are running in this database: the adding of keys after a start, purges, and administration of 1000 users or more by one call. It names nobody. Like pg_stat_activity, it shows the same throughout a transaction, and leaves out sessions in which track_activities is off. It shows one command of a session, the last that has begun, and none that runs within a command whose progress the server itself shows, such as COPY.';
COMMENT ON COLUMN optout.progress.command IS '''add keys'', ''enroll'', ''opt out'', ''opt in'', ''forget'', ''link'', ''unlink'', or ''purge''.';
COMMENT ON COLUMN optout.progress.phase IS
'What it is doing. ''add keys'': ''reading the table''. ''purge'': ''locking tables'', ''locking open periods'', ''waiting for transactions'', ''deleting events''. The others, in this order as far as they need to: ''locking users'', ''locking periods'', ''locking open periods'', ''locking aliases''; ''writing users'', ''writing aliases'', ''checking aliases'', ''writing periods'' or ''deleting''; ''updating the filter''. Periods of aliases are written after those of their users.';
COMMENT ON COLUMN optout.progress.done IS 'How much of total is done in this phase. While the command writes or deletes rows of the extension''s tables, it stays 0.';
COMMENT ON COLUMN optout.progress.total IS 'How much there is to do in this phase, at most. The unit is blocks when reading the table, tables when locking tables or deleting events, periods (those of aliases are estimated) when deleting or copying and when updating the filter after that, otherwise users or aliases.';

-- Where a guard reads a path, the payload is the column to look for.
CREATE VIEW optout.unguarded WITH (security_barrier) AS
WITH RECURSIVE guard AS (
	SELECT t.oid, t.tgrelid AS relid, t.tgname, t.tgenabled, t.tgparentid
	  FROM pg_catalog.pg_trigger t
	 WHERE t.tgfoid = 'optout.discard_opted_out()'::pg_catalog.regprocedure
), child (relid, ancestor) AS (
	SELECT i.inhrelid, i.inhparent
	  FROM pg_catalog.pg_inherits i
		   JOIN pg_catalog.pg_class c ON c.oid = i.inhparent AND c.relkind IN ('r', 'f')
	 WHERE i.inhparent IN (SELECT g.relid FROM guard g)
	 UNION
	SELECT i.inhrelid, c.ancestor
	  FROM child c JOIN pg_catalog.pg_inherits i ON i.inhparent = c.relid
), looked_at AS (
	SELECT DISTINCT c.relnamespace, n.attname
	  FROM optout.guarded g
		   JOIN pg_catalog.pg_class c ON c.oid = g.relation
		   CROSS JOIN LATERAL pg_catalog.unnest(g.user_ids || g.payload::text) AS n (attname)
), ruled AS (
	SELECT s.oid AS relnamespace,
		   CASE WHEN i.id LIKE '$%' THEN r.payload ELSE i.id::name END AS attname
	  FROM optout.guard_rule r
		   JOIN pg_catalog.pg_namespace s ON s.nspname = r.schema
		   CROSS JOIN LATERAL pg_catalog.unnest(r.user_ids) AS i (id)
	 GROUP BY 1, 2
), bare AS (
	SELECT c.oid AS relid, c.relnamespace, c.relispartition
	  FROM pg_catalog.pg_class c
	 WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't'
	   AND NOT EXISTS (SELECT FROM guard g WHERE g.relid = c.oid)
	   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
						WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'e')
)
SELECT g.relid::pg_catalog.regclass AS relation,
	   pg_catalog.format('guard %I does not fire always', g.tgname) AS reason,
	   'fault' AS severity
  FROM guard g
 WHERE g.tgenabled <> 'A'
 UNION ALL
-- what others have made of its function; partitions inherit it
SELECT g.relid::pg_catalog.regclass, pg_catalog.format('guard %I %s', g.tgname, c.gap), 'fault'
  FROM guard g
	   CROSS JOIN LATERAL optout.guard_columns(g.oid) c
 WHERE g.tgparentid = 0 AND c.gap IS NOT NULL
 UNION ALL
SELECT b.relid::pg_catalog.regclass,
	   pg_catalog.format('inherits from guarded table %s', pg_catalog.string_agg(c.ancestor::pg_catalog.regclass::text, ', ' ORDER BY c.ancestor)),
	   'fault'
  FROM bare b JOIN child c ON c.relid = b.relid
 GROUP BY b.relid
 UNION ALL
SELECT b.relid::pg_catalog.regclass,
	   pg_catalog.format('has %s, but the rule for its schema has not guarded it', pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum)),
	   'fault'
  FROM bare b
	   JOIN ruled r ON r.relnamespace = b.relnamespace
	   JOIN pg_catalog.pg_attribute a ON a.attrelid = b.relid AND a.attnum > 0 AND NOT a.attisdropped AND a.attname = r.attname
 GROUP BY b.relid
 UNION ALL
SELECT b.relid::pg_catalog.regclass,
	   pg_catalog.format('has %s, by which others are guarded', pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum)),
	   'notice'
  FROM bare b
	   JOIN looked_at l ON l.relnamespace = b.relnamespace
	   JOIN pg_catalog.pg_attribute a ON a.attrelid = b.relid AND a.attnum > 0 AND NOT a.attisdropped AND a.attname = l.attname::name
 WHERE NOT b.relispartition AND NOT EXISTS (SELECT FROM child c WHERE c.relid = b.relid)
   AND NOT EXISTS (SELECT FROM ruled r WHERE r.relnamespace = b.relnamespace AND r.attname = a.attname)
 GROUP BY b.relid
 UNION ALL
SELECT g.relation,
	   pg_catalog.format('has %s, which its guard does not read, unlike the rule for its schema', pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum)),
	   CASE WHEN g.by_rule THEN 'fault' ELSE 'notice' END
  FROM optout.guarded g
	   JOIN pg_catalog.pg_class c ON c.oid = g.relation
	   JOIN ruled r ON r.relnamespace = c.relnamespace
	   JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attname = r.attname
 WHERE a.attname::text <> ALL (g.user_ids) AND a.attname IS DISTINCT FROM g.payload
 GROUP BY g.relation, g.by_rule
 UNION ALL
SELECT b.relid::pg_catalog.regclass,
	   pg_catalog.format('foreign key %I refers to guarded table %s', k.conname, k.confrelid::pg_catalog.regclass),
	   'notice'
  FROM bare b
	   JOIN pg_catalog.pg_constraint k ON k.conrelid = b.relid AND k.contype = 'f' AND k.conparentid = 0
 WHERE k.confrelid IN (SELECT g.relid FROM guard g);
COMMENT ON VIEW optout.unguarded IS
'What guards do not cover. Faults: guards that do not fire always, guards that miss events, as triggers made by hand can, inheritance children of guarded tables, and tables that a rule could not guard, or not by all columns. Notices: tables in the schema of a guarded table that have a column of the same name; tables guarded by hand that have a column which the rule for their schema reads, but their guard does not; tables with a foreign key to a guarded table, whose rows may be details of discarded events.';
COMMENT ON COLUMN optout.unguarded.relation IS 'Table, partition or foreign table.';
COMMENT ON COLUMN optout.unguarded.reason IS 'Why it is listed.';
COMMENT ON COLUMN optout.unguarded.severity IS '''fault'': events of opted-out users get past the guard; ''notice'': they may.';
REVOKE ALL ON optout.unguarded FROM PUBLIC;
GRANT SELECT ON optout.unguarded TO PUBLIC;

-- A standby answers without the filter.  A replica is behind by more than what is
-- on its way at any moment: a segment of write-ahead log.
CREATE VIEW optout.checks WITH (security_barrier) AS
SELECT c.name, c.ok, c.detail
  FROM (SELECT 'filter' AS name,
			   s.shared_filter = 'ready' OR pg_catalog.pg_is_in_recovery() AS ok,
			   CASE s.shared_filter
				   WHEN 'absent' THEN 'absent: optout is not in shared_preload_libraries, or optout.filter_memory is 0'
				   ELSE s.shared_filter
			   END AS detail
		  FROM optout.status s
		 UNION ALL
		SELECT 'guards', pg_catalog.count(*) FILTER (WHERE g.fires <> 'always') = 0,
			   COALESCE('do not fire always: ' || pg_catalog.string_agg(g.relation, ', ' ORDER BY g.relation) FILTER (WHERE g.fires <> 'always'),
						pg_catalog.count(g.relation) || ' guarded')
		  FROM (SELECT r.relation::text, r.fires FROM optout.guarded r
				 UNION ALL
				SELECT NULL, 'always'
				 UNION ALL
				SELECT 'event trigger ' || e.evtname, 'never'
				  FROM pg_catalog.pg_event_trigger e
				 WHERE e.evtfoid = 'optout.apply_rules()'::pg_catalog.regprocedure AND e.evtenabled <> 'A'
				 UNION ALL
				-- PostgreSQL 17 and later
				SELECT 'event triggers by the setting event_triggers', 'never'
				 WHERE pg_catalog.current_setting('event_triggers', true) = 'off') g
		 UNION ALL
		SELECT 'unguarded', pg_catalog.count(*) FILTER (WHERE u.severity = 'fault') = 0,
			   COALESCE(pg_catalog.string_agg(u.relation || ': ' || u.reason, '; ' ORDER BY u.relation::text, u.reason) FILTER (WHERE u.severity = 'fault'),
						pg_catalog.count(*) || ' to look at')
		  FROM optout.unguarded u
		 UNION ALL
		SELECT 'replicas', pg_catalog.count(*) FILTER (WHERE r.behind) = 0,
			   COALESCE('behind, incomplete or unknown: ' || pg_catalog.string_agg(r.name, ', ' ORDER BY r.name) FILTER (WHERE r.behind),
						pg_catalog.count(*) || ' in force')
		  FROM (SELECT p.name, NOT p.connected OR COALESCE(p.lag > 16777216, true) AS behind FROM optout.replicas p) r
		 UNION ALL
		SELECT 'aliases', NOT d.found,
			   CASE WHEN d.found THEN 'some are opted out otherwise than their users: see optout.verify()' ELSE 'as their users' END
		  FROM (SELECT a.otherwise > 0 OR a.opted_out <> u.aliases OR c.otherwise > 0 AS found
				  -- aliases that are opted out, and those that are by themselves or with somebody else
				  FROM (SELECT pg_catalog.count(*) AS opted_out,
							   pg_catalog.count(*) FILTER (WHERE p.alias_of IS DISTINCT FROM l.user_id) AS otherwise
						  FROM optout.opt_out_period p
							   JOIN optout.user_alias l ON l.organization = p.organization AND l.alias = p.user_id
						 WHERE p.opted_in_at IS NULL) a,
					   -- aliases of users who are opted out
					   (SELECT pg_catalog.count(*) AS aliases
						  FROM optout.opt_out_period p
							   JOIN optout.user_alias l ON l.organization = p.organization AND l.user_id = p.user_id
						 WHERE p.opted_in_at IS NULL) u,
					   -- copies of what the user does not have, also where no aliases are known, as on a subscriber
					   (SELECT pg_catalog.count(*) AS otherwise
						  FROM optout.opt_out_period p
							   LEFT JOIN optout.opt_out_period u
							   ON u.organization = p.organization AND u.user_id = p.alias_of AND u.opted_in_at IS NULL
						 WHERE p.opted_in_at IS NULL AND p.alias_of IS NOT NULL
						   AND u.opted_out_at IS DISTINCT FROM p.opted_out_at) c) d
		 UNION ALL
		SELECT 'organizations', pg_catalog.count(*) FILTER (WHERE o.unknown) = 0,
			   COALESCE('not in the directory: ' || pg_catalog.string_agg(o.organization, ', ' ORDER BY o.organization) FILTER (WHERE o.unknown),
						pg_catalog.count(*) || ' with discards in the last 24 hours')
		  FROM (SELECT l.organization,
					   NOT EXISTS (SELECT FROM optout.product_user u WHERE u.organization = l.organization)
					   -- a subscriber has the list, but no directory
					   AND NOT EXISTS (SELECT FROM pg_catalog.pg_subscription_rel s
										   -- CREATE DATABASE copies the rows, but not the subscriptions
										   JOIN pg_catalog.pg_subscription p ON p.oid = s.srsubid
										   JOIN pg_catalog.pg_database d ON d.oid = p.subdbid
									 WHERE s.srrelid = 'optout.opt_out_period'::pg_catalog.regclass
									   AND d.datname = pg_catalog.current_database()) AS unknown
				  FROM optout.discard_ledger l
				 WHERE l.hour > pg_catalog.now() - interval '24 hours'
				 GROUP BY l.organization) o) c
 WHERE EXISTS (SELECT FROM optout.readable_organization r WHERE r.organization = '*');
COMMENT ON VIEW optout.checks IS
'Whether all is well: a row for each check, for roles that may read every organization; others see none. Cheap enough to be read every minute.';
COMMENT ON COLUMN optout.checks.name IS
'''filter'': the shared filter is ready, or this is a standby; ''guards'': every guard fires always, and so does the event trigger of rules; ''unguarded'': no fault in optout.unguarded; ''replicas'': each is connected, has its copy, and is at most 16 MB of write-ahead log behind; ''aliases'': each is opted out now if its user is, and since the same time (optout.verify() checks the past as well); ''organizations'': every organization with discards in the last 24 hours has users in the directory, or a subscription brings the list.';
COMMENT ON COLUMN optout.checks.ok IS 'Whether the check is passed.';
COMMENT ON COLUMN optout.checks.detail IS 'What is wrong, or what was checked.';
REVOKE ALL ON optout.checks FROM PUBLIC;
GRANT SELECT ON optout.checks TO PUBLIC;

-- The last, so that it does not fire for what is above.
CREATE EVENT TRIGGER optout_rules ON ddl_command_end
	WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'CREATE SCHEMA', 'CREATE FOREIGN TABLE', 'IMPORT FOREIGN SCHEMA',
				 'ALTER TABLE', 'ALTER FOREIGN TABLE', 'ALTER SCHEMA', 'ALTER TYPE',
				 -- which can rename columns of tables, too
				 'ALTER VIEW', 'ALTER MATERIALIZED VIEW')
	EXECUTE FUNCTION optout.apply_rules();
ALTER EVENT TRIGGER optout_rules ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER optout_rules IS
'Guards tables for which there is a rule, see optout.guard_schema(). optout.repair() makes it fire again where it does not.';

-- The role that updates need not be the owner of the extension and its views.
DO $$
DECLARE
	extension CONSTANT oid := (SELECT e.oid FROM pg_catalog.pg_extension e WHERE e.extname = 'optout');
	owner CONSTANT regrole := (SELECT e.extowner FROM pg_catalog.pg_extension e WHERE e.extname = 'optout');
	command text;
BEGIN
	FOR command IN
		SELECT pg_catalog.format('ALTER %s %s OWNER TO %s', CASE c.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, c.oid::regclass, owner)
		  FROM pg_catalog.pg_depend d
			   JOIN pg_catalog.pg_class c ON c.oid = d.objid
		 WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.deptype = 'e'
		   AND d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.refobjid = extension
		   AND c.relkind IN ('r', 'v') AND c.relowner <> owner
		 UNION ALL
		SELECT pg_catalog.format('ALTER TYPE %s OWNER TO %s', t.oid::regtype, owner)
		  FROM pg_catalog.pg_depend d
			   JOIN pg_catalog.pg_type t ON t.oid = d.objid
			   JOIN pg_catalog.pg_class c ON c.oid = t.typrelid AND c.relkind = 'c'
		 WHERE d.classid = 'pg_catalog.pg_type'::regclass AND d.deptype = 'e'
		   AND d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.refobjid = extension
		   AND t.typowner <> owner
		 UNION ALL
		SELECT pg_catalog.format('ALTER ROUTINE %s OWNER TO %s', p.oid::regprocedure, owner)
		  FROM pg_catalog.pg_depend d
			   JOIN pg_catalog.pg_proc p ON p.oid = d.objid
		 WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.deptype = 'e'
		   AND d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.refobjid = extension
		   AND p.proowner <> owner
		 UNION ALL
		-- which only a superuser can own
		SELECT pg_catalog.format('ALTER EVENT TRIGGER %I OWNER TO %s', e.evtname, owner)
		  FROM pg_catalog.pg_event_trigger e
		 WHERE e.evtname = 'optout_rules' AND e.evtowner <> owner
		   AND (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.oid = owner)
	LOOP
		EXECUTE command;
	END LOOP;
END
$$;
-- Roles that may administer may execute what is new.
SELECT optout.grant_authority(a.role, a.organization, a.privilege)
  FROM optout.authority a
 WHERE a.privilege = 'administer' AND a.role IN (SELECT r.oid FROM pg_catalog.pg_roles r);
