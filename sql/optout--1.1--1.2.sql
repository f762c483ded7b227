/*
 * optout 1.2
 */
\echo Use "ALTER EXTENSION optout UPDATE TO '1.2'" to load this file. \quit

----------------------------------------------------------------------
-- Filter and guard
----------------------------------------------------------------------

-- One column of ids as ever, or several, or paths into documents.  varchar, for with
-- text calls of the other form would be ambiguous.
CREATE FUNCTION optout.guard(relation regclass, user_ids text[], organization varchar DEFAULT NULL,
							 occurred_at varchar DEFAULT NULL, payload name DEFAULT NULL,
							 time_zone text DEFAULT NULL, fixed_organization text DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME', 'optout_guard_array' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.guard(regclass, text[], varchar, varchar, name, text, text) IS
'Guard an event table whose rows name their user in several places: an event is discarded, and counted once, if any of its ids is opted out. What begins with $ is a path into the json or jsonb column payload, such as $.user.id. time_zone is that of times that do not name theirs. fixed_organization: all events of the table are of this organization, whatever the setting of the writing session.';
REVOKE ALL ON FUNCTION optout.guard(regclass, text[], varchar, varchar, name, text, text) FROM PUBLIC;

-- The same function under a new symbol: where a session still has the library of
-- 1.1, which would read only one of several columns, it fails.
CREATE OR REPLACE FUNCTION optout.discard_opted_out()
RETURNS trigger
AS 'MODULE_PATHNAME', 'optout_discard_event' LANGUAGE C;

CREATE FUNCTION optout.guard_columns(guard oid, OUT user_id name, OUT organization name, OUT occurred_at name,
									 OUT user_ids text[], OUT payload name, OUT time_zone text, OUT fixed_organization text)
AS 'MODULE_PATHNAME', 'optout_guard_columns' LANGUAGE C STABLE STRICT
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.guard_columns(oid) IS
'What the view optout.guarded shows of a trigger.';
REVOKE ALL ON FUNCTION optout.guard_columns(oid) FROM PUBLIC;
-- the view's reader needs it
GRANT EXECUTE ON FUNCTION optout.guard_columns(oid) TO PUBLIC;

CREATE OR REPLACE VIEW optout.guarded WITH (security_barrier) AS
SELECT t.tgrelid::regclass AS relation, g.user_id, g.organization, g.occurred_at,
	   CASE t.tgenabled WHEN 'A' THEN 'always' WHEN 'O' THEN 'origin' WHEN 'R' THEN 'replica' ELSE 'never' END AS fires,
	   g.user_ids, g.payload, g.time_zone, g.fixed_organization,
	   t.tgname = 'optout_guard_rule' AS by_rule
  FROM pg_catalog.pg_trigger t
	   CROSS JOIN LATERAL optout.guard_columns(t.oid) g
 WHERE t.tgfoid = 'optout.discard_opted_out()'::pg_catalog.regprocedure
   AND (t.tgparentid = 0 OR t.tgenabled <> 'A');
COMMENT ON VIEW optout.guarded IS
'Event tables under optout.guard(), and what the guard reads of their rows; also partitions whose guard somebody altered.';
COMMENT ON COLUMN optout.guarded.user_id IS 'Column that holds the user''s id; NULL where the guard reads several ids, or a path: see user_ids.';
COMMENT ON COLUMN optout.guarded.organization IS 'Column or path that holds the organization; NULL where fixed_organization or else the setting optout.organization counts.';
COMMENT ON COLUMN optout.guarded.occurred_at IS 'Column or path that holds the time of the event; NULL where it is not looked at.';
COMMENT ON COLUMN optout.guarded.user_ids IS 'All columns and paths that hold ids of the event''s user.';
COMMENT ON COLUMN optout.guarded.payload IS 'Column of type json or jsonb that the paths lead into; NULL where there are none.';
COMMENT ON COLUMN optout.guarded.time_zone IS 'Time zone of times that do not name theirs.';
COMMENT ON COLUMN optout.guarded.fixed_organization IS 'Organization of all events of the table; NULL where the column organization or the setting optout.organization counts.';
COMMENT ON COLUMN optout.guarded.by_rule IS 'Whether a rule for tables to come has made the guard.';

COMMENT ON FUNCTION optout.unguard(regclass) IS
'Take all guards off an event table, by whatever name somebody gave them. Error 42704 where there is none.';

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
'Create a view of an event table through which every event counts as inserted, RETURNING included, while only the accepted ones are stored; in the schema of the table where the name says none. Calling it again takes over columns, defaults and names that the table has got since. Who inserts needs INSERT on the view and on the table. Needs ownership of the table.';
REVOKE ALL ON FUNCTION optout.guard_view(regclass, text) FROM PUBLIC;

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
CREATE FUNCTION optout.repair()
RETURNS bigint
AS 'MODULE_PATHNAME', 'optout_repair' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.repair() IS
'Let guards, and the trigger optout_filter of optout.opt_out_period, fire always again where they do not, as after pg_restore --disable-triggers: of tables, partitions and inheritance children alike. Alters nothing else. Returns how many it has put back. For superusers and the owner of the extension.';
REVOKE ALL ON FUNCTION optout.repair() FROM PUBLIC;

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
  FROM (SELECT l.organization, l.user_id, l.opted_out FROM optout.user_list l
		 UNION
		SELECT l.organization, l.user_id, true FROM optout.opt_out_list l) u
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
'Users of your organizations whose id no guarded column can hold, such as ''007'' where all are bigint, or a uuid in capitals: no event will ever match them. Empty where no table is guarded.';
COMMENT ON COLUMN optout.unmatchable.organization IS 'Organization of the user.';
COMMENT ON COLUMN optout.unmatchable.user_id IS 'The id that no guarded column can hold.';
COMMENT ON COLUMN optout.unmatchable.opted_out IS 'Whether the user is opted out now, and so believed to be protected.';
REVOKE ALL ON optout.unmatchable FROM PUBLIC;
GRANT SELECT ON optout.unmatchable TO PUBLIC;

-- Where a guard reads a path, the payload is the column to look for.
CREATE VIEW optout.unguarded WITH (security_barrier) AS
WITH RECURSIVE guard AS (
	SELECT t.tgrelid AS relid, t.tgname, t.tgenabled
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
SELECT b.relid::pg_catalog.regclass,
	   pg_catalog.format('inherits from guarded table %s', pg_catalog.string_agg(c.ancestor::pg_catalog.regclass::text, ', ' ORDER BY c.ancestor)),
	   'fault'
  FROM bare b JOIN child c ON c.relid = b.relid
 GROUP BY b.relid
 UNION ALL
SELECT b.relid::pg_catalog.regclass,
	   pg_catalog.format('has %s, by which others are guarded', pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum)),
	   'notice'
  FROM bare b
	   JOIN looked_at l ON l.relnamespace = b.relnamespace
	   JOIN pg_catalog.pg_attribute a ON a.attrelid = b.relid AND a.attnum > 0 AND NOT a.attisdropped AND a.attname = l.attname::name
 WHERE NOT b.relispartition AND NOT EXISTS (SELECT FROM child c WHERE c.relid = b.relid)
 GROUP BY b.relid
 UNION ALL
SELECT b.relid::pg_catalog.regclass,
	   pg_catalog.format('foreign key %I refers to guarded table %s', k.conname, k.confrelid::pg_catalog.regclass),
	   'notice'
  FROM bare b
	   JOIN pg_catalog.pg_constraint k ON k.conrelid = b.relid AND k.contype = 'f' AND k.conparentid = 0
 WHERE k.confrelid IN (SELECT g.relid FROM guard g);
COMMENT ON VIEW optout.unguarded IS
'What guards do not cover: guards that do not fire always and inheritance children of guarded tables, which are faults; and to look at, tables in the schemas of guarded ones that have a column of the same name, and tables that refer to a guarded one, whose rows may be details of events that were discarded.';
COMMENT ON COLUMN optout.unguarded.relation IS 'Table, partition or foreign table.';
COMMENT ON COLUMN optout.unguarded.reason IS 'What there is about it.';
COMMENT ON COLUMN optout.unguarded.severity IS '''fault'': events of opted-out users get past the guard; ''notice'': they may.';
REVOKE ALL ON optout.unguarded FROM PUBLIC;
GRANT SELECT ON optout.unguarded TO PUBLIC;

-- A standby answers without the filter.  A replica is behind by more than what is
-- on its way at any moment: a segment of write-ahead log.
CREATE VIEW optout.checks WITH (security_barrier) AS
SELECT c.name, c.ok, c.detail
  FROM (SELECT 'filter' AS name,
			   s.shared_filter = 'ready' OR pg_catalog.pg_is_in_recovery() AS ok,
			   s.shared_filter AS detail
		  FROM optout.status s
		 UNION ALL
		SELECT 'guards', pg_catalog.count(*) FILTER (WHERE g.fires <> 'always') = 0,
			   COALESCE('do not fire always: ' || pg_catalog.string_agg(g.relation::text, ', ' ORDER BY g.relation::text) FILTER (WHERE g.fires <> 'always'),
						pg_catalog.count(*) || ' guarded')
		  FROM optout.guarded g
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
		SELECT 'organizations', pg_catalog.count(*) FILTER (WHERE o.unknown) = 0,
			   COALESCE('not in the directory: ' || pg_catalog.string_agg(o.organization, ', ' ORDER BY o.organization) FILTER (WHERE o.unknown),
						pg_catalog.count(*) || ' with discards in the last 24 hours')
		  FROM (SELECT l.organization,
					   NOT EXISTS (SELECT FROM optout.product_user u WHERE u.organization = l.organization) AS unknown
				  FROM optout.discard_ledger l
				 WHERE l.hour > pg_catalog.now() - interval '24 hours'
				 GROUP BY l.organization) o) c
 WHERE EXISTS (SELECT FROM optout.readable_organization r WHERE r.organization = '*');
COMMENT ON VIEW optout.checks IS
'Whether all is well, a row a check, for whoever may read every organization; others see none. Cheap enough for every minute.';
COMMENT ON COLUMN optout.checks.name IS
'''filter'': the shared filter is ready, or this is a standby; ''guards'': every guard fires always; ''unguarded'': no fault in optout.unguarded; ''replicas'': each is connected, has its copy, and is at most 16 MB of write-ahead log behind; ''organizations'': the directory knows all whose events were discarded in the last 24 hours.';
COMMENT ON COLUMN optout.checks.ok IS 'Whether it holds.';
COMMENT ON COLUMN optout.checks.detail IS 'What is wrong, or what has been looked at.';
REVOKE ALL ON optout.checks FROM PUBLIC;
GRANT SELECT ON optout.checks TO PUBLIC;
