-- optout.purge(): tables of all kinds, triggers, rules, foreign keys, privileges.
CREATE EXTENSION optout;
SET client_min_messages = warning;
SELECT optout.enroll(ARRAY['alice', 'bob', '7']);
SELECT optout.link('alice', ARRAY['phone']);
SELECT optout.opt_out(ARRAY['alice', '7']);
-- let events of users who are out into a table
CREATE FUNCTION store(relation regclass, command text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('ALTER TABLE %s DISABLE TRIGGER USER', relation);
	EXECUTE command;
	SET CONSTRAINTS ALL IMMEDIATE;
	EXECUTE format('ALTER TABLE %s ENABLE TRIGGER USER', relation);
	PERFORM optout.repair();
END $$;
SET client_min_messages = notice;

-- Partitions: once, through their root, which counts
CREATE TABLE visit (id int, user_id text, day int) PARTITION BY RANGE (day);
CREATE TABLE visit_1 PARTITION OF visit FOR VALUES FROM (1) TO (10);
CREATE TABLE visit_2 (day int, junk int, user_id text, id int);
ALTER TABLE visit_2 DROP COLUMN junk;
ALTER TABLE visit ATTACH PARTITION visit_2 FOR VALUES FROM (10) TO (20);
CREATE TABLE visit_3 PARTITION OF visit FOR VALUES FROM (20) TO (30) PARTITION BY RANGE (day);
CREATE TABLE visit_3_1 PARTITION OF visit_3 FOR VALUES FROM (20) TO (30);
SELECT optout.guard('visit');
SELECT store('visit', $$INSERT INTO visit VALUES (1, 'alice', 1), (2, 'phone', 11), (3, 'bob', 12), (4, 'alice', 21), (5, 'bob', 22)$$);
SELECT * FROM optout.stored_events(ARRAY['alice']);
CALL optout.purge(ARRAY['alice']);
SELECT * FROM visit ORDER BY id;
-- somebody has altered the guard of one partition
ALTER TABLE visit_3_1 DISABLE TRIGGER optout_guard;
CALL optout.purge(ARRAY['alice']);
\echo :LAST_ERROR_SQLSTATE
-- guards come before users
CALL optout.purge(ARRAY['bob']);
CALL optout.purge(ARRAY['alice'], dry_run => true);
SELECT optout.repair();
ALTER TABLE visit ENABLE REPLICA TRIGGER optout_guard;
CALL optout.purge(ARRAY['alice']);
SELECT optout.repair();
-- a partition that has a guard of its own, too: either finds its events
CREATE TABLE visit_4 (id int, user_id text, day int, device text);
ALTER TABLE visit ADD COLUMN device text;
SELECT optout.guard('visit_4', 'device');
ALTER TRIGGER optout_guard ON visit_4 RENAME TO optout_guard_of_devices;
ALTER TABLE visit ATTACH PARTITION visit_4 FOR VALUES FROM (30) TO (40);
SELECT store('visit_4', $$INSERT INTO visit_4 VALUES (6, 'alice', 31, NULL), (7, 'bob', 31, 'phone'), (8, 'bob', 31, 'tv')$$);
INSERT INTO visit VALUES (9, 'bob', 1, 'phone');
SELECT * FROM optout.stored_events(ARRAY['alice']);
CALL optout.purge(ARRAY['alice']);
SELECT id, user_id, device FROM visit WHERE id > 5 ORDER BY id;
DROP TABLE visit;

-- Inheritance: children that have no guard are the parent's, those that have one their own
CREATE TABLE parent (id int, user_id text);
CREATE TABLE child () INHERITS (parent);
CREATE TABLE own (device text) INHERITS (parent);
CREATE TABLE grandchild (extra int) INHERITS (own);
SELECT optout.guard('own', ARRAY['user_id', 'device']);
SELECT optout.guard('parent');
INSERT INTO child VALUES (1, 'alice'), (2, 'bob');
SELECT store('parent', $$INSERT INTO parent VALUES (3, 'phone'), (4, 'bob')$$);
SELECT optout.guard('own', ARRAY['device']);
SELECT store('own', $$INSERT INTO own VALUES (5, 'alice', NULL), (6, 'bob', 'phone'), (7, 'bob', 'tv')$$);
INSERT INTO grandchild VALUES (8, 'alice', NULL, 1), (9, 'bob', 'phone', 1), (10, 'bob', 'tv', 1);
SELECT * FROM optout.stored_events(ARRAY['alice']);
CALL optout.purge(ARRAY['alice']);
SELECT tableoid::regclass, id, user_id FROM parent ORDER BY id;
SET client_min_messages = warning;
DROP TABLE parent CASCADE;
SET client_min_messages = notice;
-- one that names no organization, though the parent has to; or one from before it had to
CREATE TABLE parent (id int, user_id text, org text NOT NULL);
CREATE TABLE child () INHERITS (parent);
CREATE TABLE former (id int, user_id text, org text);
SELECT optout.guard('parent', ARRAY['user_id'], organization => 'org'), optout.guard('former', ARRAY['user_id'], organization => 'org');
DO $$
BEGIN
	IF current_setting('server_version_num')::int < 180000 THEN
		ALTER TABLE child ALTER COLUMN org DROP NOT NULL;
	ELSE
		ALTER TABLE parent ALTER COLUMN org DROP NOT NULL;
		EXECUTE 'ALTER TABLE parent ADD CONSTRAINT org NOT NULL org NO INHERIT';
	END IF;
END $$;
INSERT INTO child VALUES (1, 'alice', 'default'), (2, 'alice', NULL), (3, 'alice', 'acme'), (4, 'bob', NULL);
SELECT store('former', $$INSERT INTO former VALUES (5, 'alice', NULL), (6, 'bob', NULL)$$);
DO $$
BEGIN
	IF current_setting('server_version_num')::int >= 180000 THEN
		EXECUTE 'ALTER TABLE former ADD CONSTRAINT org NOT NULL org NOT VALID';
	END IF;
END $$;
CALL optout.purge(ARRAY['alice']);
SELECT * FROM parent UNION ALL SELECT * FROM former ORDER BY id;
DROP TABLE parent, child, former;

-- Foreign tables are left alone: the promise could not be kept there
CREATE EXTENSION postgres_fdw;
CREATE SERVER nowhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '/nowhere', port '1');
CREATE USER MAPPING FOR PUBLIC SERVER nowhere;
CREATE FOREIGN TABLE far (user_id text) SERVER nowhere;
SELECT optout.guard('far');
CREATE TABLE near (user_id text, day int) PARTITION BY RANGE (day);
CREATE TABLE near_1 PARTITION OF near FOR VALUES FROM (1) TO (10);
CREATE FOREIGN TABLE near_2 PARTITION OF near FOR VALUES FROM (10) TO (20) SERVER nowhere;
SELECT optout.guard('near');
SELECT store('near', $$INSERT INTO near VALUES ('alice', 1), ('phone', 2), ('bob', 3)$$);
CALL optout.purge(ARRAY['alice']);
SELECT * FROM near_1;
-- they are asked when one wants to know what is there
SELECT * FROM optout.stored_events(ARRAY['alice']);
\echo :LAST_ERROR_SQLSTATE
SELECT relation, deleted FROM optout.purges WHERE relation ~ 'near|far';
DROP TABLE near;
DROP FOREIGN TABLE far;
DROP SERVER nowhere CASCADE;
DROP EXTENSION postgres_fdw;

