-- Guards that look at several columns: tracks as Segment's and RudderStack's
-- warehouses have them, page views as Snowplow's.
CREATE EXTENSION optout;
SELECT optout.enroll(ARRAY['u1', 'u2', 'device1', '42', '550e8400-e29b-41d4-a716-446655440000']);
SELECT optout.opt_out(ARRAY['u1', 'device1', '42', '550e8400-e29b-41d4-a716-446655440000']);
CREATE FUNCTION counted() RETURNS bigint LANGUAGE sql AS 'SELECT COALESCE(sum(discarded), 0)::bigint FROM optout.discards';

CREATE TABLE tracks (id text PRIMARY KEY, anonymous_id text, user_id text, what text);
SELECT optout.guard('tracks', ARRAY['user_id', 'anonymous_id']);
SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'tracks'::regclass;
SELECT * FROM optout.guarded;
-- any of the ids; one that is NULL says nothing
INSERT INTO tracks VALUES
	('1', 'anon', NULL), ('2', 'anon', 'u1'), ('3', 'anon', 'u2'), ('4', 'device1', NULL), ('5', 'device1', 'u2'),
	('6', 'device1', 'u1'), ('7', NULL, 'u1'), ('8', NULL, NULL), ('9', '', ''), ('10', 'u1', 'u2')
RETURNING id;
-- each counts once: 2, 4, 5, 6, 7, 10
SELECT counted();
COPY tracks (id, anonymous_id, user_id) FROM STDIN;
11	device1	u1
12	anon	u2
13	device1	\N
\.
SELECT id FROM tracks WHERE id::int > 10;
SELECT counted();

-- UPDATE: only the ids that the event gets are asked about
UPDATE tracks SET what = 'x', user_id = user_id WHERE id = '3' RETURNING id;
UPDATE tracks SET anonymous_id = 'device1' WHERE id = '3' RETURNING id;
UPDATE tracks SET user_id = 'u1' WHERE id = '3' RETURNING id;
UPDATE tracks SET anonymous_id = 'other' WHERE id = '3' RETURNING id;
SELECT optout.opt_out('u2');
UPDATE tracks SET what = 'y', anonymous_id = anonymous_id, user_id = user_id WHERE id = '3' RETURNING id, what;
UPDATE tracks SET anonymous_id = 'device1' WHERE id = '3' RETURNING id;
UPDATE tracks SET anonymous_id = user_id, user_id = anonymous_id WHERE id = '3' RETURNING id, anonymous_id, user_id;
UPDATE tracks SET user_id = NULL WHERE id = '3' RETURNING id, anonymous_id, user_id;
UPDATE tracks SET user_id = 'u1' WHERE id = '3' RETURNING id;
UPDATE tracks SET anonymous_id = NULL WHERE id = '3' RETURNING id;
UPDATE tracks SET anonymous_id = 'u2' WHERE id = '3' RETURNING id;
SELECT counted();
SELECT optout.opt_in('u2');
INSERT INTO tracks VALUES ('1', 'device1', 'u2') ON CONFLICT (id) DO UPDATE SET anonymous_id = EXCLUDED.anonymous_id;
INSERT INTO tracks VALUES ('1', 'anon', 'u2') ON CONFLICT (id) DO UPDATE SET anonymous_id = 'device1';
SELECT * FROM tracks WHERE id = '1';

-- Renamed columns; partitions with another order of columns, and with dropped ones
ALTER TABLE tracks RENAME anonymous_id TO device;
SELECT user_id, user_ids FROM optout.guarded;
INSERT INTO tracks VALUES ('20', 'device1', 'u2'), ('21', 'anon', 'u1'), ('22', 'anon', 'u2') RETURNING id;
ALTER TABLE tracks DROP COLUMN device;
SELECT optout.unguard('tracks');
CREATE TABLE views (day int, domain_userid varchar(128), user_id varchar(255), network_userid uuid, n int) PARTITION BY LIST (day);
SELECT optout.guard('views', ARRAY['user_id', 'domain_userid', 'network_userid', 'n']);
CREATE TABLE views_1 (gone int, n int, network_userid uuid, user_id varchar(255), day int, domain_userid varchar(128));
ALTER TABLE views_1 DROP COLUMN gone;
ALTER TABLE views ATTACH PARTITION views_1 FOR VALUES IN (1);
CREATE TABLE views_2 PARTITION OF views FOR VALUES IN (2);
INSERT INTO views SELECT day, d, u, w::uuid, n
  FROM unnest('{1,2}'::int[]) AS day, (VALUES
	('anon', 'u2', '00000000-0000-0000-0000-000000000001', 1),
	('device1', 'u2', '00000000-0000-0000-0000-000000000001', 2),
	('anon', 'u1', '00000000-0000-0000-0000-000000000001', 3),
	('anon', 'u2', '550E8400-E29B-41D4-A716-446655440000', 4),
	('anon', 'u2', '00000000-0000-0000-0000-000000000001', 42),
	(NULL, NULL, NULL, NULL)) AS v (d, u, w, n);
