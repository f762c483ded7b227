-- What the fuzz tests keep in the database; test/lab/fuzz/run runs it once, as a
-- superuser.

----------------------------------------------------------------------
-- Roles
----------------------------------------------------------------------

-- The extension's owner is no superuser, or everything would be permitted.
CREATE ROLE fuzz_owner SUPERUSER LOGIN;
-- may administer two organizations, owns the event tables
CREATE ROLE fuzz_admin LOGIN;
-- may execute everything, and has authority over nothing
CREATE ROLE fuzz_stranger LOGIN;
CREATE ROLE fuzz_super SUPERUSER LOGIN;
-- to be given authority
CREATE ROLE "fuzz ""Odd' role";
CREATE ROLE fuzz_member;
GRANT "fuzz ""Odd' role" TO fuzz_member;
GRANT pg_read_server_files TO fuzz_owner, fuzz_admin, fuzz_stranger;

SET SESSION AUTHORIZATION fuzz_owner;
CREATE EXTENSION optout;
RESET SESSION AUTHORIZATION;
ALTER ROLE fuzz_owner NOSUPERUSER;
SELECT optout.grant_authority('fuzz_stranger', 'acme', 'read');

CREATE SCHEMA fuzz;
GRANT ALL ON SCHEMA fuzz TO PUBLIC;
SET search_path = fuzz;

-- every routine of the extension, found where the server keeps them
CREATE VIEW fuzz.routine AS
SELECT p.*
  FROM pg_depend d
	   JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND e.extname = 'optout'
	   JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e';

----------------------------------------------------------------------
-- Relations
----------------------------------------------------------------------

SET ROLE fuzz_admin;
CREATE TABLE event (
	user_id text, organization text, occurred_at timestamptz, n integer DEFAULT 1,
	"User Id" varchar, "a""b'; --" text, code char(12), name name, uid uuid, big bigint, small smallint,
	place point, raw bytea, ids text[],
	lower_id text GENERATED ALWAYS AS (lower(user_id)) STORED,
	twice integer GENERATED ALWAYS AS (n * 2) STORED);
CREATE TABLE event_uuid (n integer DEFAULT 1, user_id uuid, at timestamptz);
CREATE TABLE event_bigint (user_id bigint PRIMARY KEY, n integer DEFAULT 1, organization varchar(20));
CREATE TABLE event_part (user_id text, organization text, at timestamptz, n integer DEFAULT 1) PARTITION BY LIST (n);
CREATE TABLE event_part_1 PARTITION OF event_part FOR VALUES IN (1);
CREATE TABLE event_part_2 (at timestamptz, gone text, n integer, organization text, user_id text) PARTITION BY RANGE (at);
ALTER TABLE event_part_2 DROP COLUMN gone;
ALTER TABLE event_part ATTACH PARTITION event_part_2 FOR VALUES IN (2);
CREATE TABLE event_part_2_new PARTITION OF event_part_2 FOR VALUES FROM ('2020-01-01') TO ('infinity');
CREATE TABLE event_part_2_old PARTITION OF event_part_2 DEFAULT;
CREATE TABLE event_part_3 PARTITION OF event_part DEFAULT;
CREATE TABLE event_plain (user_id text, organization text, at timestamptz, n integer DEFAULT 1);
CREATE TABLE "Odd ""table'; --" (LIKE event_plain);
CREATE TABLE event_parent (LIKE event_plain);
CREATE TABLE event_child () INHERITS (event_parent);
CREATE UNLOGGED TABLE event_unlogged (LIKE event_plain);
CREATE TABLE event_doc (user_id text, device varchar, organization text, at timestamp, doc json, docb jsonb, n serial);
CREATE TABLE sink (t text);
CREATE INDEX event_index ON event (md5(user_id));
CREATE INDEX event_part_index ON event_part (n);
CREATE VIEW event_view AS SELECT user_id, organization, occurred_at, n FROM event;
CREATE MATERIALIZED VIEW event_matview AS SELECT 'u1'::text AS user_id;
CREATE SEQUENCE event_sequence;
CREATE TYPE event_type AS (user_id text, organization text);
RESET ROLE;
-- where rules make guards
CREATE SCHEMA fuzz_rule;
GRANT ALL ON SCHEMA fuzz_rule TO PUBLIC;
CREATE TABLE fuzz_rule.event (LIKE event_doc);
GRANT ALL ON fuzz_rule.event TO PUBLIC;
CREATE FOREIGN DATA WRAPPER nothing;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
CREATE FOREIGN TABLE event_foreign (user_id text) SERVER nowhere;
GRANT USAGE ON SEQUENCE event_doc_n_seq TO PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON event, event_doc, event_uuid, event_bigint, event_part, event_plain, event_parent,
	event_unlogged, event_view, sink TO PUBLIC;