-- Other sessions' temporary tables cannot be read; one's own are tables like any other
CREATE TEMP TABLE scratch (user_id text);
SELECT optout.guard('scratch');
SELECT store('scratch', $$INSERT INTO scratch VALUES ('alice'), ('bob')$$);
-- (whose schema's name differs from session to session)
SET client_min_messages = warning;
CALL optout.purge(ARRAY['alice']);
RESET client_min_messages;
SELECT * FROM scratch;
DROP TABLE scratch;

-- Soft deletion: what is left is an error, and nothing is deleted, not even elsewhere
CREATE TABLE plain (user_id text);
CREATE TABLE soft (id int, user_id text, deleted boolean);
CREATE INDEX ON plain (user_id);
CREATE INDEX ON soft (user_id);
SELECT optout.guard('plain'), optout.guard('soft');
SELECT store('plain', $$INSERT INTO plain VALUES ('alice'), ('bob')$$), store('soft', $$INSERT INTO soft VALUES (1, 'alice'), (2, 'alice'), (3, 'bob')$$);
CREATE FUNCTION softly() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE public.soft SET deleted = true WHERE id = OLD.id;
	RETURN NULL;
END $$;
CREATE TRIGGER softly BEFORE DELETE ON soft FOR EACH ROW EXECUTE FUNCTION softly();
CALL optout.purge(ARRAY['alice'], dry_run => true);
CALL optout.purge(ARRAY['alice']);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM plain;
SELECT * FROM soft;
-- one that keeps a single row
CREATE OR REPLACE FUNCTION softly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN CASE WHEN OLD.id <> 2 THEN OLD END; END $$;
CALL optout.purge(ARRAY['alice']);
-- one that anonymizes: nothing of theirs is left, which is what was asked for
CREATE OR REPLACE FUNCTION softly() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE public.soft SET user_id = NULL WHERE id = OLD.id;
	RETURN NULL;
END $$;
CALL optout.purge(ARRAY['alice']);
SELECT * FROM soft ORDER BY id;
DROP TRIGGER softly ON soft;
-- one that puts it back: the guard takes care of that
SELECT store('soft', $$INSERT INTO soft VALUES (4, 'alice')$$);
CREATE OR REPLACE FUNCTION softly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.soft VALUES (5, OLD.user_id), (6, 'carol'); RETURN NULL; END $$;
CREATE TRIGGER softly AFTER DELETE ON soft FOR EACH ROW EXECUTE FUNCTION softly();
CALL optout.purge(ARRAY['alice']);
SELECT * FROM soft ORDER BY id;
DROP TRIGGER softly ON soft;
-- one of a partition
CREATE TABLE kept (user_id text, n int) PARTITION BY LIST (n);
CREATE INDEX ON kept (user_id);
CREATE TABLE kept_1 PARTITION OF kept FOR VALUES IN (1);
CREATE TABLE kept_2 PARTITION OF kept FOR VALUES IN (2);
SELECT optout.guard('kept');
SELECT store('kept', $$INSERT INTO kept VALUES ('alice', 1), ('alice', 2)$$);
CREATE OR REPLACE FUNCTION softly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER softly BEFORE DELETE ON kept_2 FOR EACH ROW EXECUTE FUNCTION softly();
CALL optout.purge(ARRAY['alice']);
SELECT count(*) FROM kept;
DROP TABLE kept;
-- a foreign key that puts somebody else's id into a row, who is to be purged, too
CREATE TABLE person (id int PRIMARY KEY, user_id text);
CREATE TABLE about (person int DEFAULT 7 REFERENCES person ON DELETE SET DEFAULT);
CREATE INDEX ON person (user_id);
CREATE INDEX ON about (person);
INSERT INTO person VALUES (1, NULL), (7, 'bob');
INSERT INTO about VALUES (1);
SELECT optout.guard('person'), optout.guard('about', 'person');
SELECT store('person', $$UPDATE person SET user_id = 'alice' WHERE id = 1$$);
CALL optout.purge(ARRAY['alice', '7']);
SELECT * FROM about;
DROP TABLE about, person;
-- rules
SELECT store('soft', $$INSERT INTO soft VALUES (7, 'alice')$$);
CREATE RULE keep AS ON DELETE TO soft DO INSTEAD UPDATE soft SET deleted = true WHERE id = OLD.id;
CALL optout.purge(ARRAY['alice']);
\echo :LAST_ERROR_SQLSTATE
CREATE OR REPLACE RULE keep AS ON DELETE TO soft DO INSTEAD NOTHING;
CALL optout.purge(ARRAY['alice']);
CREATE OR REPLACE RULE keep AS ON DELETE TO soft DO ALSO INSERT INTO plain VALUES ('zoe');
CALL optout.purge(ARRAY['alice']);
SELECT * FROM plain ORDER BY 1;
-- a trigger that fails
SELECT store('soft', $$INSERT INTO soft VALUES (8, 'alice')$$), store('plain', $$INSERT INTO plain VALUES ('alice')$$);
CREATE OR REPLACE FUNCTION softly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
CREATE TRIGGER softly BEFORE DELETE ON soft FOR EACH ROW EXECUTE FUNCTION softly();
CALL optout.purge(ARRAY['alice']);
SELECT count(*) FROM plain WHERE user_id = 'alice';
DROP TABLE plain, soft;

-- Foreign keys: details that are guarded, too, go first, whatever the names and however far
CREATE TABLE a_event (id int PRIMARY KEY, user_id text);
CREATE TABLE b_detail (id int PRIMARY KEY, event int REFERENCES a_event, user_id text);
CREATE TABLE c_between (id int PRIMARY KEY, detail int REFERENCES b_detail);
CREATE TABLE d_leaf (between_id int REFERENCES c_between ON DELETE CASCADE, user_id text, parent int REFERENCES a_event INITIALLY DEFERRED DEFERRABLE);
CREATE INDEX ON a_event (user_id); CREATE INDEX ON b_detail (user_id); CREATE INDEX ON d_leaf (user_id);
SELECT optout.guard('a_event'), optout.guard('b_detail'), optout.guard('d_leaf');
CREATE FUNCTION fill() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM store('a_event', 'INSERT INTO a_event VALUES (1, ''alice''), (2, ''bob'')');
	PERFORM store('b_detail', 'INSERT INTO b_detail VALUES (1, 1, ''alice''), (2, 2, ''bob'')');
	PERFORM store('d_leaf', 'INSERT INTO d_leaf VALUES (NULL, ''alice'', 1), (NULL, ''bob'', 2)');
END $$;
SELECT fill();
CALL optout.purge(ARRAY['alice']);
SELECT (SELECT count(*) FROM a_event) AS events, (SELECT count(*) FROM b_detail) AS details, (SELECT count(*) FROM d_leaf) AS leaves;
-- details of somebody else, or unguarded ones, refuse
TRUNCATE a_event CASCADE;
SELECT fill();
INSERT INTO c_between VALUES (1, 1);
CALL optout.purge(ARRAY['alice']);
\echo :LAST_ERROR_SQLSTATE
SELECT (SELECT count(*) FROM a_event) AS events, (SELECT count(*) FROM b_detail) AS details, (SELECT count(*) FROM d_leaf) AS leaves;
DELETE FROM c_between;
-- also if they are to be checked at the end only: it is not left to a later statement, or to the caller
INSERT INTO d_leaf VALUES (NULL, 'bob', 1);
BEGIN;
CALL optout.purge(ARRAY['alice']);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
-- tables that refer to each other
ALTER TABLE a_event ADD last_detail int REFERENCES b_detail;
DELETE FROM d_leaf WHERE user_id = 'bob';
CALL optout.purge(ARRAY['alice']);
DROP TABLE a_event, b_detail, c_between, d_leaf;
DROP FUNCTION fill;
-- a circle that they refer to does not matter
CREATE TABLE member (id int PRIMARY KEY);
CREATE TABLE team (id int PRIMARY KEY, head int REFERENCES member);
ALTER TABLE member ADD team int REFERENCES team;
CREATE TABLE a_event (id int PRIMARY KEY, member int REFERENCES member, user_id text);
CREATE TABLE b_detail (event int REFERENCES a_event, team int REFERENCES team, user_id text);
CREATE INDEX ON a_event (user_id); CREATE INDEX ON b_detail (user_id);
SELECT optout.guard('a_event'), optout.guard('b_detail');
SELECT store('a_event', 'INSERT INTO a_event VALUES (1, NULL, ''alice'')'), store('b_detail', 'INSERT INTO b_detail VALUES (1, NULL, ''alice'')');
CALL optout.purge(ARRAY['alice']);
DROP TABLE a_event, b_detail, member, team CASCADE;

-- A trigger is its owner's, not the caller's: theirs are the rights it runs with
CREATE ROLE regress_owner;
CREATE ROLE regress_admin;
CREATE ROLE regress_stranger;
GRANT ALL ON SCHEMA public TO regress_owner, regress_admin;
SELECT optout.grant_authority('regress_admin', 'default', 'administer');
CREATE TABLE witness (what text);
GRANT INSERT ON witness TO PUBLIC;
CREATE TABLE trap (user_id text);
CREATE TABLE other (user_id text);
CREATE INDEX ON trap (user_id);
SELECT optout.guard('trap');
SELECT store('trap', $$INSERT INTO trap VALUES ('alice')$$);
INSERT INTO other VALUES ('secret');
ALTER TABLE trap OWNER TO regress_owner;
SET ROLE regress_owner;
CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.witness VALUES (format('%s, may read other: %s, path %s, work_mem %s', current_user, has_table_privilege('public.other', 'SELECT'), current_setting('search_path'), current_setting('work_mem')));
	PERFORM set_config('work_mem', '77MB', false);
	RETURN OLD;
END $$;
CREATE TRIGGER trap BEFORE DELETE ON trap FOR EACH ROW EXECUTE FUNCTION trap();
RESET ROLE;
SET work_mem = '5MB';
CALL optout.purge(ARRAY['alice']);
SELECT * FROM witness;
SHOW work_mem;
RESET work_mem;
-- nor does it get out of it
SELECT store('trap', $$INSERT INTO trap VALUES ('alice')$$);
SET ROLE regress_owner;
CREATE OR REPLACE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'RESET ROLE'; RETURN OLD; END $$;
RESET ROLE;
CALL optout.purge(ARRAY['alice']);
-- nor does a function that the server evaluates to plan a query, while events are counted
SET ROLE regress_owner;
CREATE FUNCTION always(int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF current_user <> 'regress_owner' THEN
		RAISE WARNING 'runs as %', current_user;
	END IF;
	RETURN true;
END $$;
CREATE INDEX trap_always ON trap (user_id) WHERE always(1);
RESET ROLE;
SELECT * FROM optout.stored_events(ARRAY['alice']);
SET ROLE regress_owner;
DROP INDEX trap_always;
DROP FUNCTION always;
RESET ROLE;
-- one that the owner defers is run at once, as the owner
SET ROLE regress_owner;
DROP TRIGGER trap ON trap;
CREATE OR REPLACE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.witness VALUES ('deferred: ' || current_user); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER trap AFTER DELETE ON trap DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION trap();
RESET ROLE;
TRUNCATE witness;
BEGIN;
CALL optout.purge(ARRAY['alice']);
SELECT * FROM witness;
COMMIT;
SELECT * FROM witness;
SET ROLE regress_owner;
DROP TRIGGER trap ON trap;
RESET ROLE;

-- Privileges: on every guarded table, SELECT and DELETE, and USAGE on its schema
SET ROLE regress_stranger;
CALL optout.purge(ARRAY['alice']);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM optout.stored_events(ARRAY['alice']);
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
GRANT EXECUTE ON PROCEDURE optout.purge(text[], text, boolean) TO regress_stranger;
SET ROLE regress_stranger;
CALL optout.purge(ARRAY['alice'], dry_run => true);
-- authority comes first: nothing is said of tables and users
CALL optout.purge(ARRAY['nobody'], 'acme');
RESET ROLE;
-- privileges come before guards and users
ALTER TABLE trap DISABLE TRIGGER optout_guard;
SET ROLE regress_admin;
CALL optout.purge(ARRAY['nobody']);
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
ALTER TABLE trap ENABLE ALWAYS TRIGGER optout_guard;
SET ROLE regress_admin;
SELECT * FROM optout.stored_events(ARRAY['alice']);
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
GRANT SELECT ON trap TO regress_admin;
SET ROLE regress_admin;
CALL optout.purge(ARRAY['alice']);
SELECT * FROM optout.stored_events(ARRAY['alice']);
RESET ROLE;
REVOKE SELECT ON trap FROM regress_admin;
GRANT SELECT (user_id), DELETE ON trap TO regress_admin;
SET ROLE regress_admin;
CALL optout.purge(ARRAY['alice']);
SELECT * FROM optout.stored_events(ARRAY['alice']);
RESET ROLE;
GRANT SELECT ON trap TO regress_admin;
SELECT store('trap', $$INSERT INTO trap VALUES ('alice')$$);
SET ROLE regress_admin;
SELECT * FROM optout.stored_events(ARRAY['alice']);
CALL optout.purge(ARRAY['alice']);
SELECT purged_by, relation, deleted FROM optout.purges ORDER BY purged_at DESC LIMIT 1;
RESET ROLE;
CREATE SCHEMA closed;
ALTER TABLE trap SET SCHEMA closed;
SET ROLE regress_admin;
CALL optout.purge(ARRAY['alice'], dry_run => true);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM optout.stored_events(ARRAY['alice']);
RESET ROLE;
-- the owner of the table needs none: the caller has it
GRANT USAGE ON SCHEMA closed TO regress_admin;
SELECT store('closed.trap', $$INSERT INTO closed.trap VALUES ('alice')$$);
SET ROLE regress_admin;
CALL optout.purge(ARRAY['alice']);
RESET ROLE;
-- it does where row-level security is enabled, though not for the caller
ALTER TABLE closed.trap ENABLE ROW LEVEL SECURITY;
SELECT store('closed.trap', $$INSERT INTO closed.trap VALUES ('alice')$$);
CALL optout.purge(ARRAY['alice']);
\echo :LAST_ERROR_SQLSTATE
GRANT USAGE ON SCHEMA closed TO regress_owner;
CALL optout.purge(ARRAY['alice']);
ALTER TABLE closed.trap DISABLE ROW LEVEL SECURITY;
ALTER TABLE closed.trap SET SCHEMA public;
-- nor on the extension's
REVOKE USAGE ON SCHEMA optout FROM PUBLIC;
GRANT USAGE ON SCHEMA optout TO regress_admin;
CREATE TABLE raw (doc json);
SELECT optout.guard('raw', ARRAY['$.u'], payload => 'doc');
SELECT store('raw', $$INSERT INTO raw VALUES ('{"u": "alice"}'), ('{"u": "bob"}')$$);
CREATE INDEX ON raw (optout.json_id(doc, '$.u'));
ALTER TABLE raw OWNER TO regress_owner;
GRANT SELECT, DELETE ON raw TO regress_admin;
SET ROLE regress_admin;
CALL optout.purge(ARRAY['alice']);
RESET ROLE;
DROP TABLE raw;
GRANT USAGE ON SCHEMA optout TO PUBLIC;
-- row-level security
ALTER TABLE trap ENABLE ROW LEVEL SECURITY;
CREATE POLICY nothing ON trap TO regress_admin USING (false);
SET ROLE regress_admin;
CALL optout.purge(ARRAY['alice']);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM optout.stored_events(ARRAY['alice']);
\echo :LAST_ERROR_SQLSTATE
SET row_security = off;
CALL optout.purge(ARRAY['alice']);
RESET row_security;
RESET ROLE;
-- who is not subject to it purges, even if it is forced upon the owner
ALTER TABLE trap FORCE ROW LEVEL SECURITY;
SELECT store('trap', $$INSERT INTO trap VALUES ('alice'), ('bob')$$);
CALL optout.purge(ARRAY['alice']);
SELECT * FROM trap;
ALTER ROLE regress_admin BYPASSRLS;
SELECT store('trap', $$INSERT INTO trap VALUES ('alice')$$);
SET ROLE regress_admin;
CALL optout.purge(ARRAY['alice']);
RESET ROLE;
-- tables of other organizations do not matter
CREATE TABLE theirs (user_id text);
SELECT optout.guard('theirs', ARRAY['user_id'], fixed_organization => 'acme');
SET ROLE regress_admin;
CALL optout.purge(ARRAY['alice']);
RESET ROLE;
DROP TABLE trap, theirs, other, witness;
DROP FUNCTION trap;
SELECT optout.revoke_authority('regress_admin', 'default', 'administer');
-- whoever may read may see what is stored, and no more
SELECT optout.grant_authority('regress_stranger', 'default', 'read');
CREATE TABLE event (user_id text);
SELECT optout.guard('event');
SELECT store('event', $$INSERT INTO event VALUES ('alice'), ('phone')$$);
GRANT SELECT ON event TO regress_stranger;
SET ROLE regress_stranger;
SELECT * FROM optout.stored_events(ARRAY['alice']);
SELECT * FROM optout.stored_events(ARRAY['alice'], 'acme');
CALL optout.purge(ARRAY['alice'], dry_run => true);
SELECT count(*) > 0 AS some FROM optout.purges;
SELECT count(*) FROM optout.purge_ledger;
RESET ROLE;
SELECT optout.revoke_authority('regress_stranger', 'default', 'read');
SET ROLE regress_stranger;
SELECT count(*) FROM optout.purges;
RESET ROLE;
DROP TABLE event;

-- Guards made by hand, several on a table, and ones that say nothing
CREATE TABLE event (id int, user_id text, device text, org text);
SELECT optout.guard('event');
ALTER TRIGGER optout_guard ON event RENAME TO guard_1;
SELECT optout.guard('event', ARRAY['user_id'], fixed_organization => 'globex');
ALTER TRIGGER optout_guard ON event RENAME TO guard_0;
SELECT optout.guard('event', 'device', organization => 'org');
SELECT store('event', $$INSERT INTO event VALUES (1, 'alice', NULL, 'acme'), (2, 'bob', 'phone', 'default'), (3, 'bob', 'phone', 'acme'), (4, 'bob', NULL, NULL), (5, 'bob', 'phone', NULL)$$);
SELECT * FROM optout.stored_events(ARRAY['alice']);
-- to one of the guards they are the writer's, to another one globex's
SELECT optout.enroll('phone', 'acme'), optout.opt_out('phone', 'acme');
SELECT * FROM optout.stored_events(ARRAY['alice', 'phone'], 'acme');
CALL optout.purge(ARRAY['phone'], 'acme', dry_run => true);
CALL optout.purge(ARRAY['alice']);
SELECT * FROM event ORDER BY id;
CREATE TRIGGER guard_2 BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION optout.discard_opted_out();
ALTER TABLE event ENABLE ALWAYS TRIGGER guard_2;
CALL optout.purge(ARRAY['alice']);
DROP TABLE event;

DROP FUNCTION store, softly;
DROP SCHEMA closed;
REVOKE ALL ON SCHEMA public FROM regress_owner, regress_admin;
DROP OWNED BY regress_owner, regress_admin, regress_stranger;
DROP ROLE regress_owner, regress_admin, regress_stranger;
DROP EXTENSION optout;