INSERT INTO views_1 (day, domain_userid) VALUES (1, 'device1'), (1, 'anon');
SELECT day, domain_userid, user_id, n FROM views ORDER BY day, n NULLS LAST, domain_userid;
SELECT relation, user_id, user_ids FROM optout.guarded;
DROP TABLE views;

-- Organization and time go for all ids.
CREATE DOMAIN moment AS timestamptz;
CREATE TABLE visit (a text, b text, org text, at moment);
SELECT optout.guard('visit', ARRAY['a', 'b'], 'org', 'at');
SELECT optout.enroll('v', 'acme'), optout.opt_out('v', 'acme');
INSERT INTO optout.opt_out_period VALUES ('default', 'past', '2026-01-01', '2026-02-01', 'regress', 'regress');
INSERT INTO visit VALUES ('x', 'v', 'acme', NULL), ('v', 'x', 'acme', NULL), ('v', 'x', NULL, NULL), ('x', 'past', NULL, '2026-01-15'),
	('x', 'past', NULL, '2026-02-01'), ('x', 'past', NULL, NULL) RETURNING *;
SELECT organization, sum(discarded) FROM optout.discards GROUP BY 1 ORDER BY 1;
UPDATE visit SET org = 'acme' WHERE a = 'v' RETURNING *;
UPDATE visit SET at = '2026-01-15' WHERE b = 'past' RETURNING *;
INSERT INTO visit VALUES ('x', 'y', '*', NULL);
DROP TABLE visit;
DROP DOMAIN moment;

-- A table of one organization, whatever the writer's setting
CREATE TABLE acme_event (user_id text);
SELECT optout.guard('acme_event', ARRAY['user_id'], fixed_organization => 'acme');
SELECT relation, user_id, organization, fixed_organization FROM optout.guarded;
INSERT INTO acme_event VALUES ('v'), ('u1') RETURNING *;
SET optout.organization = 'globex';
INSERT INTO acme_event VALUES ('v'), ('u1') RETURNING *;
RESET optout.organization;
SELECT organization, sum(discarded) FROM optout.discards GROUP BY 1 ORDER BY 1;
DROP TABLE acme_event;

-- timestamp in a time zone, with its summer time and the ends of the type
INSERT INTO optout.opt_out_period VALUES ('default', 'summer', '2026-07-01 10:00+00', '2026-07-01 11:00+00', 'regress', 'regress'),
	('default', 'winter', '2026-01-01 10:00+00', '2026-01-01 11:00+00', 'regress', 'regress');
CREATE TABLE local_event (user_id text, at timestamp);
SELECT optout.guard('local_event', ARRAY['user_id'], occurred_at => 'at', time_zone => 'Europe/Berlin');
SET timezone = 'Asia/Tokyo';
INSERT INTO local_event VALUES ('summer', '2026-07-01 11:59:59'), ('summer', '2026-07-01 12:00'), ('summer', '2026-07-01 13:00'),
	('winter', '2026-01-01 10:59:59'), ('winter', '2026-01-01 11:00'), ('winter', '2026-01-01 12:00'), ('summer', 'infinity'),
	('summer', '-infinity'), ('summer', '294276-12-31 23:59:59'), ('summer', '4713-01-01 00:00 BC'), ('summer', NULL) RETURNING *;
UPDATE local_event SET at = '2026-07-01 12:30' WHERE user_id = 'summer' RETURNING *;
-- hours that clocks repeat count as the later one, and those that they skip by the time before
INSERT INTO optout.opt_out_period VALUES ('default', 'autumn', '2026-10-25 00:00+00', '2026-10-25 01:00+00', 'regress', 'regress'),
	('default', 'autumn', '2026-10-25 01:00+00', '2026-10-25 01:15+00', 'regress', 'regress'), ('default', 'spring', '2026-03-29 01:30+00', '2026-03-29 01:31+00', 'regress', 'regress');
