-- Foreign keys: their own changes pass the guard, what triggers do beneath them
-- does not.
SET client_min_messages = warning;
CREATE EXTENSION optout;
SELECT optout.enroll(ARRAY['out', 'out2']), optout.enroll('out', 'acme');
SELECT optout.opt_out(ARRAY['out', 'out2']);

-- An account, its sessions, and events that a trigger of the sessions gives to
-- another account: by a direct DELETE, and beneath each action.
CREATE TABLE account (id text PRIMARY KEY);
CREATE TABLE session (id int PRIMARY KEY, account text REFERENCES account ON DELETE CASCADE ON UPDATE CASCADE, merged_into text);
CREATE TABLE event (id int PRIMARY KEY, user_id text);
CREATE FUNCTION merge() RETURNS trigger LANGUAGE plpgsql
AS $$ BEGIN UPDATE event SET user_id = OLD.merged_into WHERE id = OLD.id; RETURN COALESCE(NEW, OLD); END $$;
CREATE TRIGGER merge BEFORE UPDATE OR DELETE ON session FOR EACH ROW EXECUTE FUNCTION merge();
SELECT optout.guard('event');
CREATE FUNCTION fill() RETURNS void LANGUAGE sql AS $$
	DELETE FROM event; DELETE FROM session; DELETE FROM account;
	INSERT INTO account VALUES ('a'), ('b'), ('c');
	INSERT INTO session VALUES (1, 'a', 'out'), (2, 'b', 'c'), (3, 'c', 'out');
	INSERT INTO event VALUES (1, 'a'), (2, 'b'), (3, 'c') $$;

SELECT fill();
DELETE FROM session;
SELECT * FROM event ORDER BY id;
SELECT fill();
DELETE FROM account;
SELECT * FROM event ORDER BY id;
SELECT fill();
UPDATE account SET id = 'x' WHERE id = 'a';
SELECT * FROM event ORDER BY id;
ALTER TABLE session DROP CONSTRAINT session_account_fkey,
	ADD CONSTRAINT session_account_fkey FOREIGN KEY (account) REFERENCES account ON DELETE SET NULL ON UPDATE SET NULL;
SELECT fill();
DELETE FROM account WHERE id = 'a';
UPDATE account SET id = 'x' WHERE id = 'b';
SELECT * FROM event ORDER BY id;
-- by an AFTER trigger
CREATE OR REPLACE TRIGGER merge AFTER UPDATE OR DELETE ON session FOR EACH ROW EXECUTE FUNCTION merge();
SELECT fill();
DELETE FROM account;
SELECT * FROM event ORDER BY id;
-- by a function that is no trigger, and by a rule
DROP TRIGGER merge ON session;
CREATE FUNCTION merge(session) RETURNS boolean LANGUAGE plpgsql
AS $$ BEGIN UPDATE event SET user_id = $1.merged_into WHERE id = $1.id; RETURN true; END $$;
ALTER TABLE session ADD CONSTRAINT merge CHECK (account IS NOT NULL OR merge(session));
SELECT fill();
DELETE FROM account;
SELECT * FROM event ORDER BY id;
ALTER TABLE session DROP CONSTRAINT merge;
CREATE RULE merge AS ON UPDATE TO session DO ALSO UPDATE event SET user_id = OLD.merged_into WHERE id = OLD.id;
SELECT fill();
DELETE FROM account;
SELECT * FROM event ORDER BY id;
DROP RULE merge ON session;
DROP FUNCTION merge(session);

-- The same where the events refer to the account themselves, so that the account
-- that they belong to is gone when the trigger gives them to another.
ALTER TABLE session DROP CONSTRAINT session_account_fkey,
	ADD CONSTRAINT session_account_fkey FOREIGN KEY (account) REFERENCES account ON DELETE CASCADE ON UPDATE CASCADE;
