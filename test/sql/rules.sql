-- Rules for tables to come: whatever makes a table in the schema, or gives it such a
-- column, the table is guarded.
CREATE EXTENSION optout;
SELECT optout.enroll(ARRAY['alice', 'bob']), optout.opt_out('alice');
CREATE SCHEMA wh;
CREATE SCHEMA other;
CREATE ROLE regress_loader;
GRANT USAGE, CREATE ON SCHEMA wh, other, public TO regress_loader;
CREATE VIEW guards AS
SELECT relation, user_ids, organization, occurred_at, payload, time_zone, fixed_organization, fires, by_rule
  FROM optout.guarded ORDER BY relation::text COLLATE "C";

-- without any rule, nothing happens
CREATE TABLE wh.before (user_id text);
CREATE TABLE wh.unrelated (id int);
CREATE TABLE wh.by_hand (user_id text, anonymous_id text);
SELECT optout.guard('wh.by_hand');
SELECT * FROM guards;
SELECT * FROM optout.guard_rules;

-- what is there
SELECT optout.guard_schema('wh');
SELECT * FROM optout.guard_rules;
SELECT * FROM guards;
SELECT tgrelid::regclass, tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname ~ '^optout_guard' ORDER BY 1;
INSERT INTO wh.before VALUES ('alice'), ('bob') RETURNING *;

