-- The guard: no path into the table gets past it.
SET client_min_messages = warning;
CREATE EXTENSION optout;
SELECT optout.enroll(ARRAY['alice', 'bob', 'carol']);
SELECT optout.opt_out('alice');

-- A plain table.
CREATE TABLE event (id int PRIMARY KEY, user_id text, what text DEFAULT 'x',
                    doubled int GENERATED ALWAYS AS (id * 2) STORED);
SELECT optout.guard('event');
SELECT * FROM optout.guarded;
INSERT INTO event VALUES (1, 'alice');
INSERT INTO event VALUES (2, 'alice'), (3, 'bob'), (4, NULL);
INSERT INTO event SELECT n, CASE WHEN n % 2 = 0 THEN 'alice' ELSE 'carol' END FROM generate_series(5, 8) n;
INSERT INTO event VALUES (9, 'alice'), (10, 'bob') RETURNING id, user_id, doubled;
COPY event (id, user_id) FROM STDIN;
11	alice
12	bob
13	\N
\.
WITH i AS (INSERT INTO event VALUES (14, 'alice'), (15, 'carol') RETURNING id) SELECT * FROM i;
SELECT * FROM event ORDER BY id;

-- COPY in binary
CREATE TABLE source AS SELECT 100 + n AS id, CASE n WHEN 1 THEN 'alice' ELSE 'bob' END AS user_id FROM generate_series(1, 2) n;
CREATE FUNCTION pg_temp.copy_binary() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  file text := current_setting('data_directory') || '/regress_optout_copy.bin';
BEGIN
  EXECUTE format('COPY source TO %L (FORMAT binary)', file);
  EXECUTE format('COPY event (id, user_id) FROM %L (FORMAT binary)', file);
END $$;
SELECT pg_temp.copy_binary();
SELECT id, user_id FROM event WHERE id > 100;

-- ON CONFLICT
INSERT INTO event VALUES (3, 'alice') ON CONFLICT (id) DO UPDATE SET user_id = EXCLUDED.user_id, what = 'conflict';
INSERT INTO event VALUES (3, 'carol', 'new') ON CONFLICT (id) DO UPDATE SET user_id = 'alice', what = 'conflict';
INSERT INTO event VALUES (3, 'carol', 'new') ON CONFLICT (id) DO UPDATE SET what = 'conflict';
INSERT INTO event VALUES (3, 'alice') ON CONFLICT DO NOTHING;
SELECT id, user_id, what FROM event WHERE id = 3;

-- MERGE
MERGE INTO event e USING (VALUES (3, 'alice'), (20, 'alice'), (21, 'bob'), (102, 'carol')) AS s (id, user_id)
   ON e.id = s.id
 WHEN MATCHED THEN UPDATE SET user_id = s.user_id
 WHEN NOT MATCHED THEN INSERT (id, user_id) VALUES (s.id, s.user_id);
SELECT id, user_id FROM event WHERE id IN (3, 20, 21, 102) ORDER BY id;

-- UPDATE: what re-attributes an event to an opted-out user is discarded, the
-- rest passes, also for events of theirs that had been stored before.
UPDATE event SET user_id = 'alice' WHERE id = 10 RETURNING id;
UPDATE event SET user_id = 'carol' WHERE id = 10 RETURNING id, user_id;
SELECT optout.opt_out('carol');
UPDATE event SET what = 'corrected' WHERE user_id = 'carol' AND id = 10 RETURNING id, user_id, what;
UPDATE event SET user_id = user_id, what = 'again' WHERE id = 10 RETURNING id, user_id, what;
UPDATE event SET user_id = 'carol', what = 'and again' WHERE id = 10 RETURNING id, user_id, what;
UPDATE event SET user_id = NULL WHERE id = 10 RETURNING id, user_id;
DELETE FROM event WHERE user_id = 'carol';
SELECT optout.opt_in('carol');

-- A writer needs no privilege but those on its table.
CREATE ROLE regress_writer;
GRANT INSERT, SELECT, UPDATE ON event TO regress_writer;
SET ROLE regress_writer;
INSERT INTO event VALUES (30, 'alice'), (31, 'bob') RETURNING id;
UPDATE event SET user_id = 'alice' WHERE id = 31 RETURNING id;
SELECT optout.accepts('bob');
CREATE TEMP TABLE probe (user_id text);
CREATE TRIGGER t BEFORE INSERT ON probe FOR EACH ROW EXECUTE FUNCTION optout.discard_opted_out();
SELECT optout.guard('probe');
RESET ROLE;