SELECT fill();
ALTER TABLE event ADD FOREIGN KEY (user_id) REFERENCES account ON UPDATE CASCADE ON DELETE SET NULL;
CREATE TRIGGER merge BEFORE UPDATE OR DELETE ON session FOR EACH ROW EXECUTE FUNCTION merge();
SELECT fill();
BEGIN;
INSERT INTO account VALUES ('out');
UPDATE account SET id = id;
DELETE FROM account WHERE id IN ('a', 'b');
SELECT * FROM event ORDER BY id;
UPDATE account SET id = 'out2' WHERE id = 'c';
SELECT * FROM event ORDER BY id;
ROLLBACK;
-- a trigger that does what the key does is no harm
UPDATE session SET merged_into = 'out';
UPDATE account SET id = 'out' WHERE id = 'a';
SELECT * FROM event ORDER BY id;
-- and where a row has the old key again, the trigger's change is discarded
BEGIN;
INSERT INTO account VALUES ('a');
INSERT INTO session VALUES (9, 'c', 'out');
INSERT INTO event VALUES (9, 'a');
DELETE FROM account WHERE id = 'c';
SELECT * FROM event WHERE id = 9;
ROLLBACK;
BEGIN;
UPDATE account SET id = 'd' WHERE id = 'b';
UPDATE account SET id = 'out2' WHERE id = 'd';
INSERT INTO account VALUES ('d');
INSERT INTO session VALUES (9, 'c', 'out2');
INSERT INTO event VALUES (9, 'd');
DELETE FROM account WHERE id = 'c';
SELECT * FROM event WHERE id = 9;
ROLLBACK;
SELECT organization, discarded FROM optout.discards;
-- nor may it change another guarded column along with the key's
SELECT optout.enroll('half', 'acme'), optout.opt_out('half', 'acme');
ALTER TABLE event ADD org text;
SELECT optout.guard('event', organization => 'org');
CREATE OR REPLACE FUNCTION merge() RETURNS trigger LANGUAGE plpgsql
AS $$ BEGIN UPDATE event SET user_id = 'half', org = 'acme' WHERE id = OLD.id; RETURN COALESCE(NEW, OLD); END $$;
SELECT fill();
UPDATE account SET id = 'half' WHERE id = 'b';
SELECT * FROM event ORDER BY id;
DROP TABLE event, session, account;

-- The key's own changes: every action, several columns, several levels, within a
-- savepoint and beneath a trigger.
CREATE TABLE org (id text PRIMARY KEY);
INSERT INTO org VALUES ('default'), ('acme'), ('elsewhere');
CREATE TABLE account (org text DEFAULT 'default' REFERENCES org ON UPDATE CASCADE, id varchar(20), note text, PRIMARY KEY (org, id));
CREATE TABLE profile (org text, id char(20), PRIMARY KEY (id, org),
	FOREIGN KEY (org, id) REFERENCES account ON UPDATE CASCADE);
CREATE TABLE event (n int, org text, user_id text,
	FOREIGN KEY (user_id, org) REFERENCES profile (id, org) ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED);
SELECT optout.guard('event', organization => 'org');
INSERT INTO account VALUES ('default', 'a'), ('elsewhere', 'out'), ('default', 'b'), ('acme', 'c');
INSERT INTO profile SELECT org, id FROM account;
INSERT INTO event SELECT row_number() OVER (ORDER BY id), org, id FROM account;
SELECT * FROM event ORDER BY n;
UPDATE account SET id = 'out' WHERE id = 'a';
UPDATE account SET org = 'default', id = 'out2' WHERE org = 'acme';
BEGIN;
INSERT INTO event VALUES (9, 'default', 'b');
SAVEPOINT s;
UPDATE account SET id = 'never' WHERE id = 'b';
ROLLBACK TO s;
SAVEPOINT s;
SELECT FROM account FOR KEY SHARE;
UPDATE account SET note = 'x';
UPDATE account SET id = 'x' WHERE id = 'b';
UPDATE account SET id = 'out3' WHERE id = 'x';
RELEASE s;
COMMIT;
SELECT * FROM event ORDER BY n;
UPDATE org SET id = 'acme2' WHERE id = 'elsewhere';
SELECT optout.enroll('out', 'acme3'), optout.opt_out('out', 'acme3');
CREATE FUNCTION rename() RETURNS trigger LANGUAGE plpgsql
AS $$ BEGIN UPDATE org SET id = 'acme3' WHERE id = 'acme2'; RETURN NEW; END $$;
CREATE TABLE request (n int);
CREATE TRIGGER rename BEFORE INSERT ON request FOR EACH ROW EXECUTE FUNCTION rename();
DELETE FROM event WHERE org = 'default' AND user_id = 'out';
INSERT INTO request VALUES (1);
SELECT * FROM event ORDER BY n;
DROP TABLE event, profile, account, request;
INSERT INTO org VALUES ('acme') ON CONFLICT DO NOTHING;