-- A loader that owns nothing of ours; without a word
SET ROLE regress_loader;
CREATE TABLE IF NOT EXISTS wh.created (id int, user_id text);
CREATE TABLE IF NOT EXISTS wh.created (id int, user_id text);
CREATE UNLOGGED TABLE wh.fast (user_id varchar(20));
CREATE TABLE wh.like_it (LIKE wh.created INCLUDING ALL);
CREATE TABLE wh.serial (id serial PRIMARY KEY, user_id bigint REFERENCES wh.serial);
SET search_path = wh;
CREATE TABLE by_path (user_id uuid);
RESET search_path;
INSERT INTO wh.created VALUES (1, 'alice'), (2, 'bob') RETURNING *;
COPY wh.like_it FROM STDIN;
1	alice
2	bob
\.
SELECT * FROM wh.like_it;
-- for replication, too
RESET ROLE;
SET session_replication_role = replica;
CREATE TABLE wh.replicated (user_id text);
INSERT INTO wh.replicated VALUES ('alice'), ('bob') RETURNING *;
RESET session_replication_role;
SET ROLE regress_loader;
-- given the column later, and by another name
CREATE TABLE wh.late (id int);
ALTER TABLE wh.late ADD x int, ADD COLUMN IF NOT EXISTS user_id text;
CREATE TABLE wh.later (id int, "User" text);
ALTER TABLE wh.later RENAME "User" TO user_id;
-- PostgreSQL lets columns of tables be renamed as if they were views
CREATE TABLE wh.as_view ("User" text);
ALTER VIEW wh.as_view RENAME "User" TO user_id;
INSERT INTO wh.as_view VALUES ('alice'), ('bob') RETURNING *;
ALTER MATERIALIZED VIEW wh.as_view RENAME user_id TO "User";
ALTER MATERIALIZED VIEW wh.as_view RENAME "User" TO user_id;
INSERT INTO wh.as_view VALUES ('alice'), ('bob') RETURNING *;
DROP TABLE wh.as_view;
INSERT INTO wh.late VALUES (1, 2, 'alice'), (2, 2, 'bob') RETURNING *;
INSERT INTO wh.later VALUES (1, 'alice'), (2, 'bob') RETURNING *;
-- moved there, and renamed into place
CREATE TABLE other.moved (user_id text);
ALTER TABLE other.moved SET SCHEMA wh;
INSERT INTO wh.moved VALUES ('alice'), ('bob') RETURNING *;
CREATE TABLE wh.created_new (LIKE wh.created);
ALTER TABLE wh.created RENAME TO created_old;
ALTER TABLE wh.created_new RENAME TO created;
DROP TABLE wh.created_old;
INSERT INTO wh.created VALUES (1, 'alice'), (2, 'bob') RETURNING *;
-- in functions and DO blocks
CREATE FUNCTION other.make(name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE TABLE wh.%I (id int)', name);
	EXECUTE format('ALTER TABLE wh.%I ADD user_id text', name);
END $$;
SELECT other.make('by function');
DO 'BEGIN CREATE TABLE wh.by_do (user_id text); END';
INSERT INTO wh."by function" VALUES (1, 'alice'), (2, 'bob') RETURNING *;
INSERT INTO wh.by_do VALUES ('alice'), ('bob') RETURNING *;
RESET ROLE;
SELECT * FROM guards;
SELECT DISTINCT tgname, tgenabled, tgattr FROM pg_trigger WHERE tgname ~ '^optout_guard_rule';

-- What a rule is not for
CREATE TEMP TABLE temporary (user_id text);
CREATE TEMP TABLE temporary_as AS SELECT 'alice' AS user_id;
CREATE TABLE other.elsewhere (user_id text);
CREATE TABLE wh.no_user (id int, "USER_ID" text);
CREATE VIEW wh.seen AS SELECT user_id FROM wh.before;
CREATE MATERIALIZED VIEW wh.kept AS SELECT user_id FROM wh.before;
SELECT relation FROM guards WHERE relation IN ('temporary'::regclass, 'temporary_as', 'other.elsewhere', 'wh.no_user', 'wh.seen', 'wh.kept');
SELECT * FROM temporary_as;
DROP SCHEMA other CASCADE;
DROP TABLE wh.created, wh.fast, wh.serial, wh.by_path, wh.replicated, wh.late, wh.later, wh.moved, wh."by function", wh.by_do, wh.like_it;

-- CREATE TABLE AS and SELECT INTO have stored their rows before: those of opted-out
-- users are deleted, and counted.
CREATE SCHEMA other AUTHORIZATION regress_loader;
SET ROLE regress_loader;
CREATE TABLE public.source AS SELECT u AS user_id, n FROM unnest('{alice,bob}'::text[]) u, generate_series(1, 3) n;
RESET ROLE;
SELECT sum(discarded) AS before FROM optout.discards \gset
SET ROLE regress_loader;
CREATE TABLE wh.created_as AS SELECT * FROM source;
SELECT * INTO wh.selected FROM source WHERE n < 3;
PREPARE rows AS SELECT * FROM source WHERE n = 1;
CREATE TABLE wh.executed AS EXECUTE rows;
CREATE TABLE wh.empty AS SELECT * FROM source WITH NO DATA;
CREATE TABLE IF NOT EXISTS wh.created_as AS SELECT * FROM source;
CREATE TABLE other.not_ours AS SELECT * FROM source;
SELECT * FROM wh.created_as ORDER BY n;
SELECT * FROM wh.selected ORDER BY n;
SELECT * FROM wh.executed;
SELECT count(*) FROM other.not_ours;
INSERT INTO wh.empty VALUES ('alice', 1), ('bob', 1) RETURNING *;
RESET ROLE;
SELECT sum(discarded) - :before AS discarded FROM optout.discards;
-- not if it is rolled back
BEGIN;
SAVEPOINT s;
CREATE TABLE wh.undone AS SELECT * FROM source;
SELECT count(*) FROM wh.undone;
ROLLBACK TO s;
CREATE TABLE wh.undone AS SELECT * FROM source WHERE n = 1;
SELECT * FROM wh.undone;
COMMIT;
SELECT sum(discarded) - :before AS discarded FROM optout.discards;
-- under an old snapshot, and where a DELETE would be refused
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM source;
CREATE TABLE wh.repeatable AS SELECT * FROM source WHERE n = 1;
SELECT * FROM wh.repeatable;
COMMIT;
SET client_min_messages = error;
CREATE PUBLICATION regress_everything FOR ALL TABLES;
CREATE TABLE wh.published AS SELECT * FROM source WHERE n = 1;
RESET client_min_messages;
SELECT * FROM wh.published;
DROP PUBLICATION regress_everything;
-- an organization that can be none is an error, as it would be of an INSERT
SELECT optout.guard_schema('wh', organization => 'org');
CREATE TABLE wh.bad_organization AS SELECT 'alice' AS user_id, '' AS org;
CREATE TABLE wh.organizations AS SELECT * FROM (VALUES ('alice', 'default'), ('alice', 'acme'), ('bob', NULL)) AS v (user_id, org);
SELECT * FROM wh.organizations;
SELECT optout.guard_schema('wh');
DROP TABLE source, wh.created_as, wh.selected, wh.executed, wh.empty, wh.undone, wh.repeatable, wh.published, wh.organizations;

-- CREATE SCHEMA with elements, and schemas that get the name
DROP SCHEMA wh CASCADE;
SELECT * FROM optout.guard_rules;
CREATE SCHEMA wh CREATE TABLE first (user_id text) CREATE TABLE second (id int) CREATE VIEW v AS SELECT * FROM first CREATE TABLE third (user_id text, id int);
SELECT relation, by_rule FROM guards;
INSERT INTO wh.first VALUES ('alice'), ('bob') RETURNING *;
CREATE SCHEMA wh_new;
GRANT USAGE, CREATE ON SCHEMA wh_new TO regress_loader;
CREATE TABLE wh_new.first (user_id text);
CREATE TABLE wh_new.fourth (user_id text);
ALTER SCHEMA wh RENAME TO wh_old;
ALTER SCHEMA wh_new RENAME TO wh;
SELECT relation, by_rule FROM guards;
INSERT INTO wh.first VALUES ('alice'), ('bob') RETURNING *;
CREATE TABLE wh.fifth (user_id text);
CREATE TABLE wh_old.fifth (user_id text);
SELECT relation, by_rule FROM guards;
DROP SCHEMA wh_old CASCADE;

-- Undone
BEGIN;
CREATE TABLE wh.undone (user_id text);
SAVEPOINT s;
ALTER TABLE wh.undone RENAME user_id TO gone;
INSERT INTO wh.undone VALUES ('alice') RETURNING *;
ROLLBACK TO s;
INSERT INTO wh.undone VALUES ('alice'), ('bob') RETURNING *;
SELECT optout.unguard_schema('wh');
CREATE TABLE wh.not_guarded (user_id text);
ROLLBACK;
SELECT relation FROM guards;
CREATE TABLE wh.undone (user_id text);
BEGIN;
SELECT optout.guard_schema('wh', ARRAY['person']);
CREATE TABLE wh.person (person text);
SELECT relation, user_ids FROM guards;
ROLLBACK;
SELECT relation, user_ids FROM guards;

-- Two rules, and from one to the other
CREATE SCHEMA second;
SELECT optout.guard_schema('second', ARRAY['person', 'user_id'], occurred_at => 'at');
SELECT * FROM optout.guard_rules ORDER BY schema;
CREATE TABLE wh.wanders (user_id text, person text, at timestamptz);
SELECT * FROM guards WHERE relation = 'wh.wanders'::regclass;
ALTER TABLE wh.wanders SET SCHEMA second;
SELECT * FROM guards WHERE relation = 'second.wanders'::regclass;
ALTER TABLE second.wanders SET SCHEMA wh;
SELECT * FROM guards WHERE relation = 'wh.wanders'::regclass;
-- to where there is none: the guard stays
ALTER TABLE wh.wanders SET SCHEMA public;
SELECT * FROM guards WHERE relation = 'wanders'::regclass;
INSERT INTO wanders VALUES ('alice'), ('bob') RETURNING user_id;
-- and follows its columns
ALTER TABLE wanders RENAME user_id TO uid;
ALTER TABLE wanders ALTER uid TYPE varchar(40);
INSERT INTO wanders VALUES ('alice'), ('bob') RETURNING uid;
SELECT * FROM guards WHERE relation = 'wanders'::regclass;
ALTER TABLE wanders DROP uid;
SELECT * FROM guards WHERE relation = 'wanders'::regclass;
INSERT INTO wanders VALUES ('alice') RETURNING person;
DROP TABLE wanders;

-- Again replaces; what is made by hand is left alone
CREATE TABLE wh.by_hand (user_id text, person text);
SELECT optout.unguard('wh.by_hand');
SELECT optout.guard('wh.by_hand', 'person');
SELECT optout.guard_schema('wh', ARRAY['person', 'user_id']);
CREATE TABLE wh.both (user_id text, person text);
SELECT relation, user_ids, by_rule FROM guards;
SELECT optout.guard_schema('wh', ARRAY['person']);
SELECT relation, user_ids, by_rule FROM guards;
-- a NOTICE of each column that no table has
SELECT optout.guard_schema('wh', ARRAY['person', 'usr_id', '$.user.id'], occurred_at => 'occured_at', payload => 'data');
SELECT optout.guard_schema('wh');
SELECT relation, user_ids, by_rule FROM guards;
-- by hand instead of the rule's, and back
SELECT optout.guard('wh.both', ARRAY['user_id', 'person']);
SELECT relation, user_ids, by_rule FROM guards WHERE relation = 'wh.both'::regclass;
ALTER TABLE wh.both ADD more int;
SELECT relation, user_ids, by_rule FROM guards WHERE relation = 'wh.both'::regclass;
SELECT tgname FROM pg_trigger WHERE tgrelid = 'wh.both'::regclass;
SELECT optout.unguard('wh.both');
SELECT relation, user_ids, by_rule FROM guards WHERE relation = 'wh.both'::regclass;
ALTER TABLE wh.both ADD even_more int;
SELECT relation, user_ids, by_rule FROM guards WHERE relation = 'wh.both'::regclass;
SELECT optout.unguard('wh.both');
SELECT optout.guard_schema('wh');
SELECT relation, user_ids, by_rule FROM guards WHERE relation = 'wh.both'::regclass;

-- one made by hand that misses events does not stand in for the rule's, under its name neither
CREATE TRIGGER a_hand BEFORE INSERT ON wh.both FOR EACH ROW WHEN (false) EXECUTE FUNCTION optout.discard_opted_out('user_id=user_id');
ALTER TABLE wh.both ADD still_more int;
SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'wh.both'::regclass ORDER BY 1;
DROP TRIGGER a_hand ON wh.both;
CREATE OR REPLACE TRIGGER optout_guard_rule BEFORE INSERT OR UPDATE ON wh.both FOR EACH ROW WHEN (false) EXECUTE FUNCTION optout.discard_opted_out('user_id=user_id');
ALTER TABLE wh.both DROP still_more;
SELECT tgname, tgenabled, tgqual FROM pg_trigger WHERE tgrelid = 'wh.both'::regclass;

-- Ended: guards stay, and no more come
SELECT optout.unguard_schema('second');
SELECT optout.unguard_schema('wh');
SELECT optout.unguard_schema('wh');
SELECT * FROM optout.guard_rules;
CREATE TABLE wh.free (user_id text);
SELECT relation, user_ids, by_rule FROM guards;
INSERT INTO wh.both VALUES ('alice'), ('bob') RETURNING user_id;
SELECT optout.unguard('wh.both');

DROP VIEW guards;
SET client_min_messages = warning;
DROP SCHEMA wh, other, second CASCADE;
DROP EXTENSION optout;
-- the event trigger is gone with it
CREATE TABLE after (user_id text);
DROP TABLE after;
REVOKE ALL ON SCHEMA public FROM regress_loader;
DROP ROLE regress_loader;
