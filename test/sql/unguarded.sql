-- What guards do not cover, and whether all is well.
CREATE EXTENSION optout;
SELECT optout.enroll(ARRAY['alice', 'bob']), optout.opt_out('alice');
CREATE SCHEMA shop;
CREATE SCHEMA warehouse;
CREATE TABLE shop.before (user_id text);
SELECT * FROM optout.unguarded;
SELECT name, ok, detail FROM optout.checks WHERE name <> 'filter';

-- Names that a guard of the same schema looks at: of ids and of the payload
CREATE TABLE shop.event (id int PRIMARY KEY, user_id text, device text, doc jsonb, at timestamptz, org text);
SELECT optout.guard('shop.event', ARRAY['user_id', 'device', '$.id'], 'org', 'at', 'doc');
CREATE TABLE shop.unrelated (id int, at timestamptz, org text, user_name text);
CREATE TABLE shop.two (device int, x int, user_id text, gone text);
CREATE TABLE shop.document (doc text);
CREATE TABLE shop.parted (user_id text) PARTITION BY LIST (user_id);
CREATE TABLE shop.parted_a PARTITION OF shop.parted FOR VALUES IN ('a');
CREATE FOREIGN DATA WRAPPER regress_nothing;
CREATE SERVER regress_server FOREIGN DATA WRAPPER regress_nothing;
CREATE FOREIGN TABLE shop.remote ("User Id" text, device text) SERVER regress_server;
CREATE VIEW shop.seen AS SELECT user_id FROM shop.event;
CREATE TABLE warehouse.elsewhere (user_id text);
CREATE TEMP TABLE mine (user_id text);
SELECT * FROM optout.unguarded ORDER BY relation::text COLLATE "C";
ALTER TABLE shop.two DROP COLUMN user_id;
ALTER TABLE shop.event RENAME device TO gone;
SELECT * FROM optout.unguarded WHERE relation = 'shop.two'::regclass;
DROP TABLE shop.before, shop.two, shop.document, shop.parted;
DROP FOREIGN DATA WRAPPER regress_nothing CASCADE;

-- Details of events, whichever schema they are in
CREATE TABLE warehouse.detail (event int CONSTRAINT "of event" REFERENCES shop.event, what text);
CREATE TABLE shop.guarded_detail (event int REFERENCES shop.event, user_id text);
SELECT optout.guard('shop.guarded_detail');
SELECT * FROM optout.unguarded;
SELECT name, ok, detail FROM optout.checks WHERE name <> 'filter';

-- Inheritance children, of children too; partitions have guards.
CREATE TABLE shop.child (more int) INHERITS (shop.event);
CREATE TABLE warehouse.grandchild () INHERITS (shop.child);
CREATE TABLE shop.parted (user_id text) PARTITION BY LIST (user_id);
SELECT optout.guard('shop.parted');
CREATE TABLE shop.parted_a PARTITION OF shop.parted FOR VALUES IN ('a');
SELECT * FROM optout.unguarded WHERE severity = 'fault' ORDER BY relation::text;
SELECT optout.guard('shop.child', ARRAY['user_id', 'gone']);
SELECT * FROM optout.unguarded WHERE severity = 'fault' ORDER BY relation::text;
SELECT ok, detail FROM optout.checks WHERE name = 'unguarded';
DROP TABLE warehouse.grandchild, shop.child;

-- Guards that somebody has altered
ALTER TABLE shop.event DISABLE TRIGGER optout_guard;
ALTER TABLE shop.parted_a ENABLE TRIGGER optout_guard;
ALTER TRIGGER optout_guard ON shop.event RENAME TO "My guard";
SELECT * FROM optout.unguarded WHERE severity = 'fault' ORDER BY relation::text;
SELECT name, ok, detail FROM optout.checks WHERE name <> 'filter';
SELECT optout.repair();
SELECT name, ok, detail FROM optout.checks WHERE name <> 'filter';

-- Guards that others have made with the trigger's function, and that miss events
CREATE TABLE shop.made (user_id text, device text, doc jsonb, at timestamptz);
CREATE FUNCTION made(events text, condition text, VARIADIC arguments text[])
RETURNS TABLE (reason text, severity text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE TRIGGER by_hand %s ON shop.made %s EXECUTE FUNCTION optout.discard_opted_out(%s)', events, condition,
				   (SELECT string_agg(quote_literal(a), ', ' ORDER BY o) FROM unnest(arguments) WITH ORDINALITY AS u (a, o)));
	ALTER TABLE shop.made ENABLE ALWAYS TRIGGER by_hand;
	RETURN QUERY SELECT u.reason, u.severity FROM optout.unguarded u WHERE relation = 'shop.made'::regclass;
	DROP TRIGGER by_hand ON shop.made;
