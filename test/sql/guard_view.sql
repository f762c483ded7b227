-- Views through which every event counts as inserted.
CREATE EXTENSION optout;
SELECT optout.enroll(ARRAY['u1', 'u2']), optout.opt_out('u1');
CREATE SCHEMA shop;
CREATE DOMAIN shop.source AS text DEFAULT 'domain';
CREATE TABLE shop.event (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id text, "At" timestamptz NOT NULL DEFAULT '2026-01-01',
    source text DEFAULT 'web', gone int, day text GENERATED ALWAYS AS (upper(user_id) || id) STORED, of_domain shop.source, n int NOT NULL DEFAULT 1 + 2);
ALTER TABLE shop.event DROP COLUMN gone;
SELECT optout.guard('shop.event');
SELECT optout.guard_view('shop.event', 'event_in');
-- before 16 the columns are qualified
SELECT regexp_replace(pg_get_viewdef('shop.event_in'), '\mevent\.', '', 'g') AS view;

-- Every row is reported, complete; those accepted are stored, and are the same.
SELECT optout.opt_out('u1');
INSERT INTO shop.event_in (user_id) VALUES ('u1'), ('u2'), ('u1'), ('u3') RETURNING *;
INSERT INTO shop.event_in DEFAULT VALUES RETURNING id, source;
INSERT INTO shop.event_in (id, day, user_id, source) VALUES (DEFAULT, DEFAULT, 'u2', NULL) RETURNING *;
TABLE shop.event;
SELECT discarded FROM optout.discards;
COPY shop.event_in (user_id, source) FROM STDIN;
u1	copy
u2	copy
\.
SELECT id, user_id, source FROM shop.event WHERE source = 'copy';
-- what takes no value
INSERT INTO shop.event_in (id, user_id) VALUES (100, 'u2');
INSERT INTO shop.event_in (id, user_id) VALUES (100, 'u1');
INSERT INTO shop.event_in (user_id, day) VALUES ('u1', 'x');
\set VERBOSITY sqlstate
INSERT INTO shop.event_in (id, user_id) VALUES (100, 'u2');
INSERT INTO shop.event_in (user_id, n) VALUES ('u2', NULL);
\set VERBOSITY default
-- rows can be updated and deleted through it, guarded
UPDATE shop.event_in SET user_id = 'u1' WHERE user_id = 'u3' RETURNING id;
UPDATE shop.event_in SET user_id = 'u2' WHERE user_id = 'u3' RETURNING id, user_id;
DELETE FROM shop.event_in WHERE source = 'copy' RETURNING id;

-- Who writes needs INSERT on both, and nothing on the sequence; who reads no more than the table asks for.
CREATE ROLE regress_writer;
GRANT USAGE ON SCHEMA shop TO regress_writer;
GRANT INSERT, SELECT ON shop.event_in TO regress_writer;
SET ROLE regress_writer;
INSERT INTO shop.event_in (user_id) VALUES ('u2');
RESET ROLE;
GRANT INSERT ON shop.event TO regress_writer;
SET ROLE regress_writer;
INSERT INTO shop.event_in (user_id) VALUES ('u1'), ('u2') RETURNING id, user_id, day;
SELECT count(*) FROM shop.event_in;
RESET ROLE;
-- Columns that triggers fill in are reported to those who may read them.
CREATE FUNCTION shop.fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.source := current_user; NEW.n := length(current_setting('search_path')); RETURN NEW; END $$;
CREATE TRIGGER a_fill BEFORE INSERT ON shop.event FOR EACH ROW EXECUTE FUNCTION shop.fill();
SET ROLE regress_writer;
SET search_path = shop, public;
INSERT INTO event_in (user_id) VALUES ('u2') RETURNING user_id, source, n;
RESET ROLE;
GRANT SELECT ON shop.event TO regress_writer;
SET ROLE regress_writer;
INSERT INTO event_in (user_id) VALUES ('u1'), ('u2') RETURNING user_id, source, n;
RESET search_path;
RESET ROLE;
DROP TRIGGER a_fill ON shop.event;
-- Row-level security is the writer's.
ALTER TABLE shop.event ENABLE ROW LEVEL SECURITY;
CREATE POLICY writes ON shop.event FOR INSERT WITH CHECK (user_id <> 'u4');
SET ROLE regress_writer;
INSERT INTO shop.event_in (user_id) VALUES ('u1'), ('u2') RETURNING user_id;
INSERT INTO shop.event_in (user_id) VALUES ('u4');
SELECT count(*) FROM shop.event_in;
RESET ROLE;
ALTER TABLE shop.event DISABLE ROW LEVEL SECURITY;

