-- Rules: which columns of a table a guard goes by, what cannot be guarded, and what
-- guard_schema() refuses.
CREATE EXTENSION optout;
SELECT optout.enroll(ARRAY['alice', 'bob', '7']), optout.enroll(ARRAY['alice', 'bob'], 'acme');
SELECT optout.opt_out(ARRAY['alice', '7']);
CREATE SCHEMA wh;
CREATE VIEW guards AS
SELECT relation, user_id, user_ids, organization, occurred_at, payload, time_zone, fixed_organization, fires, by_rule
  FROM optout.guarded ORDER BY relation::text COLLATE "C";

-- By those columns that a table has
SELECT optout.guard_schema('wh', ARRAY['user_id', 'anonymous_id', '$.user.id', '$."a b".c'], occurred_at => 'at', payload => 'data',
	time_zone => 'Europe/Berlin', fixed_organization => 'default');
CREATE TABLE wh.one (anonymous_id varchar(20));
CREATE TABLE wh.two (at timestamp, anonymous_id text, x int, user_id bigint);
CREATE TABLE wh.document (data jsonb, at timestamptz);
CREATE TABLE wh.all_of_it (data json, at date, user_id text);
ALTER TABLE wh.all_of_it ALTER at TYPE timestamp, ADD anonymous_id text;
CREATE TABLE wh.none (at timestamptz, id int);
SELECT * FROM guards;
INSERT INTO wh.one VALUES ('alice'), ('bob'), (NULL) RETURNING *;
INSERT INTO wh.two VALUES (NULL, 'bob', 1, 7), (NULL, 'alice', 2, 8), (NULL, 'bob', 3, 8) RETURNING x;
INSERT INTO wh.document VALUES ('{"user": {"id": "alice"}}'), ('{"a b": {"c": 7}}'), ('{"user": {"id": "bob"}}'), ('[]') RETURNING data;
-- an event of before, by its column, is what counts
UPDATE optout.opt_out_period SET opted_out_at = '2026-01-01', opted_in_at = '2026-02-01', opted_in_by = 'regress' WHERE user_id = 'alice';
INSERT INTO wh.two VALUES ('2026-01-15', 'alice', 1), ('2026-01-01 00:59', 'alice', 2), ('2026-03-01', 'alice', 3) RETURNING x;
SELECT optout.opt_out('alice');
-- one that is stored out of line
CREATE TABLE wh.large AS SELECT jsonb_build_object('user', jsonb_build_object('id', u), 'more', string_agg(md5(n::text), '')) AS data
  FROM unnest('{alice,bob}'::text[]) u, generate_series(1, 20000) n GROUP BY u;
SELECT data #>> '{user,id}', length(data ->> 'more') FROM wh.large;
DROP TABLE wh.large;
-- updates: only those that change what the guard reads
INSERT INTO wh.document VALUES ('{"user": {"id": "carol"}, "n": 1}');
UPDATE wh.document SET data = data || '{"n": 2}' WHERE data @> '{"n": 1}' RETURNING data;
UPDATE wh.document SET data = '{"user": {"id": "alice"}}' WHERE data @> '{"n": 2}' RETURNING data;
SELECT optout.opt_out('bob');
UPDATE wh.one SET anonymous_id = anonymous_id RETURNING *;
UPDATE wh.one SET anonymous_id = 'alice' WHERE anonymous_id IS NULL RETURNING *;
SELECT optout.opt_in('bob');