----------------------------------------------------------------------
-- Users
----------------------------------------------------------------------

-- Some have a past, some are out, and some of these are in no directory.
CREATE TABLE member (user_id text, organization text, PRIMARY KEY (user_id, organization));
INSERT INTO member
SELECT user_id, organization
  FROM unnest('{acme,default,globex," odd  organization*"}'::text[]) AS organization,
	   (SELECT 'u' || n FROM generate_series(1, 20) n
		UNION ALL SELECT n::text FROM generate_series(-2, 5) n
		UNION ALL SELECT format('00000000-0000-0000-0000-%s', lpad(n::text, 12, '0')) FROM generate_series(1, 4) n) AS u (user_id);
SELECT count(optout.enroll(ids, organization))
  FROM (SELECT array_agg(user_id), organization FROM member GROUP BY organization) AS m (ids, organization);
SELECT count(optout.opt_out(user_id, organization, 'before'))  FROM member WHERE hashtext(user_id || organization) % 3 = 0;
SELECT count(optout.opt_in(user_id, organization)) FROM member WHERE hashtext(user_id || organization) % 6 = 0;
SELECT count(optout.link(user_id, ARRAY['d' || user_id, 'e' || user_id], organization)) FROM member WHERE hashtext(user_id) % 2 = 0;
DELETE FROM optout.product_user WHERE user_id = 'u20';

----------------------------------------------------------------------
-- Values
----------------------------------------------------------------------

-- Expressions for arguments of a type; those with a name are for parameters of
-- that name, and chosen more often.
CREATE TABLE value (type regtype NOT NULL, name text, expression text NOT NULL);

INSERT INTO value
SELECT 'text', NULL, quote_nullable(v)
  FROM unnest(ARRAY[NULL, '', ' ', '   ', '*', '**', '* ', '%', '_', '%u1%', '\', '\\', '''', '"', '''''; DROP TABLE optout.product_user; --',
	'$1', '$$', '{u1,u2}', 'NULL', 'null', 'default', '0', '-1', '042', '1e3', 'u1 ', ' u1', 'U1', E'u1\n', E'u\t1', E'a\r\nb',
	E'\x01\x02\x1b[31m\x7f', U&'\00fc', U&'u\0308', U&'\05d0\05dc\05d9\05e1', U&'\202eu1', U&'u1\200b', U&'\feffu1',
	U&'\+01f600', U&'\+10ffff', U&'\0645\0633\062a', 'user_id', 'administer', 'READ']::text[]) AS v;