-- Renames, columns and defaults since: those of the table at once, of the view after another call
ALTER TABLE shop.event RENAME source TO origin;
ALTER TABLE shop.event RENAME TO happening;
ALTER TABLE shop.happening ADD url text DEFAULT '/', ALTER n DROP DEFAULT, ALTER origin SET DEFAULT 'app';
INSERT INTO shop.event_in (user_id, source) VALUES ('u1', 'x'), ('u2', 'x') RETURNING user_id, source, n;
SELECT user_id, origin, url FROM shop.happening WHERE origin = 'x';
SELECT optout.guard_view('shop.happening', 'shop.event_in');
INSERT INTO shop.event_in (user_id, n) VALUES ('u1', 1), ('u2', 2) RETURNING user_id, origin, url, n;
INSERT INTO shop.event_in (user_id) VALUES ('u2');
SELECT has_table_privilege('regress_writer', 'shop.event_in', 'INSERT') AS grants_stay;
ALTER TABLE shop.happening RENAME TO event;

-- What is there already, and is not ours, stays.
CREATE TABLE shop.other (user_id text);
CREATE VIEW shop.mine AS SELECT * FROM shop.other;
SELECT optout.guard_view('shop.other', 'mine');
SELECT optout.guard_view('shop.other', 'event_in');
SELECT optout.guard_view('shop.other', 'other');
SELECT optout.guard_view('shop.other', 'nowhere.view');
SELECT optout.guard_view('shop.other', NULL);
SELECT optout.guard_view('shop.mine', 'mine_in');
SELECT optout.guard_view(NULL, 'mine_in');
GRANT EXECUTE ON FUNCTION optout.guard_view(regclass, text) TO regress_writer;
SET ROLE regress_writer;
SELECT optout.guard_view('shop.other', 'stolen');
RESET ROLE;
REVOKE EXECUTE ON FUNCTION optout.guard_view(regclass, text) FROM regress_writer;
-- the trigger on other views, and elsewhere
CREATE TRIGGER store INSTEAD OF INSERT ON shop.mine FOR EACH ROW EXECUTE FUNCTION optout.store_event();
INSERT INTO shop.mine VALUES ('u2') RETURNING *;
CREATE VIEW shop.upper AS SELECT upper(user_id) AS user_id FROM shop.other;
CREATE TRIGGER store INSTEAD OF INSERT ON shop.upper FOR EACH ROW EXECUTE FUNCTION optout.store_event();
INSERT INTO shop.upper VALUES ('u2');
CREATE TRIGGER store BEFORE INSERT ON shop.other FOR EACH ROW EXECUTE FUNCTION optout.store_event();
INSERT INTO shop.other VALUES ('u2');
DROP TABLE shop.other CASCADE;

-- Sequences of the other types; an id that may be given; a partitioned table; odd names
CREATE TABLE shop."Odd ""Event" (id smallint GENERATED BY DEFAULT AS IDENTITY, no int GENERATED ALWAYS AS IDENTITY (START 100), serial serial,
	"user" text, "select" text GENERATED ALWAYS AS ("user" || '''s "' || no) STORED) PARTITION BY LIST (id);
CREATE TABLE shop.odd_rest PARTITION OF shop."Odd ""Event" DEFAULT;
SELECT optout.guard('shop."Odd ""Event"', 'user');
SELECT optout.guard_view('shop."Odd ""Event"', '"shop"."In"');
INSERT INTO shop."In" ("user", id) VALUES ('u1', 7), ('u2', 8), ('u1', NULL) RETURNING *;
INSERT INTO shop."In" ("user") VALUES ('u1'), ('u2') RETURNING *;
SELECT * FROM shop."Odd ""Event" ORDER BY no;
-- a generated column may name its table
CREATE TABLE shop.named (user_id text, part oid GENERATED ALWAYS AS (tableoid) STORED);
SELECT optout.guard('shop.named'), optout.guard_view('shop.named', 'named_in');
INSERT INTO shop.named_in (user_id) VALUES ('u1'), ('u2') RETURNING user_id, part::regclass;
DROP TABLE shop.named CASCADE;
-- many rows, one plan
INSERT INTO shop."In" ("user") SELECT CASE WHEN i % 2 = 0 THEN 'u1' ELSE 'u2' END FROM generate_series(1, 1000) i;
SELECT count(*), max(no) FROM shop."Odd ""Event";
SELECT count(*) FROM pg_prepared_statements;

\set VERBOSITY terse
SET client_min_messages = warning;
DROP SCHEMA shop CASCADE;
DROP EXTENSION optout;
DROP ROLE regress_writer;
