-- Rules and partitions: made, attached, detached, in any order, by whoever may.
CREATE EXTENSION optout;
SELECT optout.enroll(ARRAY['alice', 'bob']), optout.opt_out('alice');
CREATE SCHEMA wh;
CREATE SCHEMA parts;
CREATE ROLE regress_loader;
CREATE ROLE regress_other;
GRANT USAGE, CREATE ON SCHEMA wh, parts TO regress_loader, regress_other;
-- OIDs are each run's own
CREATE VIEW guards AS
SELECT t.tgrelid::regclass AS relation, regexp_replace(t.tgname, '_[0-9]+$', '_N') AS guard, t.tgparentid <> 0 AS inherited, t.tgenabled AS fires
  FROM pg_trigger t WHERE t.tgfoid = 'optout.discard_opted_out'::regproc ORDER BY t.tgrelid::regclass::text COLLATE "C", t.tgname;
GRANT SELECT ON guards TO PUBLIC;
SELECT optout.guard_schema('wh');

-- The owner can add partitions, wherever they are; the rule has seen to it.
SET ROLE regress_loader;
CREATE TABLE wh.event (user_id text, day date) PARTITION BY RANGE (day);
CREATE TABLE wh.event_jan PARTITION OF wh.event FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE parts.event_feb PARTITION OF wh.event FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
-- LIKE and ATTACH, as pg_partman does, and by the other way around
CREATE TABLE wh.event_mar (LIKE wh.event INCLUDING ALL);
INSERT INTO wh.event_mar VALUES ('alice', '2026-03-01'), ('bob', '2026-03-01') RETURNING *;
SELECT * FROM guards;
ALTER TABLE wh.event ATTACH PARTITION wh.event_mar FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');
CREATE TABLE parts.event_apr (day date, user_id text);
ALTER TABLE wh.event ATTACH PARTITION parts.event_apr FOR VALUES FROM ('2026-04-01') TO ('2026-05-01');
-- partitioned again
CREATE TABLE wh.event_may (LIKE wh.event) PARTITION BY LIST (user_id);
CREATE TABLE wh.event_may_any PARTITION OF wh.event_may DEFAULT;
CREATE TABLE wh.event_may_alice (LIKE wh.event);
ALTER TABLE wh.event_may ATTACH PARTITION wh.event_may_alice FOR VALUES IN ('alice');
ALTER TABLE wh.event ATTACH PARTITION wh.event_may FOR VALUES FROM ('2026-05-01') TO ('2026-06-01');
RESET ROLE;
SELECT * FROM guards;
SELECT relation, by_rule FROM optout.guarded;
SELECT tgname = 'optout_guard_rule_' || tgrelid::oid AS named FROM pg_trigger WHERE tgrelid = 'wh.event'::regclass;
INSERT INTO wh.event SELECT u, d FROM unnest('{alice,bob}'::text[]) u, unnest('{2026-01-02,2026-02-02,2026-03-02,2026-04-02,2026-05-02}'::date[]) d RETURNING *;
INSERT INTO wh.event_may_alice VALUES ('alice', '2026-05-02') RETURNING *;
SELECT grantee::regrole, privilege_type FROM pg_proc, aclexplode(proacl) WHERE oid = 'optout.discard_opted_out()'::regprocedure AND grantee <> 10;

-- REASSIGN OWNED tells nobody: Limits.
BEGIN;
CREATE ROLE regress_heir;
GRANT USAGE, CREATE ON SCHEMA wh TO regress_heir;
CREATE TABLE wh.inherited (user_id text) PARTITION BY LIST (user_id);
ALTER TABLE wh.inherited OWNER TO regress_other;
REASSIGN OWNED BY regress_other TO regress_heir;
SAVEPOINT s;
SET LOCAL ROLE regress_heir;
CREATE TABLE wh.inherited_any PARTITION OF wh.inherited DEFAULT;
ROLLBACK TO s;
SELECT optout.guard_schema('wh');
SET LOCAL ROLE regress_heir;
CREATE TABLE wh.inherited_any PARTITION OF wh.inherited DEFAULT;
INSERT INTO wh.inherited VALUES ('alice'), ('bob') RETURNING *;
ROLLBACK;