INSERT INTO local_event VALUES ('autumn', '2026-10-25 02:10'), ('autumn', '2026-10-25 02:15'), ('autumn', '2026-10-25 01:59'), ('spring', '2026-03-29 02:30'), ('spring', '2026-03-29 03:30') RETURNING *;
RESET timezone;
DROP TABLE local_event;

-- Ids that no guarded column can hold; a path can hold any.
SELECT user_id FROM optout.unmatchable;
CREATE TABLE numbers (a int, b smallint, c jsonb);
SELECT optout.guard('numbers', ARRAY['a', 'b']);
SELECT user_id FROM optout.unmatchable ORDER BY 1;
SELECT optout.guard('numbers', ARRAY['a', '$.b'], payload => 'c');
SELECT user_id FROM optout.unmatchable;
DROP TABLE numbers;

-- A foreign key's action passes with the columns of its key only.
CREATE TABLE account (id text PRIMARY KEY);
CREATE TABLE session (id int PRIMARY KEY, a text REFERENCES account ON UPDATE CASCADE ON DELETE SET NULL, b text);
INSERT INTO account VALUES ('u1'), ('u2'), ('u3');
SELECT optout.guard('session', ARRAY['a', 'b']);
INSERT INTO session VALUES (1, 'u2', 'device1'), (2, 'u2', 'x'), (3, 'u3', 'x');
UPDATE account SET id = 'device1' WHERE id = 'u2';
DELETE FROM account WHERE id = 'u3';
SELECT * FROM session ORDER BY id;
CREATE FUNCTION worse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE session SET b = 'u1' WHERE a = OLD.id; RETURN OLD; END $$;
CREATE TRIGGER worse AFTER UPDATE ON account FOR EACH ROW EXECUTE FUNCTION worse();
UPDATE account SET id = 'u9' WHERE id = 'device1';
SELECT * FROM session ORDER BY id;
DROP TABLE session, account;
DROP FUNCTION worse;

-- repair() and unguard() know them.
CREATE TABLE one (a text, b text);
SELECT optout.guard('one', ARRAY['a', 'b']);
ALTER TABLE one DISABLE TRIGGER optout_guard;
SELECT relation, user_ids, fires FROM optout.guarded;
SELECT optout.repair();
SELECT relation, user_ids, fires FROM optout.guarded;
ALTER TRIGGER optout_guard ON one RENAME TO mine;
SELECT optout.unguard('one');
SELECT * FROM optout.guarded;
-- A trigger made by hand, of arguments that say nothing
CREATE TRIGGER t BEFORE INSERT OR UPDATE OF a ON one FOR EACH ROW EXECUTE FUNCTION optout.discard_opted_out('user_id', 'user_id');
INSERT INTO one VALUES ('u2');
CREATE OR REPLACE TRIGGER t BEFORE INSERT OR UPDATE OF a, b ON one FOR EACH ROW EXECUTE FUNCTION optout.discard_opted_out('user_id');
INSERT INTO one VALUES ('u2');
CREATE OR REPLACE TRIGGER t BEFORE INSERT OR UPDATE OF a, b ON one FOR EACH ROW EXECUTE FUNCTION optout.discard_opted_out('user_id', 'nonsense');
INSERT INTO one VALUES ('u2');
SELECT relation, user_id, user_ids FROM optout.guarded;
DROP TABLE one;

-- Foreign tables
CREATE FOREIGN DATA WRAPPER regress_nothing;
CREATE SERVER regress_server FOREIGN DATA WRAPPER regress_nothing;
CREATE FOREIGN TABLE remote (a text, b text) SERVER regress_server;
SELECT optout.guard('remote', ARRAY['a', 'b']);
SELECT relation, user_ids, fires FROM optout.guarded;
ALTER TABLE remote ENABLE TRIGGER optout_guard;
SELECT optout.repair();
SELECT optout.guard('remote', 'a');
SELECT relation, user_id, fires FROM optout.guarded;
SELECT optout.unguard('remote');
DROP FOREIGN DATA WRAPPER regress_nothing CASCADE;

DROP TABLE tracks;
DROP FUNCTION counted;
DROP EXTENSION optout;