INSERT INTO value VALUES
	('text', NULL, 'repeat(''x'', 1023)'), ('text', NULL, 'repeat(''x'', 1024)'), ('text', NULL, 'repeat(''x'', 1025)'),
	('text', NULL, 'repeat(U&''\00fc'', 512)'), ('text', NULL, 'repeat(U&''\00fc'', 512) || ''x'''),
	('text', NULL, 'repeat(U&''\+01f600'', 256)'), ('text', NULL, 'repeat(''x'', 1000000)'),
	('text', NULL, 'repeat(U&''\20ac'', 333333)'), ('text', NULL, 'md5(random()::text)'),
	('text', NULL, '(SELECT string_agg(md5(i::text), '''') FROM generate_series(1, 32) i)'),
	('text', NULL, '(SELECT t FROM fuzz.large WHERE n = 1)'), ('text', NULL, '(SELECT t FROM fuzz.large WHERE n = 2)'),
	('text', NULL, '(SELECT t FROM fuzz.large WHERE n = 3)'),
	('text', NULL, 'current_setting(''optout.organization'')'), ('text', NULL, 'current_user'), ('text', NULL, 'chr(floor(random() * 1000)::int + 1)'),
	('text', NULL, '(1 / floor(random() * 5)::int)::text');
INSERT INTO value SELECT 'text', 'user_id', quote_literal(user_id) FROM member GROUP BY user_id;
INSERT INTO value SELECT 'text', 'organization', quote_literal(organization) FROM member GROUP BY organization;
INSERT INTO value VALUES ('text', 'organization', 'NULL'), ('text', 'organization', '''acme'''), ('text', 'user_id', '''prepared'''),
	('text', 'privilege', '''administer'''), ('text', 'privilege', '''read''');

INSERT INTO value
SELECT 'text[]', NULL, quote_nullable(v)
  FROM unnest(ARRAY[NULL, '{}', '{NULL}', '{u1}', '{u1,u1}', '{u1,NULL}', '{{u1,u2},{u3,u4}}', '{{u1}}', '{{{{{{u1}}}}}}', '[-5:-4]={u1,u2}',
	'[7:9]={u3,u2,u1}', '[2147483646:2147483646]={u1}', '[0:0][3:3]={{u1}}', '{""}', '{u1,""}', '{*}', '{u1,nobody}', '{nobody,NULL}']::text[]) AS v;
INSERT INTO value VALUES
	('text[]', NULL, 'array_fill(''u1''::text, ARRAY[100000])'), ('text[]', NULL, 'array_fill(NULL::text, ARRAY[1000])'),
	('text[]', NULL, 'array_fill(''u1''::text, ARRAY[0])'), ('text[]', NULL, 'array_fill(''u1''::text, ARRAY[10, 10], ARRAY[-3, 7])'),
	('text[]', NULL, 'ARRAY[repeat(''x'', 1000000), ''u1'']'), ('text[]', NULL, '(SELECT array_agg(i::text) FROM generate_series(-2, 3000) i)'),
	('text[]', NULL, 'string_to_array(repeat(''a,'', 2000), '','')'), ('text[]', NULL, '(SELECT a FROM fuzz.large WHERE n = 1)'),
	('text[]', NULL, '(SELECT a FROM fuzz.large WHERE n = 2)'), ('text[]', NULL, 'ARRAY[1 / floor(random() * 5)::int, 3]::text[]');
INSERT INTO value
SELECT 'text[]', 'user_ids', quote_literal(array_agg(user_id)) || '::text[]'
  FROM member WHERE organization = 'acme' AND user_id <> 'u20' GROUP BY hashtext(user_id) % 5;
INSERT INTO value VALUES
	('text[]', 'user_ids', '(SELECT array_agg(user_id) FROM fuzz.member WHERE random() < 0.1)'),
	('text[]', 'user_ids', '(SELECT array_agg(user_id) FROM optout.opt_out_list)'),
	('text[]', 'user_ids', '(SELECT array_agg(user_id) FROM optout.user_list WHERE organization = ''acme'' AND random() < 0.5)'),
	('text[]', 'user_ids', '(SELECT array_agg(user_id ORDER BY random()) || array_agg(user_id) FROM optout.user_list)');
-- for more than a thousand users there is another way
INSERT INTO value
SELECT 'text[]', 'user_ids', '(SELECT array_agg(''many'' || i) FROM generate_series(1, 1500) i)' FROM generate_series(1, 4);

-- where guards find several ids; and aliases
INSERT INTO value
SELECT 'text[]', 'sources', quote_literal(v)
  FROM unnest(ARRAY['{user_id}', '{user_id,device}', '{device,$.user.id}', '{$.user.id,$.anonymousId}', '{$.id}', '{"$.a.\"a b\".id",user_id}', '{user_id,user_id}',
	'{$.id,$.id}', '{$}', '{$.}', '{$.a[0]}', '{$.*}', '{$.a.b ? (@ > 1)}', '{strict $.a}', '{$.user.id.type()}', '{" $.id"}', '{"$.\"\""}', '{n}', '{nothing,user_id}', '{doc}',
	'{$.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a}']) AS v;
INSERT INTO value VALUES
	('text[]', 'sources', '(SELECT array_agg(''$.k'' || i) FROM generate_series(1, 100) i)'),
	('text[]', 'aliases', '(SELECT array_agg(alias ORDER BY random()) FROM (SELECT alias FROM optout.aliases WHERE organization = ''acme'' AND random() < 0.2) a)'),
	('text[]', 'aliases', '(SELECT array_agg(''d'' || i) FROM generate_series(1, 1500) i)'),
	('text[]', 'aliases', '(SELECT array_agg(DISTINCT user_id) FROM fuzz.member)');
INSERT INTO value
SELECT 'text[]', 'aliases', quote_literal(v) || '::text[]'
  FROM unnest('{du1,du2,du3,eu1,x1,x2,u1}'::text[]) AS a, LATERAL (VALUES (ARRAY[a]), (ARRAY[a, 'dnew']), (ARRAY[a, a])) AS w (v);
INSERT INTO value SELECT 'character varying', NULL, quote_nullable(v) FROM unnest(ARRAY[NULL, '', '$', '$.', '$.a[*]', 'nothing', repeat('x', 2000), 'user_id', '$.org.name']) AS v;
INSERT INTO value SELECT 'character varying', 'organization', quote_nullable(v) FROM unnest(ARRAY['organization', 'organization', NULL, NULL, '$.org']) AS v;
INSERT INTO value SELECT 'character varying', 'occurred_at', quote_nullable(v) FROM unnest(ARRAY['at', 'at', NULL, '$.at', 'occurred_at']) AS v;
INSERT INTO value SELECT 'text', 'time_zone', quote_nullable(v) FROM unnest(ARRAY['UTC', 'UTC', 'America/New_York', 'EST5EDT', 'nowhere', NULL, '+05:30', '<+05>-5', '']) AS v;
INSERT INTO value SELECT 'text', 'fixed_organization', quote_nullable(v) FROM unnest(ARRAY[NULL, NULL, 'acme', 'globex', '*', '']) AS v;
INSERT INTO value SELECT 'text', 'view', quote_nullable(v) FROM unnest(ARRAY['fuzz_view', 'fuzz.fuzz_view', 'fuzz.event', 'optout.aliases', 'pg_temp.fuzz_view', 'no.such', 'a.b.c.d', '"', NULL]) AS v;
INSERT INTO value VALUES ('oid', NULL, 'NULL'), ('oid', NULL, '0'), ('oid', NULL, '4294967295'),
	('oid', NULL, '(SELECT oid FROM pg_trigger ORDER BY random() LIMIT 1)'),
	('oid', 'guard', '(SELECT oid FROM pg_trigger WHERE tgfoid = ''optout.discard_opted_out''::regproc ORDER BY random() LIMIT 1)');

INSERT INTO value
SELECT 'timestamptz', NULL, quote_nullable(v)
  FROM unnest('{NULL,infinity,-infinity,4714-11-24 00:00:00+00 BC,0001-01-01 BC,1970-01-01,294276-12-31 23:59:59.999999+00,epoch,2000-01-01 00:00:00.000001}'::text[]) AS v;
INSERT INTO value VALUES
	('timestamptz', NULL, 'clock_timestamp()'), ('timestamptz', NULL, 'now() + random() * interval ''1 hour'''), ('timestamptz', NULL, 'now() - interval ''1 hour'''),
	('timestamptz', NULL, '(SELECT opted_out_at FROM optout.opt_out_history ORDER BY random() LIMIT 1)'),
	('timestamptz', NULL, '(SELECT opted_in_at FROM optout.opt_out_history ORDER BY random() LIMIT 1)'),
	('timestamptz', NULL, '(SELECT opted_in_at - interval ''1 microsecond'' FROM optout.opt_out_history ORDER BY random() LIMIT 1)');