-- Columns altered by those who know nothing of the guard
ALTER TABLE wh.two ALTER user_id TYPE text, ALTER anonymous_id TYPE varchar(50);
ALTER TABLE wh.two ALTER user_id SET STATISTICS 10, ALTER user_id SET DEFAULT 'nobody';
INSERT INTO wh.two VALUES (NULL, 'alice', 1, 'x'), (NULL, 'x', 2, 'alice'), (NULL, 'x', 3, 'x') RETURNING x;
ALTER TABLE wh.two DROP anonymous_id;
INSERT INTO wh.two VALUES (NULL, 1, 'alice'), (NULL, 2, 'x') RETURNING x;
ALTER TABLE wh.two RENAME user_id TO uid;
ALTER TABLE wh.two ADD user_id text;
INSERT INTO wh.two (x, user_id) VALUES (1, 'alice'), (2, 'x') RETURNING x;
ALTER TABLE wh.two DROP at;
SELECT * FROM guards WHERE relation = 'wh.two'::regclass;
-- a typed table, by its type
CREATE TYPE wh.kind AS (id int, anonymous_id text);
CREATE TABLE wh.typed OF wh.kind;
SELECT user_ids FROM guards WHERE relation = 'wh.typed'::regclass;
ALTER TYPE wh.kind ADD ATTRIBUTE user_id text CASCADE;
SELECT user_ids FROM guards WHERE relation = 'wh.typed'::regclass;
ALTER TYPE wh.kind RENAME ATTRIBUTE anonymous_id TO other_id CASCADE;
SELECT user_ids FROM guards WHERE relation = 'wh.typed'::regclass;
ALTER TYPE wh.kind DROP ATTRIBUTE user_id CASCADE;
SELECT user_ids FROM guards WHERE relation = 'wh.typed'::regclass;
-- children, of a parent elsewhere
CREATE TABLE parent (id int);
CREATE TABLE wh.child (more int) INHERITS (parent);
ALTER TABLE parent ADD user_id text;
SELECT relation, user_ids FROM guards WHERE relation IN ('parent'::regclass, 'wh.child');
ALTER TABLE parent RENAME user_id TO anonymous_id;
SELECT relation, user_ids FROM guards WHERE relation IN ('parent'::regclass, 'wh.child');
ALTER TABLE ONLY parent DROP anonymous_id;
INSERT INTO wh.child (anonymous_id) VALUES ('alice'), ('bob') RETURNING anonymous_id;

-- What guards of rules read is found and purged as well.
INSERT INTO wh.one VALUES ('carol'), ('dave');
INSERT INTO wh.document VALUES ('{"user": {"id": "carol"}}'), ('{"a b": {"c": "carol"}}');
SELECT optout.enroll('carol'), optout.opt_out('carol');
SELECT * FROM optout.stored_events('{carol}') ORDER BY relation::text;
CALL optout.purge('{carol}');
SELECT * FROM optout.stored_events('{carol}');
SELECT anonymous_id FROM wh.one WHERE anonymous_id = 'dave';

-- What cannot be guarded is a warning, and a fault
CREATE TABLE wh.bad_type (user_id numeric);
CREATE TABLE wh.generated (name text, user_id text GENERATED ALWAYS AS (lower(name)) STORED);
CREATE TABLE wh.bad_payload (data text, user_id text);
CREATE TABLE wh.good_first (user_id text);
ALTER TABLE wh.good_first ALTER user_id TYPE jsonb USING NULL;
CREATE TABLE wh.no_guard (user_id text);
CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TABLE wh.somebody_elses (id int);
CREATE TRIGGER optout_guard_rule BEFORE INSERT ON wh.somebody_elses FOR EACH ROW EXECUTE FUNCTION mine();
ALTER TABLE wh.somebody_elses ADD user_id text;
SELECT optout.unguard('wh.no_guard');
CREATE TABLE wh.by_hand (user_id text, anonymous_id text);
SELECT optout.guard('wh.by_hand');
CREATE TABLE wh.grandchild () INHERITS (wh.child);
SELECT * FROM optout.unguarded ORDER BY relation::text COLLATE "C", reason;
SELECT ok, detail FROM optout.checks WHERE name = 'unguarded';
INSERT INTO wh.good_first VALUES ('"alice"') RETURNING *;
-- mended
ALTER TABLE wh.bad_type ALTER user_id TYPE bigint;
ALTER TABLE wh.generated ALTER user_id DROP EXPRESSION;
ALTER TABLE wh.bad_payload ALTER data TYPE json USING NULL;
ALTER TABLE wh.good_first ALTER user_id TYPE text USING NULL;
DROP TRIGGER optout_guard_rule ON wh.somebody_elses;
ALTER TABLE wh.somebody_elses RENAME TO ours;
SELECT optout.guard('wh.by_hand', ARRAY['user_id', 'anonymous_id']);
SELECT optout.guard_schema('wh', ARRAY['user_id', 'anonymous_id', '$.user.id', '$."a b".c'], occurred_at => 'at', payload => 'data',
	time_zone => 'Europe/Berlin', fixed_organization => 'default');
