-- optout.purge() finds in documents what the guard reads there, and uses indexes.
CREATE EXTENSION optout;
SET client_min_messages = warning;
CREATE TABLE document (id serial, doc text);
INSERT INTO document (doc) VALUES
	('{"user": {"id": "alice"}}'), ('{"user": {"id": "\u0061lice"}}'), ('{"\u0075ser": {"id": "alice"}}'), ('{"user": {"id": "ALICE"}}'), ('{"user": {"id": "alice "}}'),
	('{"user": {"id": 7}}'), ('{"user": {"id": "7"}}'), ('{"user": {"id": 7.0}}'), ('{"user": {"id": 7e0}}'), ('{"user": {"id": 70e-1}}'), ('{"user": {"id": "007"}}'), ('{"user": {"id": -0}}'),
	('{"user": {"id": 1e2}}'), ('{"user": {"id": 100}}'), ('{"user": {"id": 9007199254740993}}'), ('{"user": {"id": 9007199254740992}}'),
	('{"user": {"id": true}}'), ('{"user": {"id": "true"}}'), ('{"user": {"id": null}}'), ('{"user": {"id": "null"}}'), ('{"user": {"id": ["alice"]}}'), ('{"user": {"id": {"a": "alice"}}}'),
	('{"user": {"id": "bob", "id": "alice"}}'), ('{"user": {"id": "alice", "id": "bob"}}'), ('{"user": {"id": "alice"}, "user": {}}'), ('{"user": "alice"}'), ('"alice"'), ('7'), ('[]'), ('{}'), ('null'), ('["alice"]'),
	('[{"id": "alice"}]'), ('{"user": [{"id": "alice"}]}'), ('{"0": "alice"}'), ('["bob", "alice"]'), ('{"anonymousId": "phone"}'), ('{"anonymousId": "phone", "user": {"id": "bob"}}'), ('{"anonymousId": ["phone"]}'),
	('{"user": {"id": "alice", "name": "A\u00fc"}}'), ('{"user": {"id": "J\u00f6rg"}}'), ('{"user": {"id": "Jörg"}}'), ('{"user": {"id": "a\"b\\c\/d"}}'), ('{"a b": {"it''s": "alice"}}'),
	('{"user": {"id": "alice"}, "user": {"id": "bob"}}'), ('{"user": {"id": "bob"}, "user": {"id": "alice"}}'), ('{"user": {"id": "bob"}, "us\u0065r": {"id": "alice"}}'), ('{"user": {"id": 1e-3}}'), ('{"user": {"id": 1E+2}}'), ('{"user": {"id": 0e5}}'),
	('{"user": {"id": "\ud83d\ude00"}}'), ('{"user": {"id": "😀"}}'), ('{"": {"id": "alice"}}'), (E'{ "user" :\t{\r\n"id" : "alice" } }'),
	(NULL);
-- what jsonb cannot hold
CREATE TABLE odd (doc text);
INSERT INTO odd VALUES ('{"x": "\u0000", "user": {"id": "alice"}}'), ('{"\u0000": 1, "user": {"id": "alice"}}'), ('{"user": {"id": "alice\u0000"}}'), ('{"user": {"id": "\ud800alice"}}'), ('{"x": "\ud800", "anonymousId": "phone"}');

SELECT optout.enroll(ids), optout.opt_out(ids) FROM (SELECT ARRAY['alice', '7', '7.0', '0', '100', '0.001', '9007199254740993', 'true', 'null', 'Jörg', '😀', 'a"b\c/d', '["alice"]'] AS ids) AS s;
SELECT optout.link('alice', ARRAY['phone']);
CREATE PROCEDURE purge_all() LANGUAGE sql AS $$
	CALL optout.purge(ARRAY['alice', '7', '7.0', '0', '100', '0.001', '9007199254740993', 'true', 'null', 'Jörg', '😀', 'a"b\c/d', '["alice"]']) $$;

-- Each document goes into one table past the guard and into another through it.  What
-- purge() leaves of the former is what the guard lets into the latter.
CREATE FUNCTION differences(type regtype, paths text[]) RETURNS TABLE (doc text, purged boolean, discarded boolean) LANGUAGE plpgsql AS $$
DECLARE
	purged bigint;
