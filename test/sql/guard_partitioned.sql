-- Partitioned tables: old and new partitions, whatever the order of their columns.
CREATE EXTENSION optout;
SELECT optout.enroll(ARRAY['alice', 'bob']);
SELECT optout.enroll(ARRAY['alice', 'bob'], 'acme');
SELECT optout.opt_out('alice');

CREATE TABLE event (day date, user_id text, tenant text, at timestamptz) PARTITION BY RANGE (day);
CREATE TABLE event_jan PARTITION OF event FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
SELECT optout.guard('event', organization => 'tenant', occurred_at => 'at');

-- a partition made later, one attached with other column numbers, and one partitioned again
CREATE TABLE event_feb PARTITION OF event FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
CREATE TABLE event_mar (dropped int, at timestamptz, tenant text, user_id text, day date);
ALTER TABLE event_mar DROP COLUMN dropped;
ALTER TABLE event ATTACH PARTITION event_mar FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');
CREATE TABLE event_apr (user_id text, at timestamptz, day date, tenant text) PARTITION BY LIST (tenant);
CREATE TABLE event_apr_any PARTITION OF event_apr DEFAULT;
ALTER TABLE event ATTACH PARTITION event_apr FOR VALUES FROM ('2026-04-01') TO ('2026-05-01');

-- only what guard() was called for is listed
SELECT * FROM optout.guarded;

INSERT INTO event (day, user_id)
SELECT d, u FROM unnest('{2026-01-05,2026-02-05,2026-03-05,2026-04-05}'::date[]) d, unnest('{alice,bob,NULL}'::text[]) u;
SELECT tableoid::regclass, day, user_id FROM event ORDER BY day, user_id;
-- straight into a partition
INSERT INTO event_jan (day, user_id) VALUES ('2026-01-06', 'alice'), ('2026-01-06', 'bob') RETURNING user_id;
INSERT INTO event_mar (day, user_id) VALUES ('2026-03-06', 'alice'), ('2026-03-06', 'bob') RETURNING user_id;
INSERT INTO event_apr (day, user_id) VALUES ('2026-04-06', 'alice'), ('2026-04-06', 'bob') RETURNING user_id;
COPY event (user_id, day) FROM STDIN;
alice	2026-01-07
bob	2026-01-07
alice	2026-03-07
bob	2026-03-07
alice	2026-04-07
\.
COPY event_mar (user_id, day) FROM STDIN;
alice	2026-03-08
bob	2026-03-08
\.
SELECT day, user_id FROM event WHERE day > '2026-01-06' AND user_id IS NOT NULL AND extract(day FROM day) > 6 ORDER BY day;
-- organization and time are read from the right columns, too
INSERT INTO event (day, user_id, tenant) VALUES ('2026-03-09', 'alice', 'acme'), ('2026-04-09', 'alice', 'acme') RETURNING day, user_id, tenant;
INSERT INTO optout.opt_out_period VALUES ('acme', 'bob', '2026-03-01', '2026-03-15', 'regress', 'regress');
INSERT INTO event (day, user_id, tenant, at) VALUES
  ('2026-03-10', 'bob', 'acme', '2026-03-10'), ('2026-03-20', 'bob', 'acme', '2026-03-20'),
  ('2026-03-10', 'bob', 'default', '2026-03-10'), ('2026-04-10', 'bob', 'acme', '2026-03-10') RETURNING day, tenant;

-- UPDATE: re-attributing, within a partition and across
UPDATE event SET user_id = 'alice' WHERE day IN ('2026-01-05', '2026-03-05', '2026-04-05') AND user_id = 'bob' RETURNING day;
UPDATE event SET day = '2026-02-20' WHERE day = '2026-01-07' RETURNING tableoid::regclass, day, user_id;
-- A stored event of somebody opted out since is updated like any other; but to
-- move it to another partition is to insert it there, where it is discarded.
SELECT optout.opt_out('bob');
UPDATE event SET day = '2026-02-21', tenant = tenant WHERE day = '2026-02-20' RETURNING day, user_id;
UPDATE event SET day = '2026-01-21' WHERE day = '2026-02-21' RETURNING day, user_id;
SELECT day, user_id FROM event WHERE day IN ('2026-01-21', '2026-02-21');
SELECT optout.opt_in('bob');