SELECT * FROM optout.unguarded;
SELECT * FROM guards;

-- A guard whose column is gone without the event trigger raises an error; it is put
-- back by repair(), and listed.
ALTER EVENT TRIGGER optout_rules DISABLE;
ALTER TABLE wh.one RENAME anonymous_id TO id;
CREATE TABLE wh.meanwhile (user_id text);
ALTER TABLE wh.bad_type ADD anonymous_id text, ADD data jsonb;
INSERT INTO wh.one VALUES ('alice');
SELECT ok, detail FROM optout.checks WHERE name IN ('guards', 'unguarded') ORDER BY name;
SELECT optout.repair();
SELECT evtenabled FROM pg_event_trigger WHERE evtname = 'optout_rules';
SELECT ok FROM optout.checks WHERE name IN ('guards', 'unguarded') ORDER BY name;
ALTER TABLE wh.one ADD user_id text;
ALTER TABLE wh.meanwhile RENAME TO guarded_now;
ALTER TABLE wh.bad_type ADD more int;
INSERT INTO wh.one VALUES ('alice', 'alice'), ('alice', 'bob') RETURNING *;
INSERT INTO wh.guarded_now VALUES ('alice'), ('bob') RETURNING *;
SELECT ok FROM optout.checks WHERE name IN ('guards', 'unguarded') ORDER BY name;
-- so is a rule's guard
ALTER TABLE wh.one DISABLE TRIGGER ALL;
ALTER TABLE wh.one ADD another int;
SELECT fires FROM guards WHERE relation = 'wh.one'::regclass;
SELECT optout.repair();
SELECT fires FROM guards WHERE relation = 'wh.one'::regclass;

-- Commands that fire no event trigger: Limits
DO $$ BEGIN EXECUTE 'EXPLAIN ANALYZE CREATE TABLE wh.explained AS SELECT ''alice'' AS user_id'; END $$;
CREATE DOMAIN wh.id AS text;
CREATE TABLE wh.of_domain (anonymous_id wh.id, user_id text, x int);
DROP DOMAIN wh.id CASCADE;
INSERT INTO wh.of_domain VALUES ('bob', 1);
SELECT reason FROM optout.unguarded WHERE severity = 'fault';
BEGIN;
SELECT optout.guard_schema('wh', ARRAY['user_id', 'anonymous_id'], fixed_organization => 'default');
INSERT INTO wh.of_domain VALUES ('alice', 1), ('bob', 1) RETURNING *;
INSERT INTO wh.explained VALUES ('alice'), ('bob') RETURNING *;
SELECT reason FROM optout.unguarded WHERE severity = 'fault';
ROLLBACK;
DROP TABLE wh.explained, wh.of_domain;