BEGIN
	EXECUTE format('CREATE TABLE stored (id int, doc %s); CREATE TABLE offered (LIKE stored)', type);
	EXECUTE 'INSERT INTO stored SELECT id, doc::' || type || ' FROM document';
	IF type = 'json'::regtype THEN
		INSERT INTO stored SELECT 1000 + row_number() OVER (), o.doc::json FROM odd o;
	END IF;
	PERFORM optout.guard('stored', paths, payload => 'doc'), optout.guard('offered', paths, payload => 'doc');
	SELECT COALESCE(sum(events), 0) INTO purged
	  FROM optout.stored_events(ARRAY['alice', '7', '7.0', '0', '100', '0.001', '9007199254740993', 'true', 'null', 'Jörg', '😀', 'a"b\c/d', '["alice"]'])
	 WHERE relation = 'stored'::regclass;
	CREATE TABLE before AS SELECT * FROM stored;
	INSERT INTO offered SELECT * FROM before;
	RAISE NOTICE '%: % of % rows', paths, purged, (SELECT count(*) FROM before);
END $$;
CREATE FUNCTION finish() RETURNS TABLE (doc text, purged boolean, discarded boolean) LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY SELECT b.doc::text, s.id IS NULL, o.id IS NULL FROM before b LEFT JOIN stored s USING (id) LEFT JOIN offered o USING (id) WHERE (s.id IS NULL) <> (o.id IS NULL);
	DROP TABLE stored, offered, before;
END $$;
SET client_min_messages = notice;
SELECT differences('jsonb', ARRAY['$.user.id', '$.anonymousId']);
CALL purge_all();
SELECT * FROM finish();
SELECT differences('json', ARRAY['$.user.id', '$.anonymousId']);
CALL purge_all();
SELECT * FROM finish();
SELECT differences('jsonb', ARRAY['$."0"', '$."a b"."it''s"', '$.user."0".id', '$."".id']);
CALL purge_all();
SELECT * FROM finish();
SELECT differences('json', ARRAY['$."-1"', '$."a b"."it''s"', '$.user."0".id', '$.user', '$."".id']);
CALL purge_all();
SELECT * FROM finish();
DROP FUNCTION differences, finish;
DROP PROCEDURE purge_all;

-- the organization in the document: where it says none, the setting's counts
SELECT optout.enroll('zoe', o), optout.opt_out('zoe', o) FROM unnest(ARRAY['acme', '12', 'default']) AS o;
CREATE TABLE of_organization (id int, b jsonb, j json);
INSERT INTO of_organization (id, b) SELECT n, ('{"u": "zoe"' || o || '}')::jsonb FROM unnest(ARRAY['', ', "org": "acme"', ', "org": 12', ', "org": "12"', ', "org": ""', ', "org": "*"', ', "org": null', ', "org": ["acme"]', ', "org": "globex"', ', "org": "' || repeat('x', 1025) || '"']) WITH ORDINALITY AS a (o, n);
UPDATE of_organization SET j = b::json;
SELECT optout.guard('of_organization', ARRAY['$.u'], organization => '$.org', payload => 'b');
SELECT 'jsonb' AS type, organization, events FROM unnest(ARRAY['acme', '12', 'globex', 'default']) AS organization, optout.stored_events(ARRAY['zoe'], organization);
SELECT optout.guard('of_organization', ARRAY['$.u'], organization => '$.org', payload => 'j');
SELECT 'json' AS type, organization, events FROM unnest(ARRAY['acme', '12', 'globex', 'default']) AS organization, optout.stored_events(ARRAY['zoe'], organization);
CALL optout.purge(ARRAY['zoe'], '12');
SELECT array_agg(id ORDER BY id) FROM of_organization;
CALL optout.purge(ARRAY['zoe']);
SELECT array_agg(id ORDER BY id) FROM of_organization;
DROP TABLE of_organization;

-- json_id(): anybody may call it, and learns what is in the document
SELECT optout.json_id('{"user": {"id": "\u0061lice"}}', '$.user.id'), optout.json_id('{"a": 1e0}', '$.a'), optout.json_id('{"a": true}', '$.a') IS NULL AS none,
	   optout.json_id(NULL, '$.a') IS NULL AS null_document, optout.json_id('{"a": "\u0000"}', '$.a') IS NULL AS unreadable;