INSERT INTO value
SELECT 'interval', NULL, quote_nullable(v)
  FROM unnest('{NULL,0,-1 s,1 microsecond,178000000 years,-178000000 years,1 month -31 days}'::text[]) AS v;
INSERT INTO value VALUES
	('boolean', NULL, 'NULL'), ('boolean', NULL, 'true'), ('boolean', NULL, 'false'), ('boolean', NULL, 'random() < 0.5'),
	('internal', NULL, 'NULL'), ('internal', NULL, '0'), ('internal', NULL, '''\x00''');

INSERT INTO value SELECT 'bigint', NULL, quote_nullable(v) FROM unnest('{NULL,0,-1,9223372036854775807,-9223372036854775808,1,2,3,4,5}'::text[]) AS v;
INSERT INTO value SELECT 'bigint', 'user_id', n::text FROM generate_series(-2, 5) n;
INSERT INTO value
SELECT 'uuid', NULL, quote_nullable(v) FROM unnest(ARRAY[NULL, '00000000-0000-0000-0000-000000000000', 'FFFFFFFF-ffff-FFFF-ffff-FFFFFFFFFFFF',
	'{00000000-0000-0000-0000-000000000001}', '00000000000000000000000000000002', '00000000-0000-0000-0000-000000000003']) AS v;