END $$;
SELECT * FROM made('BEFORE INSERT OR UPDATE', 'FOR EACH ROW WHEN (NEW.device IS NULL)', 'user_id=user_id');
SELECT * FROM made('BEFORE INSERT', 'FOR EACH ROW', 'user_id=user_id');
SELECT * FROM made('BEFORE UPDATE', 'FOR EACH ROW', 'user_id=user_id');
SELECT * FROM made('BEFORE DELETE', 'FOR EACH ROW', 'user_id=user_id');
SELECT * FROM made('BEFORE INSERT OR UPDATE', '', 'user_id=user_id');
SELECT * FROM made('AFTER INSERT OR UPDATE', 'FOR EACH ROW', 'user_id=user_id');
SELECT * FROM made('BEFORE INSERT OR UPDATE OF user_id', 'FOR EACH ROW', 'user_id', 'user_id=device');
SELECT * FROM made('BEFORE INSERT OR UPDATE OF user_id', 'FOR EACH ROW', 'user_id', 'user_id=$.id', 'payload=doc');
SELECT * FROM made('BEFORE INSERT OR UPDATE', 'FOR EACH ROW', 'user_id=$.id');
-- nothing to repair, and no promise to give
CREATE TRIGGER by_hand BEFORE INSERT OR UPDATE ON shop.made FOR EACH ROW WHEN (NEW.device IS NULL) EXECUTE FUNCTION optout.discard_opted_out('user_id=user_id');
ALTER TABLE shop.made ENABLE ALWAYS TRIGGER by_hand;
SELECT optout.repair();
SELECT ok, detail FROM optout.checks WHERE name = 'unguarded';
CALL optout.purge('{alice}');
\echo :LAST_ERROR_SQLSTATE
DROP TRIGGER by_hand ON shop.made;
-- these miss none
SELECT * FROM made('BEFORE INSERT OR UPDATE OF user_id', 'FOR EACH ROW', 'user_id');
SELECT * FROM made('BEFORE INSERT OR UPDATE', 'FOR EACH ROW', 'user_id=user_id');
SELECT * FROM made('BEFORE INSERT OR UPDATE OF user_id, doc', 'FOR EACH ROW', 'user_id', 'user_id=$.id', 'payload');
-- what makes no sense fails as it fires, and lets nothing pass
CREATE FUNCTION fires(VARIADIC arguments text[]) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM made('BEFORE INSERT OR UPDATE', 'FOR EACH ROW', 'user_id=user_id');
	EXECUTE format('CREATE TRIGGER by_hand BEFORE INSERT ON shop.made FOR EACH ROW EXECUTE FUNCTION optout.discard_opted_out(%s)',
				   (SELECT string_agg(quote_literal(a), ', ' ORDER BY o) FROM unnest(arguments) WITH ORDINALITY AS u (a, o)));
	INSERT INTO shop.made VALUES ('bob', 'd', '{"id": "alice"}', now());
	RETURN 'stored';
EXCEPTION WHEN others THEN
	RETURN SQLERRM;
END $$;
SELECT arguments, fires(VARIADIC arguments) FROM (VALUES ('{}'::text[]), ('{user_id=$.id}'), ('{user_id=user_id,organization=$.org}'), ('{user_id=user_id,occurred_at=$.at,payload=doc}'),
	('{user_id=user_id,occurred_at=at,time_zone=Nowhere}'), ('{user_id=user_id,occurred_at=$.at,payload=doc,time_zone=Nowhere}'), ('{user_id=$.id,payload=device}'),
	('{user_id=user_id,fixed_organization=}'), ('{user_id=user_id,more=x}'), ('{organization=device}'), ('{user_id=gone}')) AS v (arguments);
SELECT user_ids, organization FROM optout.guarded WHERE relation = 'shop.made'::regclass;
DROP FUNCTION made, fires;
DROP TABLE shop.made;