-- Functions of the owner's, in partition keys, run as the owner, whoever creates the guard.
-- What they set is set no longer when the guard is created.
SET ROLE regress_loader;
CREATE FUNCTION parts.trap(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	IF current_user <> 'regress_loader' THEN RAISE 'it runs with the rights of another role'; END IF;
	IF current_setting('role') = 'none' THEN PERFORM set_config('search_path', 'parts', false); END IF;
	RETURN $1;
END $$;
CREATE TABLE wh.trapped (user_id text, a int) PARTITION BY RANGE ((a * parts.trap(1)));
CREATE TABLE wh.trapped_low PARTITION OF wh.trapped FOR VALUES FROM (0) TO (100) PARTITION BY RANGE ((a + parts.trap(1)));
CREATE TABLE wh.trapped_any PARTITION OF wh.trapped_low DEFAULT;
ALTER TABLE wh.trapped RENAME user_id TO person;
ALTER TABLE wh.trapped RENAME person TO user_id;
RESET ROLE;
SELECT optout.guard_schema('wh', ARRAY['user_id', 'person']);
SHOW search_path;
SELECT optout.guard_schema('wh');
SELECT * FROM guards WHERE relation::text ~ 'trapped';
SELECT optout.guard('wh.trapped');
SHOW search_path;
SELECT * FROM guards WHERE relation::text ~ 'trapped';
SET ROLE regress_loader;
INSERT INTO wh.trapped VALUES ('alice', 1), ('bob', 1) RETURNING *;
DROP TABLE wh.trapped;
DROP FUNCTION parts.trap;
RESET ROLE;

-- Detached: the rule guards it again, if the schema is its
SET ROLE regress_loader;
ALTER TABLE wh.event DETACH PARTITION wh.event_mar;
INSERT INTO wh.event_mar VALUES ('alice', '2026-03-03'), ('bob', '2026-03-03') RETURNING *;
ALTER TABLE wh.event DETACH PARTITION wh.event_jan CONCURRENTLY;
INSERT INTO wh.event_jan VALUES ('alice', '2026-01-03'), ('bob', '2026-01-03') RETURNING *;
ALTER TABLE wh.event DETACH PARTITION parts.event_apr;
ALTER TABLE wh.event DETACH PARTITION wh.event_may;
SELECT * FROM guards;
ALTER TABLE wh.event ATTACH PARTITION wh.event_may FOR VALUES FROM ('2026-05-01') TO ('2026-06-01');
-- and moved
ALTER TABLE parts.event_apr SET SCHEMA wh;
SELECT * FROM guards;
RESET ROLE;

-- Columns of the partitioned table
SET ROLE regress_loader;
ALTER TABLE parts.event_feb ALTER user_id SET STATISTICS 0;
\set VERBOSITY terse
ALTER TABLE wh.event RENAME user_id TO person;
SELECT * FROM guards;
ALTER TABLE wh.event ADD user_id text;
\set VERBOSITY default
SELECT * FROM guards;
INSERT INTO wh.event (user_id, day) VALUES ('alice', '2026-02-03'), ('bob', '2026-02-03') RETURNING user_id;
RESET ROLE;

-- Another owner can add partitions as well.
ALTER TABLE wh.event OWNER TO regress_other;
SET ROLE regress_other;
CREATE TABLE wh.event_jun PARTITION OF wh.event FOR VALUES FROM ('2026-06-01') TO ('2026-07-01') PARTITION BY LIST (day);
RESET ROLE;
ALTER TABLE wh.event_jun OWNER TO regress_loader;
REVOKE EXECUTE ON FUNCTION optout.discard_opted_out() FROM regress_loader;
ALTER TABLE wh.event_jun OWNER TO regress_other;
ALTER TABLE wh.event_jun OWNER TO regress_loader;
SET ROLE regress_loader;
CREATE TABLE wh.event_jun_any PARTITION OF wh.event_jun DEFAULT;
INSERT INTO wh.event_jun_any (user_id, day) VALUES ('alice', '2026-06-03'), ('bob', '2026-06-03') RETURNING user_id;
RESET ROLE;
DROP TABLE wh.event, wh.event_jan, wh.event_mar, wh.event_apr;

-- By hand or by rule, above and below
CREATE TABLE wh.above (user_id text, person text) PARTITION BY LIST (user_id);
SELECT optout.unguard('wh.above');
SELECT optout.guard('wh.above', 'person');
CREATE TABLE wh.below (LIKE wh.above);
ALTER TABLE wh.above ATTACH PARTITION wh.below DEFAULT;
SELECT * FROM guards;
ALTER TABLE wh.above DETACH PARTITION wh.below;
SELECT * FROM guards;
SELECT optout.guard('wh.below', 'person');
\set VERBOSITY terse
ALTER TABLE wh.above ATTACH PARTITION wh.below DEFAULT;
\set VERBOSITY default
SELECT optout.unguard('wh.above');
-- a partition of what is not guarded is; then it inherits
ALTER TABLE wh.above ATTACH PARTITION wh.below DEFAULT;
CREATE TABLE wh.beside PARTITION OF wh.above FOR VALUES IN ('bob');
SELECT * FROM guards;
SELECT optout.guard_schema('wh');
SELECT * FROM guards;
SELECT optout.guard('wh.above', 'person');
SELECT * FROM guards;
SELECT optout.unguard('wh.above');
CREATE TABLE wh.also PARTITION OF wh.above FOR VALUES IN ('carol');
SELECT optout.guard('wh.above', 'person');
SELECT * FROM guards;
DROP TABLE wh.above;
-- a partition in the schema, its table in another
CREATE TABLE parts.event (user_id text, day date) PARTITION BY LIST (day);
CREATE TABLE wh.event_1 PARTITION OF parts.event FOR VALUES IN ('2026-01-01');
CREATE TABLE parts.event_2 PARTITION OF parts.event FOR VALUES IN ('2026-01-02');
SELECT * FROM guards;
INSERT INTO parts.event VALUES ('alice', '2026-01-01'), ('alice', '2026-01-02') RETURNING *;
ALTER TABLE parts.event SET SCHEMA wh;
SELECT * FROM guards;
INSERT INTO wh.event VALUES ('alice', '2026-01-01'), ('alice', '2026-01-02') RETURNING *;

-- Guards of partitions that somebody altered; all go with unguard().
ALTER TABLE wh.event_1 DISABLE TRIGGER ALL;
SELECT relation, fires, by_rule FROM optout.guarded ORDER BY relation::text;
SELECT optout.repair();
SELECT * FROM guards;
SELECT optout.unguard_schema('wh'), optout.unguard('wh.event');
SELECT * FROM guards;

-- By a rule that comes when partitions are there
SELECT optout.guard_schema('parts');
CREATE TABLE wh.again (user_id text, day date) PARTITION BY LIST (day);
CREATE TABLE parts.again_1 PARTITION OF wh.again FOR VALUES IN ('2026-01-01');
SELECT * FROM guards;
SELECT optout.guard_schema('wh');
SELECT * FROM guards;
SELECT * FROM optout.unguarded;

-- Uninstalled with rules in place
SELECT optout.unguard(relation)
  FROM (SELECT tgrelid::regclass AS relation FROM pg_trigger
		 WHERE tgfoid = 'optout.discard_opted_out'::regproc AND tgparentid = 0
		 GROUP BY 1 ORDER BY tgrelid::regclass::text OFFSET 0) AS guarded;
DROP VIEW guards;
DROP EXTENSION optout;
SELECT count(*) FROM pg_trigger WHERE tgname ~ 'optout';
SET client_min_messages = warning;
DROP SCHEMA wh, parts CASCADE;
DROP ROLE regress_loader, regress_other;