-- With an organization: a table without it is not guarded
CREATE SCHEMA org;
CREATE TABLE org.without (user_id text);
SELECT optout.guard_schema('org', ARRAY['user_id', '$.u'], '$.org', payload => 'data');
CREATE TABLE org.also_without (user_id text, org text);
CREATE TABLE org.with (user_id text, data jsonb);
CREATE TABLE org.nobody (org text);
INSERT INTO org.with VALUES ('alice', '{"org": "acme"}'), ('alice', '{"org": "default"}'), ('alice', NULL), ('bob', '{"u": "alice"}') RETURNING *;
SELECT relation, user_ids, organization, payload FROM guards WHERE relation::text LIKE 'org.%';
SELECT optout.guard_schema('org', organization => 'org');
SELECT relation, user_ids, organization, payload FROM guards WHERE relation::text LIKE 'org.%';
ALTER TABLE org.also_without DROP org;
SELECT * FROM optout.unguarded WHERE severity = 'fault' ORDER BY relation::text COLLATE "C", reason;
-- without, where there are others, it says so once
SELECT optout.guard_schema('org');
CREATE TABLE org.silent (user_id text);
DROP SCHEMA org CASCADE;
CREATE SCHEMA org;

-- Refused
\set VERBOSITY sqlstate
SELECT optout.guard_schema(NULL);
SELECT optout.guard_schema('nowhere');
SELECT optout.guard_schema(0);
SELECT optout.guard_schema('pg_catalog');
SELECT optout.guard_schema('information_schema');
SELECT optout.guard_schema('optout');
SELECT optout.guard_schema('pg_toast');
SELECT optout.guard_schema('org', NULL);
SELECT optout.guard_schema('org', '{}');
SELECT optout.guard_schema('org', '{user_id,NULL}');
SELECT optout.guard_schema('org', '{{user_id}}');
SELECT optout.guard_schema('org', '{user_id,""}');
SELECT optout.guard_schema('org', '{user_id,device,user_id}');
SELECT optout.guard_schema('org', ARRAY[repeat('x', 64)]);
SELECT optout.guard_schema('org', organization => '');
SELECT optout.guard_schema('org', '{$.id}');
SELECT optout.guard_schema('org', '{$.id[0]}', payload => 'data');
SELECT optout.guard_schema('org', '{$.id[}', payload => 'data');
SELECT optout.guard_schema('org', payload => 'data');
SELECT optout.guard_schema('org', occurred_at => '$.at', payload => 'data');
SELECT optout.guard_schema('org', time_zone => 'Nowhere');
SELECT optout.guard_schema('org', organization => 'org', fixed_organization => 'acme');
SELECT optout.guard_schema('org', fixed_organization => '*');
SELECT optout.guard_schema('org', '{$.id}', '$.' || repeat('o', 70), payload => 'data');
SELECT optout.unguard_schema(NULL);
SELECT optout.unguard_schema('nowhere');
BEGIN READ ONLY;
SELECT optout.guard_schema('org');
ROLLBACK;
SELECT optout.apply_rules();
CREATE EVENT TRIGGER regress_wrong ON ddl_command_start EXECUTE FUNCTION optout.apply_rules();
CREATE TABLE wrong ();
DROP EVENT TRIGGER regress_wrong;
\set VERBOSITY default
SELECT optout.guard_schema('optout');
SELECT optout.guard_schema('org', '{user_id,""}');
SELECT schema FROM optout.guard_rules ORDER BY schema;
-- and every form that is not
SELECT optout.guard_schema('org'), optout.guard_schema('org'::regnamespace, '{user_id}', 'org', 'at', 'data', 'UTC', NULL);
SELECT optout.guard_schema('org', '{$.id}', 'org', 'at', 'data', 'UTC', NULL),
	optout.guard_schema('org', ARRAY['user_id'], NULL, 'at'::text), optout.guard_schema('org', user_ids => '{user_id,device}', organization => 'org'::text),
	optout.guard_schema(schema => 'org', fixed_organization => 'acme');