-- What is discarded of organizations that are not in the directory
INSERT INTO shop.event VALUES (1, 'alice', NULL, NULL, NULL, NULL);
SELECT ok, detail FROM optout.checks WHERE name = 'organizations';
INSERT INTO optout.discard_ledger VALUES ('tpyo', date_trunc('hour', now(), 'UTC'), -1, 1), ('old', now() - interval '2 days', -1, 1);
SELECT ok, detail FROM optout.checks WHERE name = 'organizations';
-- also where this database has been made from one with a subscription
BEGIN;
SET LOCAL allow_system_table_mods = on;
INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate) VALUES (1, 'optout.opt_out_period'::regclass, 'r');
SELECT ok, detail FROM optout.checks WHERE name = 'organizations';
ROLLBACK;
SELECT optout.enroll('zoe', 'tpyo');
SELECT ok, detail FROM optout.checks WHERE name = 'organizations';

-- Aliases that somebody has opted in or out otherwise than their users
SELECT optout.link('alice', '{a1,a2}'), optout.link('bob', '{b1}');
SELECT ok, detail FROM optout.checks WHERE name = 'aliases';
BEGIN;
UPDATE optout.opt_out_period SET opted_in_at = now() + interval '1 hour', opted_in_by = 'regress' WHERE user_id = 'a2';
SELECT ok, detail FROM optout.checks WHERE name = 'aliases';
ROLLBACK;
BEGIN;
DELETE FROM optout.opt_out_period WHERE user_id = 'a1';
SELECT ok FROM optout.checks WHERE name = 'aliases';
ROLLBACK;
BEGIN;
INSERT INTO optout.opt_out_period (organization, user_id, opted_out_at, opted_out_by) VALUES ('default', 'b1', now(), 'regress');
SELECT ok FROM optout.checks WHERE name = 'aliases';
ROLLBACK;
BEGIN;
ALTER TABLE optout.opt_out_period DISABLE TRIGGER optout_aliases;
DELETE FROM optout.user_alias;
SELECT ok FROM optout.checks WHERE name = 'aliases';
DELETE FROM optout.opt_out_period WHERE user_id = 'alice';
SELECT ok FROM optout.checks WHERE name = 'aliases';
ROLLBACK;
SELECT ok FROM optout.checks WHERE name = 'aliases';

-- as many are out as should be, but by themselves, or with somebody else
SELECT optout.enroll('carl'), optout.opt_out('carl'), optout.link('carl', '{c1}');
SELECT ok FROM optout.checks WHERE name = 'aliases';
BEGIN;
UPDATE optout.opt_out_period SET alias_of = NULL WHERE user_id = 'c1';
SELECT ok FROM optout.checks WHERE name = 'aliases';
ROLLBACK;
BEGIN;
UPDATE optout.opt_out_period p SET alias_of = 'alice', opted_out_at = (SELECT opted_out_at FROM optout.opt_out_period WHERE user_id = 'alice') WHERE user_id = 'c1';
SELECT ok FROM optout.checks WHERE name = 'aliases';
ROLLBACK;
BEGIN;
UPDATE optout.opt_out_period SET opted_out_at = opted_out_at - interval '1 hour' WHERE user_id = 'c1';
SELECT ok FROM optout.checks WHERE name = 'aliases';
ROLLBACK;
-- one too many, and one too few
BEGIN;
DELETE FROM optout.opt_out_period WHERE user_id = 'c1';
INSERT INTO optout.opt_out_period (organization, user_id, opted_out_at, opted_out_by, alias_of)
SELECT organization, 'b1', opted_out_at, opted_out_by, 'carl' FROM optout.opt_out_period WHERE user_id = 'carl';
SELECT ok FROM optout.checks WHERE name = 'aliases';
ROLLBACK;
SELECT ok FROM optout.checks WHERE name = 'aliases';

-- The filter says what it says in the status.
SELECT c.ok = (s.shared_filter = 'ready') AS ok, starts_with(c.detail, s.shared_filter) AS detail FROM optout.checks c, optout.status s WHERE c.name = 'filter';

-- For whoever may read every organization; what is not guarded everybody may know.
CREATE ROLE regress_reader;
SELECT optout.grant_authority('regress_reader', 'acme', 'read');
SET ROLE regress_reader;
SELECT count(*) FROM optout.checks;
SELECT count(*) FROM optout.unguarded;
RESET ROLE;
SELECT optout.revoke_authority('regress_reader', 'acme', 'read'), optout.grant_authority('regress_reader', '*', 'read');
SET ROLE regress_reader;
SELECT name FROM optout.checks ORDER BY name;
RESET ROLE;
SELECT optout.revoke_authority('regress_reader', '*', 'read');

\set VERBOSITY terse
SET client_min_messages = warning;
DROP SCHEMA shop, warehouse CASCADE;
DROP EXTENSION optout;
DROP ROLE regress_reader;
