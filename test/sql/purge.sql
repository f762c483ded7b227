-- What was stored before: optout.stored_events() and optout.purge().
CREATE EXTENSION optout;
SET client_min_messages = notice;
SELECT optout.enroll(ARRAY['alice', 'bob', 'carol', '7', '007', '8', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11']);
SELECT optout.enroll(ARRAY['alice', 'bob'], 'acme');
SELECT optout.link('alice', ARRAY['phone', 'tablet']);

-- one column
CREATE TABLE event (id int PRIMARY KEY, user_id text);
CREATE INDEX ON event (user_id);
CALL optout.purge(ARRAY['alice']);
SELECT optout.guard('event');
INSERT INTO event VALUES (1, 'alice'), (2, 'phone'), (3, 'bob'), (4, NULL), (5, 'Alice'), (6, 'alice ');
SELECT * FROM optout.stored_events(ARRAY['alice', 'bob']);
-- who is not opted out
CALL optout.purge(ARRAY['alice']);
\echo :LAST_ERROR_SQLSTATE
SELECT optout.opt_out(ARRAY['alice', 'bob']);
CALL optout.purge(ARRAY['alice', 'carol', 'bob']);
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM event;
CALL optout.purge(ARRAY['alice'], dry_run => true);
SELECT count(*) FROM event;
TABLE optout.purges;
CALL optout.purge(ARRAY['alice']);
SELECT * FROM event ORDER BY id;
SELECT * FROM optout.stored_events(ARRAY['alice']);
SELECT * FROM optout.stored_events(ARRAY['alice', 'bob']);
CALL optout.purge(ARRAY['alice']);
SELECT purged_at > now() - interval '1 hour' AS lately, purged_by = current_user AS by_me, organization, relation, deleted FROM optout.purges ORDER BY purged_at;

-- arguments
CALL optout.purge(NULL);
\echo :LAST_ERROR_SQLSTATE
CALL optout.purge(ARRAY['bob', NULL]);
\echo :LAST_ERROR_SQLSTATE
CALL optout.purge(ARRAY[['bob']]);
CALL optout.purge(ARRAY['']);
CALL optout.purge(ARRAY['bob'], '*');
-- not taken for false: nothing is deleted
CALL optout.purge(ARRAY['bob'], dry_run => NULL);
\echo :LAST_ERROR_SQLSTATE
CALL optout.purge(ARRAY['phone']);
\echo :LAST_ERROR_SQLSTATE
SELECT optout.stored_events(ARRAY['phone']);
CALL optout.purge(ARRAY['nobody']);
CALL optout.purge('{}');
CALL optout.purge('{bob}', 'acme');
SELECT optout.stored_events('{}');
SELECT optout.stored_events(NULL);

-- Transactions: nothing of it is ahead of what others can see, and it waits for nobody else
BEGIN;
SELECT optout.opt_out('carol');
CALL optout.purge(ARRAY['carol']);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN;
CREATE TABLE made (user_id text);
CALL optout.purge(ARRAY['bob'], dry_run => true);
ROLLBACK;
BEGIN;
INSERT INTO event VALUES (10, 'dave');
ROLLBACK;
BEGIN;
SELECT optout.accepts('dave');
CALL optout.purge(ARRAY['bob']);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
CALL optout.purge(ARRAY['bob']);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
CALL optout.purge(ARRAY['bob']);
ROLLBACK;
BEGIN READ ONLY;
CALL optout.purge(ARRAY['bob'], dry_run => true);
CALL optout.purge(ARRAY['bob']);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
-- undone with the transaction; a dry run before does not count as writing
BEGIN;
CALL optout.purge(ARRAY['bob'], dry_run => true);
CALL optout.purge(ARRAY['bob']);
SELECT count(*) FROM event WHERE user_id = 'bob';
SELECT sum(deleted) FROM optout.purges;
CALL optout.purge(ARRAY['alice']);
ROLLBACK;
SELECT count(*) FROM event WHERE user_id = 'bob';
SELECT sum(deleted) FROM optout.purges;
DROP TABLE event;

-- Several ids, in columns of every type.  What no value of a type is written like is in no such column.
CREATE TABLE shapes (id serial, t text, v varchar(12), c char(40), n name, u uuid, s smallint, i integer, b bigint);
SELECT optout.guard('shapes', ARRAY['t', 'v', 'c', 'n', 'u', 's', 'i', 'b']);
INSERT INTO shapes (t) VALUES ('7'), ('007'), ('7 '), (' 7'), ('+7');
INSERT INTO shapes (v) VALUES ('7'), ('007'), ('7 ');
INSERT INTO shapes (c) VALUES ('7'), ('007'), ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');
INSERT INTO shapes (n) VALUES ('7'), ('007');
INSERT INTO shapes (u) VALUES ('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'), ('{a0eebc999c0b4ef8bb6d6bb9bd380a12}');
INSERT INTO shapes (s, i) VALUES (7, NULL), (NULL, 7), (8, 8), (70, 71);
INSERT INTO shapes (b) VALUES (7), (-7), (8);
SELECT optout.opt_out(ARRAY['7', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11']);
SELECT * FROM optout.stored_events(ARRAY['7']);
SELECT * FROM optout.stored_events(ARRAY['007']);
SELECT * FROM optout.stored_events(ARRAY['a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11']);
SELECT * FROM optout.stored_events(ARRAY['A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '{a0eebc999c0b4ef8bb6d6bb9bd380a12}']);
SET client_min_messages = warning;
CALL optout.purge(ARRAY['7', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11']);
SELECT optout.opt_out(ARRAY['007']);
CALL optout.purge(ARRAY['007']);
SELECT * FROM shapes ORDER BY id;
-- values at the ends of the types, and ids that look like numbers
SELECT optout.enroll(ids), optout.opt_out(ids) FROM (SELECT ARRAY['-32768', '32767', '32768', '2147483647', '2147483648', '-9223372036854775808', '9223372036854775807', '9223372036854775808',
	'-0', '0', '1e1', '10', ' 11', '11', '12 ', '12', repeat('9', 30)] AS ids) AS s;
TRUNCATE shapes;
ALTER TABLE shapes DISABLE TRIGGER optout_guard;
INSERT INTO shapes (s) VALUES (-32768), (32767), (0), (10), (11), (12), (13);
INSERT INTO shapes (i) VALUES (32768), (2147483647), (0), (13);
INSERT INTO shapes (b) VALUES (2147483648), (-9223372036854775808), (9223372036854775807), (13);
INSERT INTO shapes (t) VALUES ('-0'), ('1e1'), (' 11'), ('12 '), ('11 '), ('13');
INSERT INTO shapes (v) VALUES ('12 '), ('13');
INSERT INTO shapes (c) VALUES ('12 '), ('13');
ALTER TABLE shapes ENABLE ALWAYS TRIGGER optout_guard;
CALL optout.purge(ARRAY['-32768', '32767', '32768', '2147483647', '2147483648', '-9223372036854775808', '9223372036854775807', '9223372036854775808',
	'-0', '0', '1e1', '10', ' 11', '11', '12 ', repeat('9', 30)]);
SELECT * FROM shapes ORDER BY id;
DROP TABLE shapes;

-- domains, names that need quotes, columns that are called like what the statements use, long ids
CREATE DOMAIN ident AS varchar(80) CHECK (value <> '');
CREATE DOMAIN "My Id" AS ident;
CREATE DOMAIN number AS bigint;
CREATE SCHEMA "odd ""schema";
CREATE TABLE "odd ""schema"."E'vent" (e "My Id", "user" number, tableoid_ text, "select" name, o text);
SELECT optout.guard('"odd ""schema"."E''vent"', ARRAY['e', 'user', 'select'], organization => 'o');
SELECT optout.enroll(ids, 'acme'), optout.opt_out(ids, 'acme') FROM (SELECT ARRAY['9', repeat('x', 63), repeat('x', 64), repeat('x', 80)] AS ids) AS s;
ALTER TABLE "odd ""schema"."E'vent" DISABLE TRIGGER optout_guard;
INSERT INTO "odd ""schema"."E'vent" VALUES ('9', NULL, 1, NULL, 'acme'), (NULL, 9, 2, NULL, 'acme'), (repeat('x', 80), 10, 3, NULL, 'acme'), (NULL, 10, 4, repeat('x', 64), 'acme'),
	('9', NULL, 5, NULL, 'globex'), ('9', NULL, 6, NULL, NULL), ('10', 10, 7, NULL, 'acme');
ALTER TABLE "odd ""schema"."E'vent" ENABLE ALWAYS TRIGGER optout_guard;
SET client_min_messages = notice;
CALL optout.purge(ARRAY['9', repeat('x', 64), repeat('x', 80)], 'acme');
SELECT tableoid_, e, "user", o FROM "odd ""schema"."E'vent" ORDER BY 1;
CALL optout.purge(ARRAY[repeat('x', 63)], 'acme');
-- without an organization in the row, the caller's setting counts, as the writer's does
SET optout.organization = 'acme';
CALL optout.purge(ARRAY['9']);
RESET optout.organization;
SELECT tableoid_, e, "user", o FROM "odd ""schema"."E'vent" ORDER BY 1;
SET client_min_messages = warning;
DROP TABLE "odd ""schema"."E'vent";
DROP SCHEMA "odd ""schema";
DROP DOMAIN "My Id", number, ident;

-- Organizations: a column of another type, one for all, the setting
CREATE TABLE team_event (team int, user_id text);
CREATE TABLE acme_event (user_id text);
CREATE TABLE globex_event (user_id text);
CREATE TABLE plain_event (user_id text);
SELECT optout.guard('team_event', ARRAY['user_id'], organization => 'team'), optout.guard('acme_event', ARRAY['user_id'], fixed_organization => 'acme'),
	   optout.guard('globex_event', ARRAY['user_id'], fixed_organization => 'globex'), optout.guard('plain_event');
SELECT optout.enroll('zoe', o), optout.opt_out('zoe', o) FROM unnest(ARRAY['12', '012', 'acme', 'globex']) AS o;
SET session_replication_role = replica;
ALTER TABLE team_event DISABLE TRIGGER ALL;
INSERT INTO team_event VALUES (12, 'zoe'), (13, 'zoe'), (NULL, 'zoe');
ALTER TABLE team_event ENABLE ALWAYS TRIGGER optout_guard;
RESET session_replication_role;
INSERT INTO plain_event VALUES ('zoe');
SET optout.organization = 'globex';
SELECT optout.opt_in('zoe', 'acme'), optout.opt_in('zoe', 'globex');
INSERT INTO acme_event VALUES ('zoe');
INSERT INTO globex_event VALUES ('zoe'), ('zoe');
SELECT optout.opt_out('zoe', 'acme'), optout.opt_out('zoe', 'globex');
RESET optout.organization;
SET client_min_messages = notice;
SELECT * FROM optout.stored_events(ARRAY['zoe'], '12');
CALL optout.purge(ARRAY['zoe'], '12');
CALL optout.purge(ARRAY['zoe'], '012');
SELECT * FROM optout.stored_events(ARRAY['zoe'], 'acme');
CALL optout.purge(ARRAY['zoe'], 'acme');
SET optout.organization = 'globex';
CALL optout.purge(ARRAY['zoe'], 'globex');
RESET optout.organization;
SELECT organization, relation, deleted FROM optout.purges WHERE organization IN ('12', '012', 'acme', 'globex') ORDER BY purged_at, relation;
SELECT (SELECT count(*) FROM team_event) AS team, (SELECT count(*) FROM acme_event) AS acme, (SELECT count(*) FROM globex_event) AS globex, (SELECT count(*) FROM plain_event) AS plain;
-- a column that every event says it in leaves nothing out
DELETE FROM team_event WHERE team IS NULL;
ALTER TABLE team_event ALTER team SET NOT NULL;
SELECT * FROM optout.stored_events(ARRAY['zoe'], '13');
CALL optout.purge(ARRAY['zoe'], '12');
SET client_min_messages = warning;
DROP TABLE team_event, acme_event, globex_event, plain_event;

DROP EXTENSION optout;