-- SET NULL and SET DEFAULT
SELECT optout.enroll(ARRAY['7']), optout.opt_out(ARRAY['7']);
CREATE TABLE event (n int, user_id text, org text REFERENCES org ON DELETE SET NULL);
SELECT optout.guard('event', organization => 'org');
INSERT INTO event VALUES (1, 'out', 'acme');
DELETE FROM org WHERE id = 'acme';
SELECT * FROM event;
DROP TABLE event;
CREATE TABLE account (id int PRIMARY KEY);
INSERT INTO account VALUES (1), (2), (3), (7);
CREATE TABLE event (n int, user_id bigint DEFAULT 3 + 4 REFERENCES account ON DELETE SET DEFAULT ON UPDATE SET DEFAULT);
SELECT optout.guard('event');
INSERT INTO event VALUES (1, 1), (2, 2), (3, 3);
DELETE FROM account WHERE id = 1;
UPDATE account SET id = 20 WHERE id = 2;
SELECT * FROM event ORDER BY n;
-- and no other value than the default
SELECT optout.enroll('8'), optout.opt_out('8');
INSERT INTO account VALUES (1), (8);
INSERT INTO event VALUES (4, 1);
CREATE TABLE session (id int REFERENCES account ON DELETE CASCADE);
ALTER TABLE event DROP CONSTRAINT event_user_id_fkey, ADD FOREIGN KEY (user_id) REFERENCES account ON DELETE SET DEFAULT ON UPDATE SET DEFAULT;
CREATE OR REPLACE FUNCTION merge() RETURNS trigger LANGUAGE plpgsql
AS $$ BEGIN UPDATE event SET user_id = 8 WHERE user_id = OLD.id; RETURN OLD; END $$;
CREATE TRIGGER merge BEFORE DELETE ON session FOR EACH ROW EXECUTE FUNCTION merge();
INSERT INTO session VALUES (1);
DELETE FROM account WHERE id = 1;
SELECT * FROM event WHERE n = 4;
DROP TABLE session;
-- a default that we cannot know is the key's to refuse
CREATE SEQUENCE seven START 7;
ALTER TABLE event ALTER user_id SET DEFAULT nextval('seven');
DELETE FROM account WHERE id = 3;
DROP TABLE event;
DROP SEQUENCE seven;
TRUNCATE account;