-- Renamed columns
ALTER TABLE event RENAME user_id TO person;
INSERT INTO event (day, person) VALUES ('2026-01-11', 'alice'), ('2026-03-11', 'alice'), ('2026-03-11', 'bob') RETURNING day, person;
CREATE TABLE event_may PARTITION OF event FOR VALUES FROM ('2026-05-01') TO ('2026-06-01');
INSERT INTO event (day, person) VALUES ('2026-05-11', 'alice'), ('2026-05-11', 'bob') RETURNING day, person;
SELECT * FROM optout.guarded;

-- ENABLE ALWAYS reaches every partition
SET session_replication_role = replica;
INSERT INTO event (day, person) SELECT d, 'alice' FROM unnest('{2026-01-12,2026-02-12,2026-03-12,2026-04-12,2026-05-12}'::date[]) d RETURNING day;
RESET session_replication_role;

-- The view tells where a partition's guard was altered; guard() mends it.
ALTER TABLE event_mar DISABLE TRIGGER ALL;
SELECT relation, fires FROM optout.guarded ORDER BY relation::text;
SELECT optout.guard('event', 'person', 'tenant', 'at');
SELECT relation, fires FROM optout.guarded;

-- A partition is guarded through its parent.
SELECT optout.guard('event_mar');
SELECT optout.unguard('event_mar');
-- Replaced for all partitions at once
SELECT optout.guard('event', 'person');
SELECT * FROM optout.guarded;
INSERT INTO event (day, person, tenant) SELECT d, 'alice', 'acme' FROM unnest('{2026-01-13,2026-02-13,2026-03-13,2026-04-13,2026-05-13}'::date[]) d RETURNING day;
SELECT count(*), count(DISTINCT pg_get_triggerdef(oid) LIKE '%(''user_id'')') FROM pg_trigger WHERE tgname = 'optout_guard';
-- A detached partition is guarded no more, and can be on its own.
ALTER TABLE event DETACH PARTITION event_mar;
INSERT INTO event_mar (day, person) VALUES ('2026-03-14', 'alice') RETURNING person;
SELECT optout.guard('event_mar', 'person');
INSERT INTO event_mar (day, person) VALUES ('2026-03-15', 'alice') RETURNING person;
ALTER TABLE event ATTACH PARTITION event_mar FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');
SELECT optout.unguard('event_mar');
ALTER TABLE event ATTACH PARTITION event_mar FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');
INSERT INTO event_mar (day, person) VALUES ('2026-03-16', 'alice') RETURNING person;
SELECT optout.unguard('event');
SELECT count(*) FROM pg_trigger WHERE tgname = 'optout_guard';

-- A partition that generates the guarded column is no way past the guard.  Some
-- versions of the server do not attach it.
CREATE TABLE click (user_id text, n integer) PARTITION BY LIST (n);
SELECT optout.guard('click');
CREATE TABLE click_1 (n integer, user_id text GENERATED ALWAYS AS ('alice') STORED);
DO $$
BEGIN
	ALTER TABLE click ATTACH PARTITION click_1 FOR VALUES IN (1);
	INSERT INTO click_1 (n) VALUES (1);
EXCEPTION WHEN feature_not_supported OR datatype_mismatch OR invalid_column_definition THEN
	NULL;
END $$;
SELECT count(*) FROM click_1;

-- The owner of a guarded partitioned table may add partitions only with EXECUTE
-- on the trigger function; guard() says so.
CREATE ROLE "regress Owner";
GRANT CREATE ON SCHEMA public TO "regress Owner";
ALTER TABLE event OWNER TO "regress Owner";
SELECT optout.guard('event', 'person');
SET ROLE "regress Owner";
\set VERBOSITY sqlstate
CREATE TABLE event_jun PARTITION OF event FOR VALUES FROM ('2026-06-01') TO ('2026-07-01');
\set VERBOSITY default
RESET ROLE;
GRANT EXECUTE ON FUNCTION optout.discard_opted_out() TO "regress Owner";
SELECT optout.guard('event', 'person');
SET ROLE "regress Owner";
CREATE TABLE event_jun PARTITION OF event FOR VALUES FROM ('2026-06-01') TO ('2026-07-01');
INSERT INTO event (day, person) VALUES ('2026-06-11', 'alice'), ('2026-06-11', 'bob') RETURNING day, person;
RESET ROLE;

DROP TABLE event, click, click_1;
DROP EXTENSION optout;
REVOKE ALL ON SCHEMA public FROM "regress Owner";
DROP ROLE "regress Owner";