INSERT INTO value VALUES ('uuid', NULL, 'gen_random_uuid()');

-- relations by number too, for a name has to exist
SET search_path = '';
INSERT INTO fuzz.value SELECT 'regclass', NULL, v FROM unnest(ARRAY['NULL', '0', '1', '4294967295', '99999999', '''nothing''']) AS v;
INSERT INTO fuzz.value
SELECT 'regclass', NULL, quote_literal(oid::regclass) FROM pg_class
 WHERE relnamespace = 'fuzz'::regnamespace AND relkind <> 't' OR oid IN (
	'pg_class'::regclass, 'pg_database'::regclass, 'pg_class_oid_index'::regclass, 'pg_stat_activity'::regclass, 'information_schema.tables'::regclass,
	'pg_largeobject'::regclass, (SELECT reltoastrelid FROM pg_class WHERE oid = 'pg_proc'::regclass))
	OR relnamespace = 'optout'::regnamespace;
INSERT INTO fuzz.value VALUES
	('regclass', NULL, '''pg_temp.event_temporary'''), ('regclass', NULL, '(SELECT max(oid) FROM pg_class WHERE relname = ''event_elsewhere'')'),
	('regclass', NULL, '(SELECT reltoastrelid FROM pg_class WHERE oid = ''fuzz.event''::regclass)');
INSERT INTO fuzz.value SELECT 'regclass', 'relation', quote_literal(oid::regclass) FROM pg_class
 WHERE relnamespace = 'fuzz'::regnamespace AND relkind IN ('r', 'p') AND relname ~* 'event|odd';
INSERT INTO fuzz.value SELECT 'regclass', 'relation', quote_literal('fuzz.' || relation)
  FROM unnest('{event,event_uuid,event_bigint,event_part,event_plain,event_unlogged,event_doc,event_doc,event_doc}'::text[]) AS relation, generate_series(1, 3);
INSERT INTO fuzz.value
SELECT 'name', NULL, quote_nullable(v) FROM unnest(ARRAY[NULL, '', ' ', '*', 'ctid', 'tableoid', 'nothing', 'USER_ID', 'user_id; --', 'lower_id', 'twice',
	'place', 'raw', 'ids', 'gone', '........pg.dropped.2........', repeat('x', 200), U&'\00fc', 'relname', 'oid']) AS v;
INSERT INTO fuzz.value SELECT 'name', 'user_id', quote_literal(v) FROM unnest(ARRAY['user_id', 'user_id', 'user_id', 'User Id', 'a"b''; --', 'code', 'name', 'uid', 'big', 'small', 'n']) AS v;
INSERT INTO fuzz.value SELECT 'name', 'organization', quote_nullable(v) FROM unnest(ARRAY['organization', 'organization', NULL, NULL, 'user_id', 'code', 'n']) AS v;
INSERT INTO fuzz.value SELECT 'name', 'payload', quote_nullable(v) FROM unnest(ARRAY['doc', 'doc', 'docb', 'docb', NULL, 'n']) AS v;
INSERT INTO fuzz.value SELECT 'name', 'occurred_at', quote_nullable(v) FROM unnest(ARRAY['at', 'at', 'occurred_at', NULL, NULL, 'user_id']) AS v;
INSERT INTO fuzz.value SELECT 'regnamespace', NULL, v
  FROM unnest(ARRAY['NULL', '0', '1', '4294967295', '99999999', '''nothing''', '''optout''', '''pg_catalog''', '''information_schema''', '''pg_toast''']) AS v;