-- Calling it twice replaces it; unguard takes it off.
ALTER TABLE event ADD tenant text, ADD at timestamptz;
SELECT optout.guard('event', organization => 'tenant', occurred_at => 'at');
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'event'::regclass;
SELECT * FROM optout.guarded;
SELECT optout.enroll('alice', 'acme');
INSERT INTO event (id, user_id, tenant) VALUES (40, 'alice', NULL), (41, 'alice', 'acme'), (42, 'alice', 'default') RETURNING id;
SELECT optout.opt_in('alice'), optout.opt_out('alice', 'acme');
INSERT INTO event (id, user_id, tenant) VALUES (43, 'alice', NULL), (44, 'alice', 'acme'), (45, 'alice', 'default') RETURNING id;
UPDATE event SET tenant = 'acme' WHERE id = 43 RETURNING id;
-- an impossible organization does not slip through
INSERT INTO event (id, user_id, tenant) VALUES (46, 'alice', '*');
INSERT INTO event (id, user_id, tenant) VALUES (46, NULL, '');
SELECT optout.opt_in('alice', 'acme');
-- event time
INSERT INTO optout.opt_out_period VALUES ('default', 'bob', '2026-01-01', '2026-02-01', 'regress', 'regress');
INSERT INTO event (id, user_id, at) VALUES (50, 'bob', '2025-12-31'), (51, 'bob', '2026-01-01'), (52, 'bob', '2026-01-31'),
       (53, 'bob', '2026-02-01'), (54, 'bob', NULL) RETURNING id;
UPDATE event SET at = '2026-01-15' WHERE id = 53 RETURNING id;
SELECT optout.guard('event', 'what');
SELECT * FROM optout.guarded;
SELECT optout.unguard('event');
SELECT optout.unguard('event');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM optout.guarded;
SELECT optout.opt_out('alice');
INSERT INTO event (id, user_id) VALUES (60, 'alice') RETURNING id;

-- The organization of a session, where no column says it.
SELECT optout.guard('event');
SELECT optout.enroll('carol', 'acme'), optout.opt_out('carol', 'acme');
INSERT INTO event (id, user_id) VALUES (61, 'carol') RETURNING id;
SET optout.organization = 'acme';
INSERT INTO event (id, user_id) VALUES (62, 'carol'), (63, 'alice') RETURNING id;
RESET optout.organization;

-- It fires whatever the session's replication role.
SET session_replication_role = replica;
INSERT INTO event (id, user_id) VALUES (70, 'alice'), (71, 'bob') RETURNING id;
RESET session_replication_role;
-- and the view tells when somebody altered it
ALTER TABLE event ENABLE TRIGGER optout_guard;
SELECT relation, fires FROM optout.guarded;
ALTER TABLE event DISABLE TRIGGER optout_guard;
SELECT relation, fires FROM optout.guarded;
SELECT optout.guard('event');
SELECT relation, fires FROM optout.guarded;

-- Renamed columns and tables stay guarded.
ALTER TABLE event RENAME user_id TO person;
ALTER TABLE event RENAME what TO user_id;
ALTER TABLE event RENAME TO usage_event;
SELECT * FROM optout.guarded;
INSERT INTO usage_event (id, person, user_id) VALUES (80, 'alice', 'bob'), (81, 'bob', 'alice') RETURNING id;
ALTER TABLE usage_event DROP COLUMN person;
\set VERBOSITY terse
ALTER TABLE usage_event ALTER COLUMN person TYPE varchar(100);
\set VERBOSITY default

-- Foreign keys: a discarded row is not referenced, and the key's own updates pass.
CREATE TABLE account (id text PRIMARY KEY);
INSERT INTO account VALUES ('alice'), ('bob'), ('carol');
CREATE TABLE visit (id int PRIMARY KEY, user_id text REFERENCES account ON UPDATE CASCADE ON DELETE SET NULL);
CREATE TABLE click (visit int REFERENCES visit, user_id text);
SELECT optout.guard('visit'), optout.guard('click');
INSERT INTO visit VALUES (1, 'alice'), (2, 'bob'), (3, 'zoe');
INSERT INTO visit VALUES (1, 'alice'), (2, 'bob');
INSERT INTO click VALUES (1, 'alice'), (2, 'bob');
INSERT INTO click VALUES (1, 'bob');
SELECT optout.enroll('robert'), optout.opt_out('robert');
UPDATE account SET id = 'robert' WHERE id = 'bob';
SELECT * FROM visit;
DELETE FROM account WHERE id = 'robert';
SELECT * FROM visit;

-- Dropping the extension does not silently unguard.
DROP EXTENSION optout;

DROP TABLE usage_event, source, account, visit, click, probe;
DROP EXTENSION optout;
DROP ROLE regress_writer;