-- Partitions on either side, with columns in another order; several keys at once.
CREATE TABLE owner (id int, region int, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE owner_1 PARTITION OF owner FOR VALUES IN (1);
CREATE TABLE owner_2 (region int NOT NULL, dropped int, id int NOT NULL);
ALTER TABLE owner_2 DROP dropped;
ALTER TABLE owner ATTACH PARTITION owner_2 FOR VALUES IN (2);
CREATE TABLE event (n int, user_id int, region int,
	FOREIGN KEY (region, user_id) REFERENCES owner (region, id) ON UPDATE CASCADE) PARTITION BY LIST (n);
CREATE TABLE event_1 PARTITION OF event FOR VALUES IN (1);
CREATE TABLE event_2 (region int, user_id int, n int);
ALTER TABLE event ATTACH PARTITION event_2 FOR VALUES IN (2);
SELECT optout.guard('event');
INSERT INTO owner VALUES (1, 1), (2, 2);
INSERT INTO event VALUES (1, 1, 1), (2, 2, 2);
UPDATE owner SET id = 7 WHERE id = 1;
SELECT * FROM event ORDER BY n;
UPDATE owner SET id = 8 WHERE id = 7;
UPDATE owner SET id = 7 WHERE id = 2;
SELECT * FROM event ORDER BY n;
-- to another partition
UPDATE owner SET id = 1, region = 2 WHERE id = 8;
UPDATE owner SET id = 7, region = 1 WHERE id = 1;
SELECT * FROM event ORDER BY n;
-- while a trigger beneath the action is told from it there, too
CREATE TABLE visit (region int, owner int, FOREIGN KEY (region, owner) REFERENCES owner ON DELETE CASCADE ON UPDATE CASCADE);
CREATE FUNCTION give_away() RETURNS trigger LANGUAGE plpgsql
AS $$ BEGIN UPDATE event SET user_id = 7 WHERE n = 3; RETURN COALESCE(NEW, OLD); END $$;
CREATE TRIGGER give_away BEFORE DELETE OR UPDATE ON visit FOR EACH ROW EXECUTE FUNCTION give_away();
CREATE TABLE event_3 PARTITION OF event FOR VALUES IN (3);
-- the action on the events comes last, so that the trigger sees them before
ALTER TABLE event DROP CONSTRAINT event_region_user_id_fkey, ADD FOREIGN KEY (region, user_id) REFERENCES owner (region, id) ON UPDATE CASCADE;
INSERT INTO owner VALUES (5, 1), (6, 1);
INSERT INTO visit VALUES (1, 5), (1, 6);
INSERT INTO event VALUES (3, 6, 1);
BEGIN;
UPDATE owner SET id = id;
DELETE FROM owner WHERE id = 5;
UPDATE owner SET region = 2 WHERE id = 6;
SELECT * FROM event ORDER BY n;
ROLLBACK;
BEGIN;
UPDATE owner SET id = 77, region = 2 WHERE id = 7 AND region = 1;
UPDATE owner SET id = 7, region = 1 WHERE id = 77;
UPDATE owner SET region = 2 WHERE id = 6;
SELECT * FROM event ORDER BY n;
ROLLBACK;
BEGIN;
UPDATE owner SET region = CASE id WHEN 6 THEN 2 ELSE region END;
SELECT * FROM event ORDER BY n;
ROLLBACK;
DROP TABLE event, visit;

-- Two keys on the same column, and one of a single partition
CREATE TABLE person (id int PRIMARY KEY);
CREATE TABLE event (n int, user_id int REFERENCES account ON UPDATE CASCADE) PARTITION BY LIST (n);
CREATE TABLE event_1 PARTITION OF event FOR VALUES IN (1);
ALTER TABLE event_1 ADD FOREIGN KEY (user_id) REFERENCES person ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED;
SELECT optout.guard('event');
INSERT INTO account VALUES (1);
INSERT INTO person VALUES (1);
INSERT INTO event VALUES (1, 1);
BEGIN;
UPDATE account SET id = 7 WHERE id = 1;
SELECT * FROM event;
UPDATE person SET id = 7 WHERE id = 1;
COMMIT;
SELECT * FROM event;
UPDATE event SET user_id = NULL;
DELETE FROM account;
DROP TABLE event;

-- Where the events are partitioned by the id, the action moves the event, which is
-- to insert it: it is discarded, and nothing violates the key.
CREATE TABLE event (user_id int REFERENCES account ON UPDATE CASCADE) PARTITION BY HASH (user_id);
CREATE TABLE event_0 PARTITION OF event FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE event_1 PARTITION OF event FOR VALUES WITH (MODULUS 2, REMAINDER 1);
SELECT optout.guard('event');
TRUNCATE account CASCADE;
INSERT INTO account SELECT generate_series(1, 6);
INSERT INTO event SELECT generate_series(1, 6);
DO $$ BEGIN FOR i IN 1..6 LOOP UPDATE account SET id = 7 WHERE id = i; UPDATE account SET id = 10 + i WHERE id = 7; END LOOP; END $$;
SELECT count(*) BETWEEN 1 AND 5 AS some_are_left FROM event;
SELECT count(*) FROM event WHERE user_id NOT IN (SELECT id FROM account);

DROP TABLE event, owner, account, person, org;
DROP FUNCTION merge(), rename(), fill(), give_away();
DROP EXTENSION optout;