INSERT INTO fuzz.value SELECT type, 'schema', quote_literal('fuzz_rule') FROM unnest('{regnamespace,name}'::regtype[]) AS type, generate_series(1, 5);
INSERT INTO fuzz.value SELECT 'json', NULL, quote_nullable(v)
  FROM unnest(ARRAY[NULL, '', '{', '{}', '[]', 'null', '"u1"', '1', '{"id": "u1"}', '{"id": 1e400, "id": "u1"}', '{"user": {"id": "u1"}}',
	'{"user": {"id": "\u0000"}}', '{"user": {"id": "\ud800"}}', repeat('[', 100000), '[{"user": {"id": ' || repeat('9', 2000) || '}}]']) AS v;
SET search_path = fuzz;
INSERT INTO value SELECT 'regrole', NULL, v FROM unnest(ARRAY['NULL', '0', '1', '4294967295', '99999999', '''nobody''', '''pg_monitor''', '''public''', '''-''']) AS v;
INSERT INTO value SELECT 'regrole', 'role', quote_literal(oid::regrole) FROM pg_roles WHERE rolname ~ 'fuzz';

-- values out of line, compressed, and both
CREATE TABLE large (n integer, t text, a text[]);
ALTER TABLE large ALTER t SET STORAGE EXTERNAL, ALTER a SET STORAGE EXTERNAL;
INSERT INTO large SELECT 1, string_agg(md5(i::text), ''), array_agg('many' || i) FROM generate_series(1, 3000) i;
ALTER TABLE large ALTER t SET STORAGE EXTENDED, ALTER a SET STORAGE MAIN;
INSERT INTO large VALUES (2, repeat('x', 100000), array_fill('u1'::text, ARRAY[5000]));
INSERT INTO large SELECT 3, string_agg(md5((i % 100)::text), ''), NULL FROM generate_series(1, 30000) i;

-- documents, of the program of that name
CREATE TABLE document (n integer, p integer, doc text, in_json text, in_jsonb text, special text);

-- the same by column, for calls that depend on the row, many in a row
CREATE TABLE row (
	n serial, user_id text, organization text, user_ids text[], at timestamptz, uid uuid, big bigint,
	relation regclass, name name, role regrole, privilege text, force boolean);
INSERT INTO row (user_id, organization, user_ids, at, uid, big, relation, name, role, privilege, force)
SELECT CASE WHEN n % 4 = 0 THEN repeat(md5(n::text), n % 35) ELSE 'u' || n % 24 END,
	   (ARRAY['acme', 'default', NULL, 'globex', 'acme', 'default', CASE WHEN n % 5 = 0 THEN '*' END])[n % 7 + 1],
	   CASE WHEN n % 9 > 0 THEN ARRAY['u' || n % 5, 'u' || n % 11] END,
	   CASE WHEN n % 6 > 0 THEN now() - (n % 50) * interval '1 second' END,
	   CASE WHEN n % 5 > 0 THEN format('00000000-0000-0000-0000-%s', lpad((n % 8)::text, 12, '0'))::uuid END,
	   CASE WHEN n % 5 > 0 THEN n % 9 - 3 END,
	   CASE WHEN n % 5 > 0 THEN 'event'::regclass ELSE n END,
	   CASE WHEN n % 8 > 0 THEN 'user_id' ELSE 'n' END,
	   CASE WHEN n % 7 > 0 THEN 'fuzz_member'::regrole ELSE n END,
	   (ARRAY['administer', 'read', 'x', NULL])[n % 4 + 1],
	   (ARRAY[true, false, NULL])[n % 3 + 1]
  FROM generate_series(1, 400) n;
ANALYZE row;

----------------------------------------------------------------------
-- Afresh
----------------------------------------------------------------------

-- What statements take away from one another, so that the next ones find
-- something: events, guards, authority, users and who is opted out.  What grows
-- is cut.
CREATE FUNCTION fuzz.restore() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET client_min_messages = error AS $$
DECLARE
	event regclass;
