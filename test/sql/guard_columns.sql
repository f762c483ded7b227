-- What the guard can read its columns from, and what it refuses.
CREATE EXTENSION optout;
SELECT optout.enroll(ARRAY['alice', '42', '550e8400-e29b-41d4-a716-446655440000']);
SELECT optout.opt_out(ARRAY['alice', '42', '550e8400-e29b-41d4-a716-446655440000']);

-- Every type of id.
CREATE DOMAIN user_name AS varchar(50) CHECK (VALUE <> 'x');
CREATE DOMAIN account_no AS bigint;
CREATE TABLE e_text (user_id text);
CREATE TABLE e_varchar (user_id varchar(20));
CREATE TABLE e_char (user_id char(10));
CREATE TABLE e_name (user_id name);
CREATE TABLE e_uuid (user_id uuid);
CREATE TABLE e_bigint (user_id bigint);
CREATE TABLE e_integer (user_id integer);
CREATE TABLE e_smallint (user_id smallint);
CREATE TABLE e_domain (user_id user_name);
CREATE TABLE e_domain2 (user_id account_no);
SELECT relname, optout.guard(oid::regclass) FROM pg_class
 WHERE relname LIKE 'e\_%' AND relkind = 'r' ORDER BY relname;
INSERT INTO e_text VALUES ('alice'), ('bob') RETURNING *;
INSERT INTO e_varchar VALUES ('alice'), ('bob') RETURNING *;
INSERT INTO e_char VALUES ('alice'), ('bob') RETURNING *;
INSERT INTO e_name VALUES ('alice'), ('bob') RETURNING *;
INSERT INTO e_uuid VALUES ('550E8400-E29B-41D4-A716-446655440000'), ('550e8400-e29b-41d4-a716-446655440001') RETURNING *;
INSERT INTO e_bigint VALUES (42), (43) RETURNING *;
INSERT INTO e_integer VALUES (42), (43) RETURNING *;
INSERT INTO e_smallint VALUES (42), (43) RETURNING *;
INSERT INTO e_domain VALUES ('alice'), ('bob') RETURNING *;
INSERT INTO e_domain2 VALUES (42), (43) RETURNING *;

-- Organizations by number; toasted and huge ids.
SELECT optout.enroll('alice', '7'), optout.opt_out('alice', '7');
CREATE TABLE by_number (tenant int, user_id text);
SELECT optout.guard('by_number', organization => 'tenant');
INSERT INTO by_number VALUES (7, 'alice'), (8, 'alice'), (7, repeat('huge', 100000)) RETURNING tenant, length(user_id);
UPDATE by_number SET user_id = user_id || '!' WHERE length(user_id) > 100 RETURNING length(user_id);
UPDATE by_number SET user_id = user_id RETURNING tenant;

-- Quoted and mixed-case names.
CREATE SCHEMA "Odd Schema";
CREATE TABLE "Odd Schema"."Event ""Table""" ("select" int, "userId" text, "Tenant 'x'" text, "when" timestamptz);
SELECT optout.guard('"Odd Schema"."Event ""Table"""', 'userId', 'Tenant ''x''', 'when');
SELECT * FROM optout.guarded WHERE relation::text LIKE '%Odd%';
INSERT INTO "Odd Schema"."Event ""Table""" VALUES (1, 'alice'), (2, 'bob') RETURNING "select";

-- What is refused, when guard() is called.
CREATE TABLE event (user_id text, place point, price numeric, at timestamp, on_day date, at_tz timestamptz,
                    lower_id text GENERATED ALWAYS AS (lower(user_id)) STORED, label bytea, gone text);