SELECT optout.json_id('{}', '$.a[0]');
\echo :LAST_ERROR_SQLSTATE
SELECT optout.json_id('{}', 'a b');
\echo :LAST_ERROR_SQLSTATE
SELECT path, optout.json_id('{"a": 1, "b": {"c": "x"}}', path) FROM unnest(ARRAY['$.a', '$.b.c', '$.a', '$.d']) AS path;

-- Indexes: what a purge of one user reads
CREATE TABLE event (id int, user_id text, device text, data jsonb, raw json);
INSERT INTO event SELECT n, 'u' || n, 'd' || n, jsonb_build_object('uid', 'u' || n, 'user', jsonb_build_object('id', 'u' || n)), json_build_object('user', json_build_object('id', 'u' || n)) FROM generate_series(1, 20000) AS n;
ANALYZE event;
SELECT optout.enroll('u77'), optout.link('u77', ARRAY['d4711']), optout.opt_out('u77');
CREATE PROCEDURE purge_and_tell() LANGUAGE plpgsql AS $$
DECLARE
	seq bigint;
BEGIN
	SELECT seq_scan INTO seq FROM pg_stat_xact_user_tables WHERE relid = 'event'::regclass;
	CALL optout.purge(ARRAY['u77']);
	SELECT seq_scan - seq INTO seq FROM pg_stat_xact_user_tables WHERE relid = 'event'::regclass;
	RAISE NOTICE 'sequential scans: %', seq;
	ROLLBACK;
END $$;
SELECT optout.guard('event', ARRAY['user_id', 'device', '$.uid', '$.user.id'], payload => 'data');
CALL purge_and_tell();
-- also if several processes could read it
SET min_parallel_table_scan_size = 0;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
CALL optout.purge(ARRAY['u77'], dry_run => true);
RESET min_parallel_table_scan_size;
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
CREATE INDEX ON event (user_id);
CREATE INDEX ON event ((data ->> 'uid'));
CALL purge_and_tell();
CREATE INDEX ON event USING hash (device);
CREATE INDEX ON event ((data #>> '{user,id}'));
ANALYZE event;
CALL purge_and_tell();
DROP INDEX event_expr_idx1;
CREATE INDEX ON event ((data -> 'user' ->> 'id'));
ANALYZE event;
CALL purge_and_tell();
SELECT optout.guard('event', ARRAY['$.user.id'], payload => 'raw');
CALL purge_and_tell();
CREATE INDEX ON event (optout.json_id(raw, '$.user.id'));
ANALYZE event;
CALL purge_and_tell();
-- an index that serves only part of the table does not
DROP INDEX event_json_id_idx;
CREATE INDEX ON event (optout.json_id(raw, '$.user.id')) WHERE id > 10;
CALL purge_and_tell();
-- by organization and id
ALTER TABLE event ADD org text DEFAULT 'default';
SELECT optout.guard('event', ARRAY['user_id'], organization => 'org');
DROP INDEX event_user_id_idx;
CALL purge_and_tell();
CREATE INDEX ON event (org, user_id);
ANALYZE event;
CALL purge_and_tell();
SET optout.organization = 'acme';
CREATE OR REPLACE PROCEDURE purge_and_tell() LANGUAGE plpgsql AS $$
DECLARE
	seq bigint;
BEGIN
	SELECT seq_scan INTO seq FROM pg_stat_xact_user_tables WHERE relid = 'event'::regclass;
	CALL optout.purge(ARRAY['u77'], 'default');
	SELECT seq_scan - seq INTO seq FROM pg_stat_xact_user_tables WHERE relid = 'event'::regclass;
	RAISE NOTICE 'sequential scans: %', seq;
	ROLLBACK;
END $$;
CALL purge_and_tell();
RESET optout.organization;
-- many users at once
SELECT optout.enroll(ids), optout.opt_out(ids), optout.guard('event', ARRAY['user_id', 'device']) FROM (SELECT array_agg('u' || n) AS ids FROM generate_series(1, 15000) AS n) AS s;
SET client_min_messages = warning;
DO $$ BEGIN EXECUTE format('CALL optout.purge(%L)', (SELECT array_agg('u' || n) FROM generate_series(1, 15000) AS n)); END $$;
SELECT count(*), min(id) FROM event;
DROP TABLE event, document, odd;
DROP PROCEDURE purge_and_tell;
DROP EXTENSION optout;
