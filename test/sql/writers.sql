-- What writers need of the extension: nothing.  And what the others need where
-- PUBLIC is kept out of its schema.
\set VERBOSITY terse
CREATE EXTENSION optout;
CREATE ROLE regress_writer;
CREATE ROLE regress_owner;
CREATE ROLE regress_admin;
CREATE ROLE regress_app;
CREATE ROLE regress_reader;
SELECT optout.enroll(ARRAY['alice', 'bob']), optout.enroll('carol', 'acme');
SELECT optout.opt_out('alice'), optout.opt_out('carol', 'acme');
SELECT optout.grant_authority('regress_admin', 'default', 'administer'), optout.grant_authority('regress_reader', 'default', 'read');
GRANT CREATE ON SCHEMA public TO regress_owner;
SET ROLE regress_owner;
CREATE TABLE event (user_id text, organization text, at timestamptz, what text);
CREATE TABLE parted (user_id text, day integer) PARTITION BY LIST (day);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2);
CREATE TABLE staging (user_id text);
INSERT INTO staging VALUES ('alice'), ('bob');
GRANT SELECT, INSERT, UPDATE ON event, parted, staging TO regress_writer;
RESET ROLE;
SELECT optout.guard('event', organization => 'organization', occurred_at => 'at'), optout.guard('parted');
GRANT EXECUTE ON FUNCTION optout.discard_opted_out() TO regress_owner;
CREATE VIEW accepted AS SELECT * FROM staging WHERE optout.accepts(user_id);
BEGIN;
CREATE FUNCTION accepts(text) RETURNS boolean LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'SELECT optout.accepts($1)';
CREATE FUNCTION sign_in(text) RETURNS boolean LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'SELECT optout.sign_in($1)';
ALTER FUNCTION sign_in OWNER TO regress_admin;
CREATE FUNCTION leave(text) RETURNS boolean LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'SELECT optout.opt_out($1)';
ALTER FUNCTION leave OWNER TO regress_admin;
REVOKE EXECUTE ON FUNCTION accepts, sign_in, leave FROM PUBLIC;
GRANT EXECUTE ON FUNCTION accepts TO regress_writer;
GRANT EXECUTE ON FUNCTION sign_in, leave TO regress_app;
COMMIT;
CREATE VIEW list AS SELECT user_id, opted_out_by = 'regress_admin' AS by_admin FROM optout.opt_out_list;
CREATE VIEW state AS SELECT load_progress IS NULL AS loaded FROM optout.status;
GRANT SELECT ON accepted TO regress_writer;
GRANT SELECT ON list, state TO regress_reader;
CREATE FUNCTION guard_it(regclass) RETURNS void LANGUAGE sql BEGIN ATOMIC SELECT optout.guard($1); END;
CREATE FUNCTION unguard_it(regclass) RETURNS void LANGUAGE sql BEGIN ATOMIC SELECT optout.unguard($1); END;
GRANT EXECUTE ON FUNCTION optout.guard(regclass, name, name, name), optout.unguard(regclass) TO regress_owner;
REVOKE USAGE ON SCHEMA optout FROM PUBLIC;

-- writers, each the first in its session to ask
\c -
SET ROLE regress_writer;
INSERT INTO event VALUES ('alice'), ('bob') RETURNING user_id;
\c -
SET ROLE regress_writer;
COPY event FROM STDIN;
alice	default	2026-05-01 10:00+00	copied
carol	acme	\N	copied
carol	default	\N	copied
\.
\c -
SET ROLE regress_writer;
UPDATE event SET user_id = 'alice' WHERE user_id = 'bob';
\c -
SET ROLE regress_writer;
MERGE INTO event USING staging s ON event.user_id = s.user_id
 WHEN MATCHED THEN UPDATE SET what = 'merged'
 WHEN NOT MATCHED THEN INSERT (user_id, what) VALUES (s.user_id, 'merged');
\c -
SET ROLE regress_writer;
INSERT INTO parted VALUES ('alice', 1), ('bob', 1), ('alice', 2), ('bob', 2);
UPDATE parted SET day = 3 - day WHERE day = 1;
SELECT user_id, organization, what FROM event ORDER BY 1, 2;
SELECT * FROM parted ORDER BY day, user_id;
-- the filter in a view takes its reader's EXECUTE, wrapped its owner's
SELECT user_id FROM accepted;
\c -
SET ROLE regress_writer;
COPY staging FROM STDIN WHERE accepts(user_id);
alice
dave
\.
SELECT user_id FROM staging ORDER BY 1;
RESET ROLE;
GRANT EXECUTE ON FUNCTION optout.accepts(text, text, timestamptz) TO regress_writer;
\c -
SET ROLE regress_writer;
SELECT user_id FROM accepted ORDER BY 1;
-- to name it takes USAGE
SELECT optout.accepts('alice');
RESET ROLE;
SELECT sum(discarded) AS discarded FROM optout.discards;

-- who owns a guarded partitioned table adds partitions
SET ROLE regress_owner;
CREATE TABLE parted_3 PARTITION OF parted FOR VALUES IN (3);
CREATE TABLE parted_4 (user_id text, day integer);
ALTER TABLE parted ATTACH PARTITION parted_4 FOR VALUES IN (4);
INSERT INTO parted VALUES ('alice', 3), ('bob', 3), ('alice', 4), ('bob', 4) RETURNING *;
-- guard() names a function of the schema in a CREATE TRIGGER of the caller's
CREATE TABLE another (user_id text);
SELECT optout.guard('another');
SELECT guard_it('another');
RESET ROLE;
GRANT USAGE ON SCHEMA optout TO regress_owner;
SET ROLE regress_owner;
SELECT guard_it('another');
INSERT INTO another VALUES ('alice'), ('bob') RETURNING *;
RESET ROLE;
REVOKE USAGE ON SCHEMA optout FROM regress_owner;
SET ROLE regress_owner;
SELECT unguard_it('another');
SELECT unguard_it('another');
RESET ROLE;

-- administration: a wrapper's owner needs it, a view's reader does not
SET ROLE regress_app;
SELECT sign_in('bob');
RESET ROLE;
GRANT USAGE ON SCHEMA optout TO regress_admin;
\c -
SET ROLE regress_app;
SELECT sign_in('bob'), leave('bob');
SELECT sign_in('bob');
RESET ROLE;
SET ROLE regress_reader;
SELECT * FROM list ORDER BY user_id;
SELECT * FROM state;
SELECT * FROM optout.opt_out_list;
RESET ROLE;
-- and after a change of somebody else's
SET ROLE regress_writer;
INSERT INTO event VALUES ('alice'), ('bob'), ('carol') RETURNING user_id;
RESET ROLE;

SET client_min_messages = warning;
DROP FUNCTION accepts, sign_in, leave, guard_it, unguard_it;
DROP VIEW accepted, list, state;
DROP OWNED BY regress_owner CASCADE;
DROP EXTENSION optout;
DROP OWNED BY regress_writer, regress_admin, regress_app, regress_reader;
DROP ROLE regress_writer, regress_owner, regress_admin, regress_app, regress_reader;