ALTER TABLE event DROP COLUMN gone;
SELECT optout.guard('event', 'userid');
\echo :LAST_ERROR_SQLSTATE
SELECT optout.guard('event', 'gone');
SELECT optout.guard('event', 'USER_ID');
SELECT optout.guard('event', organization => 'tenant');
SELECT optout.guard('event', occurred_at => 'happened');
SELECT optout.guard('event', 'place');
\echo :LAST_ERROR_SQLSTATE
SELECT optout.guard('event', 'price');
SELECT optout.guard('event', 'label');
SELECT optout.guard('event', organization => 'place');
SELECT optout.guard('event', occurred_at => 'at');
\echo :LAST_ERROR_SQLSTATE
SELECT optout.guard('event', occurred_at => 'on_day');
SELECT optout.guard('event', 'at_tz');
SELECT optout.guard('event', 'lower_id');
\echo :LAST_ERROR_SQLSTATE
SELECT optout.guard('event', 'ctid');
SELECT optout.guard('event', 'user_id', 'user_id');
SELECT optout.guard('event', NULL);
SELECT optout.guard(NULL);
SELECT optout.unguard(NULL);
SELECT optout.guard('nonexistent');
CREATE VIEW event_view AS SELECT * FROM event;
SELECT optout.guard('event_view');
CREATE MATERIALIZED VIEW event_matview AS SELECT * FROM event;
SELECT optout.guard('event_matview');
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'event'::regclass;
-- a trigger of the same name that is somebody else's
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER optout_guard BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION keep();
SELECT optout.guard('event');
SELECT optout.unguard('event');
DROP TRIGGER optout_guard ON event;
-- triggers that come after the guard
CREATE TRIGGER z_late BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION keep();
CREATE TRIGGER a_early BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION keep();
CREATE TRIGGER z_after AFTER INSERT ON event FOR EACH ROW EXECUTE FUNCTION keep();
SELECT optout.guard('event');
-- a trigger made by hand
CREATE TABLE by_hand (user_id text);
CREATE TRIGGER t BEFORE INSERT ON by_hand FOR EACH ROW EXECUTE FUNCTION optout.discard_opted_out('user_id');
INSERT INTO by_hand VALUES ('bob');
CREATE OR REPLACE TRIGGER t AFTER INSERT OR UPDATE OF user_id ON by_hand FOR EACH ROW EXECUTE FUNCTION optout.discard_opted_out('user_id');
INSERT INTO by_hand VALUES ('bob');
SELECT optout.discard_opted_out();
-- for columns that guard() would refuse
CREATE TABLE by_hand2 (n integer, place point, at text, user_id text GENERATED ALWAYS AS ('alice') STORED);
CREATE TRIGGER t BEFORE INSERT OR UPDATE OF place ON by_hand2 FOR EACH ROW EXECUTE FUNCTION optout.discard_opted_out('user_id');
INSERT INTO by_hand2 (place) VALUES ('(1,2)');
CREATE OR REPLACE TRIGGER t BEFORE INSERT OR UPDATE OF at, n ON by_hand2 FOR EACH ROW EXECUTE FUNCTION optout.discard_opted_out('occurred_at', 'user_id');
INSERT INTO by_hand2 (n, at) VALUES (1, 'now');
CREATE OR REPLACE TRIGGER t BEFORE INSERT OR UPDATE OF user_id ON by_hand2 FOR EACH ROW EXECUTE FUNCTION optout.discard_opted_out('user_id');
INSERT INTO by_hand2 (n) VALUES (1);
-- the filter's own trigger function on a table whose rows it cannot read
CREATE TABLE by_hand3 (n integer, user_id text);
INSERT INTO by_hand3 VALUES (1, NULL);
CREATE TRIGGER t AFTER INSERT OR UPDATE OR DELETE ON by_hand3 FOR EACH ROW EXECUTE FUNCTION optout.add_to_filter();
INSERT INTO by_hand3 VALUES (1, 'alice');
UPDATE by_hand3 SET n = 2;
DELETE FROM by_hand3;
CREATE CONSTRAINT TRIGGER u AFTER INSERT ON by_hand FOR EACH ROW EXECUTE FUNCTION optout.add_to_filter();
DROP TRIGGER t ON by_hand;
INSERT INTO by_hand VALUES ('bob');
SELECT optout.add_to_filter();
-- what takes different strings for the same by itself can hold no ids
CREATE EXTENSION citext;
CREATE DOMAIN nocase AS citext;
CREATE TABLE e_citext (user_id citext, device nocase);
SELECT optout.guard('e_citext');
\echo :LAST_ERROR_SQLSTATE
SELECT optout.guard('e_citext', 'device');
DROP TABLE e_citext;
DROP DOMAIN nocase;
DROP EXTENSION citext;
-- a table of the extension, where it would discard what is no event
SELECT optout.guard('optout.opt_out_period');
SELECT optout.guard('optout.product_user', 'user_id', 'organization');
-- somebody else's table
CREATE ROLE regress_other;
GRANT EXECUTE ON FUNCTION optout.guard(regclass, name, name, name), optout.unguard(regclass), optout.discard_opted_out() TO regress_other;
GRANT ALL ON event TO regress_other;
SET ROLE regress_other;
SELECT optout.guard('event');
SELECT optout.unguard('event');
\echo :LAST_ERROR_SQLSTATE
-- but its own it may guard
CREATE TEMP TABLE own (user_id text);
SELECT optout.guard('own');
INSERT INTO own VALUES ('alice'), ('bob') RETURNING *;
SELECT optout.unguard('own');
RESET ROLE;

\set VERBOSITY terse
SET client_min_messages = error;
DROP SCHEMA "Odd Schema" CASCADE;
DROP EXTENSION optout CASCADE;
DROP TABLE e_text, e_varchar, e_char, e_name, e_uuid, e_bigint, e_integer, e_smallint, e_domain, e_domain2,
  by_number, event, by_hand, by_hand2, by_hand3, own CASCADE;
DROP DOMAIN user_name, account_no;
DROP FUNCTION keep();
DROP ROLE regress_other;
