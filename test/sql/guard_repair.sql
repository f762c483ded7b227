-- Guards that somebody altered, renamed or went round: what guard() warns of, what
-- repair() puts back, and what unguard() takes off.
CREATE EXTENSION optout;
SELECT optout.enroll(ARRAY['alice', 'bob']), optout.opt_out('alice');

-- Inheritance children, and triggers that route rows to them
CREATE TABLE event (user_id text, day date);
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE FUNCTION route() RETURNS trigger LANGUAGE plpgsql
AS $$ BEGIN EXECUTE format('INSERT INTO event_%s SELECT ($1).*', to_char(NEW.day, 'mon')) USING NEW; RETURN NULL; END $$;
CREATE TRIGGER a_route BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION route();
CREATE TRIGGER a_update BEFORE UPDATE ON event FOR EACH ROW EXECUTE FUNCTION keep();
CREATE TRIGGER a_statement BEFORE INSERT ON event EXECUTE FUNCTION keep();
CREATE TABLE gone () INHERITS (event);
DROP TABLE gone;
SELECT optout.guard('event');
ALTER TRIGGER optout_guard ON event RENAME TO a_guard;
CREATE TABLE event_jan (LIKE event INCLUDING ALL) INHERITS (event);
SELECT optout.guard('event');
DROP TRIGGER a_guard ON event;
CREATE TABLE event_feb () INHERITS (event_jan);
CREATE TABLE event_mar () INHERITS (event);
SELECT optout.guard('event_mar');
SELECT optout.guard('event');
INSERT INTO event VALUES ('alice', '2026-01-01'), ('alice', '2026-03-01'), ('bob', '2026-03-01');
SELECT tableoid::regclass, user_id FROM event;
SELECT optout.guard('event_jan'), optout.guard('event_feb');
SELECT optout.guard('event');
INSERT INTO event VALUES ('alice', '2026-01-02'), ('alice', '2026-02-01'), ('alice', '2026-03-01'), ('bob', '2026-02-01');
SELECT tableoid::regclass, user_id, day FROM event ORDER BY day, user_id;
DROP TRIGGER a_route ON event;

-- Without an organization column, where there are other organizations
SELECT optout.enroll('carol', 'acme');
SELECT optout.guard('event_mar');
SELECT optout.guard('event_mar', organization => 'day');
SET optout.organization = 'acme';
SELECT optout.guard('event_mar');
DELETE FROM optout.product_user WHERE organization = 'default';
SELECT optout.guard('event_mar');
-- it tells an owner of the table only what they may read
SET optout.organization = 'other';
SELECT optout.guard('event_mar');
CREATE ROLE regress_owner;
GRANT EXECUTE ON FUNCTION optout.guard(regclass, name, name, name), optout.discard_opted_out() TO regress_owner;
ALTER TABLE event_mar OWNER TO regress_owner;
SET ROLE regress_owner;
SELECT optout.guard('event_mar');
RESET ROLE;
SELECT optout.grant_authority('regress_owner', 'acme', 'read');
SET ROLE regress_owner;
SELECT optout.guard('event_mar');
RESET ROLE;
REVOKE SELECT ON optout.user_list FROM PUBLIC;
SET ROLE regress_owner;
SELECT optout.guard('event_mar');
RESET ROLE;
GRANT SELECT ON optout.user_list TO PUBLIC;
SELECT optout.revoke_authority('regress_owner', 'acme', 'read');
RESET optout.organization;
SELECT optout.enroll('bob');

-- repair(): whatever does not fire always, under whichever name, and nothing else
CREATE SCHEMA "Odd Schema";
CREATE TABLE "Odd Schema"."Event" (user_id text);
SELECT optout.guard('"Odd Schema"."Event"');
ALTER TRIGGER optout_guard ON "Odd Schema"."Event" RENAME TO "A guard";
SELECT optout.guard('"Odd Schema"."Event"');
-- whose owner may not even use its schema
ALTER TABLE "Odd Schema"."Event" OWNER TO regress_owner;
CREATE TABLE parted (user_id text, k int) PARTITION BY LIST (k);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1) PARTITION BY LIST (user_id);
CREATE TABLE parted_1_any PARTITION OF parted_1 DEFAULT;
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2);
SELECT optout.guard('parted');
CREATE VIEW triggers_off AS
SELECT tgrelid::regclass AS relation, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'A'
 ORDER BY tgrelid::regclass::text, tgname;
SELECT * FROM triggers_off;
SELECT optout.repair();
ALTER TABLE optout.opt_out_period DISABLE TRIGGER ALL;
ALTER TABLE event DISABLE TRIGGER ALL;
ALTER TABLE event_feb ENABLE TRIGGER ALL;
ALTER TABLE event_mar ENABLE REPLICA TRIGGER optout_guard;
ALTER TABLE "Odd Schema"."Event" DISABLE TRIGGER ALL;
ALTER TABLE parted_1_any DISABLE TRIGGER ALL;
ALTER TABLE ONLY parted ENABLE TRIGGER ALL;
SELECT * FROM triggers_off;
-- not by everybody
GRANT EXECUTE ON FUNCTION optout.repair() TO regress_owner;
SET ROLE regress_owner;
SELECT optout.repair();
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
REVOKE EXECUTE ON FUNCTION optout.repair() FROM regress_owner;
SET ROLE regress_owner;
SELECT optout.repair();
RESET ROLE;
-- a transaction may take it back
BEGIN;
SELECT optout.repair();
-- only what was off is locked
SELECT relation::regclass::text COLLATE "C" AS locked FROM pg_locks
 WHERE pid = pg_backend_pid() AND mode = 'ShareRowExclusiveLock' AND locktype = 'relation' ORDER BY 1;