BEGIN
	-- this locks, for two GRANTs at a time fail
	PERFORM optout.grant_authority('fuzz_admin', organization, 'administer') FROM unnest('{acme,default}'::text[]) AS organization;
	GRANT EXECUTE ON ALL ROUTINES IN SCHEMA optout TO fuzz_admin, fuzz_stranger;
	PERFORM optout.forget(array_agg(user_id), organization, true)
	   FROM (SELECT user_id, organization FROM optout.opt_out_history GROUP BY user_id, organization
			 HAVING count(*) > 20 OR user_id LIKE 'many%'
			 UNION
			 SELECT user_id, organization FROM (SELECT user_id, organization FROM optout.product_user UNION SELECT user_id, organization FROM optout.opt_out_history) AS u
			  WHERE user_id NOT IN (SELECT user_id FROM fuzz.member) AND user_id NOT LIKE 'many%') AS h
	  GROUP BY organization;
	PERFORM optout.enroll(array_agg(user_id), organization) FROM fuzz.member GROUP BY organization;
	PERFORM optout.enroll(array_agg('many' || i), 'acme') FROM generate_series(1, 1500) i;
	PERFORM optout.opt_out(user_id, organization, 'restored') FROM fuzz.member WHERE random() < 0.2;
	PERFORM optout.opt_in(user_id, organization) FROM fuzz.member WHERE random() < 0.2;

	-- aliases come back, too
	PERFORM optout.unlink(array_agg(alias), organization, true) FROM optout.aliases WHERE alias !~ '^[de]' OR length(alias) > 40 OR random() < 0.1 GROUP BY organization;
	PERFORM optout.link(user_id, ARRAY['d' || user_id, 'e' || user_id], organization)
	   FROM fuzz.member
	  WHERE hashtext(user_id) % 2 = 0 AND organization IN ('acme', 'default')
		AND NOT EXISTS (SELECT FROM optout.aliases a WHERE a.organization = member.organization AND a.alias IN ('d' || member.user_id, 'e' || member.user_id));

	PERFORM optout.guard('fuzz.event_doc', ARRAY['device', '$.user.id', '$.id'], '$.org', '$.at', 'doc', 'UTC');
	PERFORM optout.guard('fuzz.event', 'user_id', 'organization', 'occurred_at'), optout.guard('fuzz.event_uuid', occurred_at => 'at'),
			optout.guard('fuzz.event_bigint', organization => 'organization'), optout.guard('fuzz.event_unlogged');
	-- not while a partition has one of its own
	PERFORM optout.unguard(relation) FROM optout.guarded WHERE relation::text LIKE '%event_part_%';
	PERFORM optout.guard('fuzz.event_part', organization => 'organization');
	FOREACH event IN ARRAY '{fuzz.event,fuzz.event_doc,fuzz.event_uuid,fuzz.event_bigint,fuzz.event_part,fuzz.event_plain,fuzz.event_unlogged,fuzz.sink}'::regclass[] LOOP
		EXECUTE format('DELETE FROM %1$s WHERE random() < (SELECT (count(*) - 300.0) / (count(*) + 1) FROM %1$s)', event);
	END LOOP;
	INSERT INTO fuzz.event (user_id, organization, occurred_at) SELECT user_id, organization, at FROM fuzz.row WHERE organization <> '*' AND random() < 0.2;
	INSERT INTO fuzz.event_part (user_id, organization, at, n) SELECT user_id, organization, at, n % 4 FROM fuzz.row WHERE organization <> '*' AND random() < 0.2;
	INSERT INTO fuzz.event_uuid (user_id, at) SELECT uid, at FROM fuzz.row WHERE random() < 0.2;
	INSERT INTO fuzz.event_plain (user_id, organization, at) SELECT user_id, organization, at FROM fuzz.row WHERE organization <> '*' AND random() < 0.2;
EXCEPTION WHEN lock_not_available OR deadlock_detected OR query_canceled OR serialization_failure OR unique_violation
	OR undefined_object OR object_not_in_prerequisite_state THEN
	-- other sessions do the same
	RAISE LOG 'not restored: % %', SQLSTATE, SQLERRM;
END $$;