SELECT * FROM optout.guard_rules WHERE schema = 'org';
SELECT optout.guard_schema(quote_ident(schema)::regnamespace, user_ids, organization, occurred_at, payload, time_zone, fixed_organization) FROM optout.guard_rules;
SELECT * FROM optout.guard_rules ORDER BY schema;
-- names that need quotes
CREATE SCHEMA "Odd ""Schema""";
SELECT optout.guard_schema('"Odd ""Schema"""', ARRAY['User "Id"', 'it''s'], 'Org''n', fixed_organization => NULL);
CREATE TABLE "Odd ""Schema"""."Event's" ("User ""Id""" text, "it's" text, "Org'n" text);
INSERT INTO "Odd ""Schema"""."Event's" VALUES ('alice', 'x', NULL), ('x', 'alice', NULL), ('alice', 'x', 'acme') RETURNING *;
SELECT relation, user_ids, organization FROM guards WHERE relation = '"Odd ""Schema"""."Event''s"'::regclass;
SELECT optout.unguard_schema('Odd "Schema"');

-- For superusers and the owner of the extension, who need not own the tables
CREATE ROLE regress_nobody;
CREATE ROLE regress_extension SUPERUSER;
GRANT CREATE ON SCHEMA org TO regress_nobody;
GRANT EXECUTE ON FUNCTION optout.guard_schema, optout.unguard_schema TO regress_nobody;
SET ROLE regress_nobody;
\set VERBOSITY sqlstate
SELECT optout.guard_schema('org');
SELECT optout.unguard_schema('org');
SELECT * FROM optout.guard_rule;
\set VERBOSITY default
SELECT schema FROM optout.guard_rules ORDER BY 1;
RESET ROLE;
REVOKE EXECUTE ON FUNCTION optout.guard_schema, optout.unguard_schema FROM regress_nobody;
SET client_min_messages = warning;
DROP VIEW guards;
DROP EXTENSION optout CASCADE;
SET ROLE regress_extension;
CREATE EXTENSION optout;
RESET ROLE;
ALTER ROLE regress_extension NOSUPERUSER;
CREATE TABLE org.theirs (user_id text);
ALTER TABLE org.theirs OWNER TO regress_nobody;
SET ROLE regress_extension;
SELECT optout.guard_schema('org');
SET ROLE regress_nobody;
CREATE TABLE org.more_of_theirs (user_id text);
RESET ROLE;
SELECT relation, by_rule FROM optout.guarded ORDER BY 1;
ALTER EVENT TRIGGER optout_rules DISABLE;
SET ROLE regress_extension;
SELECT optout.repair();
SELECT optout.unguard_schema('org');
RESET ROLE;

-- Tables of extensions are none of its business.
SELECT optout.guard_schema('org');
CREATE TABLE org.member (id int);
ALTER EXTENSION optout ADD TABLE org.member;
ALTER TABLE org.member ADD user_id text;
SELECT count(*) FROM optout.guarded WHERE relation = 'org.member'::regclass;
SELECT * FROM optout.unguarded WHERE relation = 'org.member'::regclass;
ALTER EXTENSION optout DROP TABLE org.member;

-- Foreign tables
CREATE FOREIGN DATA WRAPPER regress_nothing;
CREATE SERVER regress_server FOREIGN DATA WRAPPER regress_nothing;
CREATE FOREIGN TABLE org.far (user_id text) SERVER regress_server;
CREATE FOREIGN TABLE org.farther (id int) SERVER regress_server;
ALTER FOREIGN TABLE org.farther ADD user_id text;
SELECT relation, by_rule FROM optout.guarded WHERE relation::text LIKE 'org.far%' ORDER BY 1;
ALTER FOREIGN TABLE org.farther RENAME user_id TO id2;
SELECT relation, by_rule FROM optout.guarded WHERE relation::text LIKE 'org.far%' ORDER BY 1;

DROP FOREIGN DATA WRAPPER regress_nothing CASCADE;
DROP TABLE parent CASCADE;
DROP SCHEMA wh, org, "Odd ""Schema""" CASCADE;
DROP EXTENSION optout;
DROP FUNCTION mine();
DROP ROLE regress_nobody, regress_extension;