SELECT * FROM triggers_off;
ROLLBACK;
SELECT count(*) FROM triggers_off;
SELECT optout.repair();
SELECT * FROM triggers_off;
SELECT optout.repair();
SET session_replication_role = replica;
INSERT INTO event VALUES ('alice') RETURNING *;
INSERT INTO event_mar VALUES ('alice') RETURNING *;
INSERT INTO "Odd Schema"."Event" VALUES ('alice') RETURNING *;
INSERT INTO parted VALUES ('alice', 1), ('alice', 2) RETURNING *;
INSERT INTO optout.product_user (user_id) VALUES ('erin');
INSERT INTO optout.opt_out_period (organization, user_id, opted_out_at, opted_out_by) VALUES ('default', 'erin', now(), 'regress');
RESET session_replication_role;
SELECT optout.verify();
INSERT INTO event VALUES ('erin') RETURNING *;
-- by the extension's owner, who need not own the tables
CREATE ROLE regress_extension SUPERUSER;
BEGIN;
SET ROLE regress_extension;
SET client_min_messages = warning;
DROP EXTENSION optout CASCADE;
CREATE EXTENSION optout;
RESET client_min_messages;
ALTER ROLE regress_extension NOSUPERUSER;
RESET ROLE;
SELECT optout.guard('event'), optout.guard('parted'), optout.guard('"Odd Schema"."Event"');
ALTER TABLE event ENABLE TRIGGER ALL;
ALTER TABLE "Odd Schema"."Event" ENABLE TRIGGER ALL;
ALTER TABLE parted_2 ENABLE TRIGGER ALL;
ALTER TABLE optout.opt_out_period DISABLE TRIGGER ALL;
SET ROLE regress_extension;
SELECT optout.repair(), current_user;
RESET ROLE;
SELECT tgrelid::regclass, tgenabled FROM pg_trigger WHERE tgname ~ '^optout' ORDER BY 1, 2;
ROLLBACK;
DROP ROLE regress_extension;

-- unguard(): all of a table's guards, by whichever name
SELECT optout.unguard('"Odd Schema"."Event"');
SELECT optout.unguard('"Odd Schema"."Event"');
SELECT optout.unguard('parted_1_any');
\echo :LAST_ERROR_SQLSTATE
ALTER TRIGGER optout_guard ON parted RENAME TO other_guard;
SELECT optout.guard('parted_1_any');
SELECT optout.unguard('parted');
SELECT relation, fires FROM optout.guarded ORDER BY relation::text;

-- Uninstalling works in any state: of renamed and altered guards, several on a
-- table, beside a partitioned table's, on a partition that was detached, and on a
-- foreign table.
SELECT optout.guard('parted'), optout.guard('"Odd Schema"."Event"');
ALTER TRIGGER optout_guard ON "Odd Schema"."Event" RENAME TO "A guard";
SELECT optout.guard('"Odd Schema"."Event"');
CREATE TABLE parted_3 (user_id text, k int);
SELECT optout.guard('parted_3');
ALTER TRIGGER optout_guard ON parted_3 RENAME TO own_guard;
ALTER TABLE parted ATTACH PARTITION parted_3 FOR VALUES IN (3);
ALTER TABLE parted_2 ENABLE TRIGGER optout_guard;
ALTER TABLE parted_1_any DISABLE TRIGGER ALL;
ALTER TABLE parted DETACH PARTITION parted_1;
SELECT optout.guard('parted_1');
ALTER TABLE event DISABLE TRIGGER ALL;
CREATE FOREIGN DATA WRAPPER dummy;
CREATE SERVER dummy FOREIGN DATA WRAPPER dummy;
CREATE FOREIGN TABLE far (user_id text) SERVER dummy;
CREATE TRIGGER by_hand BEFORE INSERT OR UPDATE OF user_id ON far FOR EACH ROW EXECUTE FUNCTION optout.discard_opted_out('user_id');
SELECT relation, fires FROM optout.guarded ORDER BY relation::text, fires;
SELECT optout.unguard(tgrelid) FROM pg_trigger
 WHERE tgfoid = 'optout.discard_opted_out'::regproc AND tgparentid = 0 GROUP BY tgrelid;
SELECT * FROM optout.guarded;
DROP VIEW triggers_off;
DROP EXTENSION optout;

DROP TABLE event, event_jan, event_feb, event_mar, parted, parted_1;
SET client_min_messages = warning;
DROP SCHEMA "Odd Schema" CASCADE;
DROP FOREIGN DATA WRAPPER dummy CASCADE;
DROP FUNCTION keep(), route();
DROP ROLE regress_owner;
