-- Guards that look into json and jsonb documents.
CREATE EXTENSION optout;
SELECT optout.enroll(ARRAY['alice', 'bob', 'device1', '1', '1.0', '9007199254740993', '0', '-5', '1500', '0.001', E'tab\there', 'é', '😀']);
SELECT optout.opt_out(ARRAY['alice', 'device1', '1', '9007199254740993', '0', '-5', '1500', '0.001', E'tab\there', 'é', '😀']);

-- Both types alike: what a path leads to is what #>> gives, as far as it is a string or a number.
CREATE TABLE as_json (n int, doc json);
CREATE TABLE as_jsonb (n int, doc jsonb);
SELECT optout.guard('as_json', ARRAY['$.user.id', '$.anonymousId'], payload => 'doc');
SELECT optout.guard('as_jsonb', ARRAY['$.user.id', '$.anonymousId'], payload => 'doc');
SELECT relation, user_id, user_ids, payload FROM optout.guarded ORDER BY 1;
CREATE TABLE document (n int, keeps boolean, doc text);
INSERT INTO document VALUES
	(1, false, '{"user": {"id": "alice"}}'),
	(2, true, '{"user": {"id": "bob"}}'),
	(3, false, '{"anonymousId": "device1", "user": {"id": "bob"}}'),
	(4, false, '{"user":{"id":"bob"},"anonymousId":"device1"}'),
	(5, true, '{"id": "alice", "users": {"id": "alice"}, "user": {"ids": "alice", "name": {"id": "alice"}}}'),
	(6, true, '{"user": "alice"}'), (7, true, '"alice"'), (8, true, '["alice"]'), (9, true, 'null'), (10, true, '{}'), (11, true, '[]'),
	(12, true, '{"user": {"id": null}}'), (13, true, '{"user": {"id": true}}'), (14, true, '{"user": {"id": ["alice"]}}'),
	(15, true, '{"user": {"id": {"id": "alice"}}}'), (16, true, '{"user": [{"id": "alice"}]}'), (17, true, '[{"user": {"id": "alice"}}]'),
	-- escapes, in keys too
	(20, false, '{"user": {"id": "\u0061lice"}}'), (21, false, '{"us\u0065r": {"\u0069d": "alice"}}'),
	(22, false, '{"user": {"id": "tab\there"}}'), (23, false, '{"user": {"id": "\u00e9"}}'), (24, false, '{"user": {"id": "\ud83d\ude00"}}'),
	(25, true, '{"user": {"id": "\"alice\""}}'), (26, true, '{"\"user": {"id": "alice"}}'), (27, false, '{"x": "}]\"{[,:\\", "user": {"id": "alice"}}'),
	(28, true, '{"user": {"id": "alice\\"}}'), (29, false, '{"\\": 1, "user" : {"id" :  "alice" } }'), (30, true, '{"user": {"id": "\b\f\n\r\/"}}'),
	-- numbers as jsonb shows them
	(40, false, '{"user": {"id": 1}}'), (41, true, '{"user": {"id": 1.0}}'), (42, false, '{"user": {"id": 1e0}}'), (43, false, '{"user": {"id": 1E+0}}'),
	(44, false, '{"user": {"id": 9007199254740993}}'), (45, true, '{"user": {"id": 9007199254740992}}'), (46, false, '{"user": {"id": 0}}'),
	(47, false, '{"user": {"id": -0}}'), (48, false, '{"user": {"id": -5}}'), (49, false, '{"user": {"id": 1.5e3}}'), (50, false, '{"user": {"id": 1e-3}}'),
	(51, false, '{"user": {"id": "1"}}'), (52, true, '{"user": {"id": "01"}}'), (53, true, '{"user": {"id": 10e-1}}'),
	-- the last of duplicates
	(60, true, '{"user": {"id": "alice", "id": "bob"}}'), (61, false, '{"user": {"id": "bob", "id": "alice"}}'),
	(62, true, '{"user": {"id": "alice", "id": null}}'), (63, true, '{"user": {"id": "alice", "id": {}}}'),
	(64, false, '{"user": {"id": "bob"}, "user": {"id": "alice"}}'), (65, true, '{"user": {"id": "alice"}, "user": {"id": "bob"}}'),
	-- deep ones
	(70, false, '{"deep": ' || repeat('[', 3000) || repeat(']', 3000) || ', "user": {"id": "alice"}}'),
	(71, true, repeat('{"user":', 2000) || '"alice"' || repeat('}', 2000)),
	(72, false, '{"user": {"deep": ' || repeat('{"id":', 1000) || '1' || repeat('}', 1000) || ', "id": "alice"}}');
INSERT INTO as_json SELECT n, doc::json FROM document;
INSERT INTO as_jsonb SELECT n, doc::jsonb FROM document;
SELECT n, left(d.doc, 60) AS doc, keeps, j.n IS NOT NULL AS json, b.n IS NOT NULL AS jsonb
  FROM document d LEFT JOIN as_json j USING (n) LEFT JOIN as_jsonb b USING (n)
 WHERE keeps <> (j.n IS NOT NULL) OR keeps <> (b.n IS NOT NULL) ORDER BY n;
SELECT (SELECT count(*) FROM document WHERE NOT keeps) * 2 AS to_discard, sum(discarded) AS discarded FROM optout.discards;
-- and the operator agrees
SELECT n FROM document, LATERAL (SELECT doc::json #>> '{user,id}' AS u, doc::json #>> '{anonymousId}' AS a) i
 WHERE n NOT IN (42, 43, 47, 49, 50) AND keeps = (optout.is_opted_out(u) OR optout.is_opted_out(a));
TRUNCATE as_json, as_jsonb;

-- Not in jsonb, or not in the same way: json keeps the text, and nothing in it is an error.
INSERT INTO as_json SELECT n, doc::json FROM (VALUES
	(1, '{"x": "\u0000", "user": {"id": "alice"}}'), (2, '{"\u0000": 1, "user": {"id": "alice"}}'),
	(3, '{"user": {"id": "\u0000"}}'), (4, '{"user": {"id": "alice\u0000"}}'), (5, '{"x": "\ud800", "user": {"id": "alice"}}'),
	(6, '{"user": {"id": "\ud800"}}'), (7, '{"user": {"id": "\udc00"}}'), (8, '{"user": {"id": "\ud800\ud800"}}'), (9, '{"user": {"id": "\ud800x"}}'),
	(10, '{"user": {"id": "\ud800\n"}}'), (11, '{"user": {"id": "\u0000", "id": "alice"}}'), (12, '{"user": {"id": "alice", "id": "\u0000"}}'),
	(13, '{"user": {"id": 1e999999}}'), (14, '{"user": {"id": 1e-999999}}'), (15, '{"user": {"id": 1e99999999999999999999}}'),
	(16, '{"user": {"id": ' || repeat('9', 200000) || '}}'), (17, '{"user": {"id": 0.' || repeat('0', 20000) || '1}}'),
	(18, '{"x": 1e999999, "user": {"id": "alice"}}'), (19, '{"user": {"id": "' || repeat('a', 100000) || '"}}'),
	(20, '{"\ud800": {"id": "bob"}, "user": {"id": "alice"}}'), (21, '{"user": {"id": "alice"}, "user": {"name": "bob"}}')) AS v (n, doc);
SELECT array_agg(n ORDER BY n) AS stored FROM as_json;
TRUNCATE as_json;

-- A key that is a number is an element of an array, as for the operator.
CREATE TABLE element (n int, doc json, docb jsonb);
CREATE FUNCTION elements(payload name) RETURNS TABLE (path text, stored int[]) LANGUAGE plpgsql AS $$
DECLARE
	docs constant text[] := '{"[\"alice\"]","[\"bob\",\"alice\"]","[[\"alice\",1,2],\"bob\"]","{\"0\":\"alice\"}","[[1,[\"alice\"]],\"alice\"]",[],"[\"bob\",{\"0\":\"]\"},\"alice\"]"}';
	wrong int;
BEGIN
	FOREACH path IN ARRAY ARRAY['$."0"', '$."1"', '$."-1"', '$."0"."0"', '$."0"."-3"', '$."-9"', '$."x"'] LOOP
		PERFORM optout.guard('element', ARRAY[path], payload => payload);
		INSERT INTO element SELECT i, d::json, d::jsonb FROM unnest(docs) WITH ORDINALITY AS u (d, i);
		SELECT array_agg(n ORDER BY n) INTO stored FROM element;
		SELECT count(*) INTO wrong FROM unnest(docs) WITH ORDINALITY AS u (d, i)
		 WHERE (d::json #>> string_to_array(replace(replace(path, '$.', ''), '"', ''), '.') IN ('alice', '1')) IS TRUE <> (NOT i = ANY (stored));
		IF wrong > 0 THEN RAISE '% wrong', path; END IF;
		RETURN NEXT;
		TRUNCATE element;
	END LOOP;
END $$;
SELECT * FROM elements('doc');
SELECT * FROM elements('docb') EXCEPT SELECT * FROM elements('doc');
DROP TABLE element;
DROP FUNCTION elements;

-- No payload; columns beside paths; UPDATE
CREATE DOMAIN payload AS jsonb CHECK (VALUE IS NOT NULL OR true);
CREATE TABLE event (id int, user_id text, record payload, tag text);
SELECT optout.guard('event', ARRAY['user_id', '$.id'], '$.org', payload => 'record');
SELECT user_id, organization, user_ids FROM optout.guarded WHERE relation = 'event'::regclass;
INSERT INTO event VALUES (1, 'alice', NULL), (2, 'bob', NULL), (3, NULL, NULL), (4, 'bob', '{"id": "alice"}'), (5, 'bob', '{"id": "bob"}'),
	(6, 'alice', '{"id": "bob"}') RETURNING id;
UPDATE event SET record = '{"id": "bob", "more": "things"}' WHERE id = 5 RETURNING id;
UPDATE event SET record = '{"id": "alice"}' WHERE id = 5 RETURNING id;
UPDATE event SET user_id = 'alice' WHERE id = 5 RETURNING id;
SELECT optout.opt_out('bob');
UPDATE event SET record = '{"id": "bob", "other": "things"}', user_id = 'bob' WHERE id = 5 RETURNING id;
UPDATE event SET record = record || '{"id": "carol"}' WHERE id = 5 RETURNING id;
UPDATE event SET record = record || '{"org": "acme"}' WHERE id = 5 RETURNING id, record;
SELECT optout.opt_in('bob');
UPDATE event SET record = NULL WHERE id = 5 RETURNING id;
UPDATE event SET record = '{"id": "alice"}' WHERE id = 5 RETURNING id;
-- an organization in the document; what can be none says nothing there
SELECT optout.enroll('zoe', 'acme'), optout.opt_out('zoe', 'acme');
INSERT INTO event VALUES (10, NULL, '{"id": "zoe", "org": "acme"}'), (11, NULL, '{"id": "zoe"}'), (12, NULL, '{"id": "alice", "org": "acme"}'),
	(13, 'zoe', '{"org": "acme"}'), (14, NULL, '{"id": "alice", "org": "*"}'), (15, NULL, '{"id": "alice", "org": ""}'), (16, NULL, '{"id": "alice", "org": []}'),
	(17, NULL, jsonb_build_object('id', 'alice', 'org', repeat('o', 2000))), (18, NULL, '{"id": "zoe", "org": "*"}') RETURNING id;
-- toasted: as large as it gets, from another table, not rewritten
TRUNCATE event;
CREATE TABLE large AS SELECT jsonb_build_object('id', who, 'fill', (SELECT jsonb_agg(md5(i::text)) FROM generate_series(1, 300000) i)) AS record
  FROM unnest('{alice,bob}'::text[]) AS who;
SELECT pg_column_size(record) > 8000000 AS toasted FROM large;
INSERT INTO event SELECT 1, NULL, record FROM large;
SELECT id, record ->> 'id' AS who FROM event;
UPDATE event SET tag = 'x', record = record RETURNING id;
UPDATE event SET record = record - 'fill' RETURNING id;
UPDATE event SET record = (SELECT record FROM large WHERE record ->> 'id' = 'alice') RETURNING id;
INSERT INTO as_json SELECT 1, jsonb_build_object('fill', record, 'user', jsonb_build_object('id', record -> 'id'))::json FROM large;
SELECT count(*), min(doc -> 'user' ->> 'id') FROM as_json;
INSERT INTO as_json SELECT 2, doc FROM as_json;
TRUNCATE as_json;
DROP TABLE event, large;
DROP DOMAIN payload;

-- Times: a column, or ISO 8601 in the document
INSERT INTO optout.opt_out_period VALUES ('default', 'past', '2026-07-01 10:00:00.5+00', '2026-07-01 11:00+00', 'regress', 'regress');
CREATE TABLE fluentbit (tag varchar, time timestamp, data jsonb);
SELECT optout.guard('fluentbit', user_ids => ARRAY['$.user.id', '$.anonymousId'], occurred_at => 'time', payload => 'data', time_zone => 'UTC');
SELECT relation, occurred_at, time_zone FROM optout.guarded WHERE relation = 'fluentbit'::regclass;
INSERT INTO fluentbit SELECT 'app', timestamp '2026-07-01 09:30' + i * interval '1 hour', '{"user": {"id": "past"}}' FROM generate_series(0, 2) i RETURNING time;
SELECT optout.guard('fluentbit', ARRAY['$.user.id'], occurred_at => '$.at', payload => 'data', time_zone => 'Europe/Berlin');
CREATE TABLE moment (string text, at timestamptz);
SET timezone = 'Asia/Tokyo';
SET datestyle = 'SQL, DMY';
INSERT INTO moment VALUES
	('2026-07-01T12:30', '2026-07-01 12:30+02'), ('2026-07-01T12:30:00', '2026-07-01 12:30+02'), ('2026-07-01 12:30:00', '2026-07-01 12:30+02'),
	('2026-07-01T10:30Z', '2026-07-01 10:30+00'), ('2026-07-01t10:30:00z', '2026-07-01 10:30+00'), ('20260701T103000Z', '2026-07-01 10:30+00'),
	('2026-07-01T12:30+02', '2026-07-01 10:30+00'), ('2026-07-01T12:30+0200', '2026-07-01 10:30+00'), ('2026-07-01T16:00+05:30', '2026-07-01 10:30+00'),
	('2026-07-01T06:30-04:00', '2026-07-01 10:30+00'), ('2026-07-01T10:00:00.499999Z', NULL), ('2026-07-01T10:00:00.5Z', '2026-07-01 10:00:00.5+00'),
	('2026-07-01T10:00:00,5Z', '2026-07-01 10:00:00.5+00'), ('2026-07-01T10:00:00.4999996Z', '2026-07-01 10:00:00.5+00'), ('2026-07-01T10:00:00.4999994Z', NULL),
	('2026-07-01T10:59:60Z', NULL), ('2026-07-01T10:58:60Z', '2026-07-01 10:59+00'), ('2026-06-30T24:00', NULL), ('2026-07-01', NULL), ('2026-07-01T13:00', NULL),
	('2026-07-01T12', NULL), ('2026-07-01T12:30:', NULL), ('2026-07-01T12:30 ', NULL), (' 2026-07-01T12:30', NULL), ('01.07.2026 12:30', NULL), ('2026-7-1T12:30', NULL),
	('2026-13-01T12:30', NULL), ('2026-02-29T12:30', NULL), ('2026-07-01T25:00', NULL), ('2026-07-01T10:30+99', NULL), ('2026-07-01T12:30 CEST', NULL),
	('now', NULL), ('today', NULL), ('infinity', NULL), ('epoch', NULL), ('', NULL), ('July 1, 2026 12:30', NULL), (repeat('2026-07-01', 100), NULL), ('0000-01-01', NULL);
INSERT INTO fluentbit SELECT string, NULL, jsonb_build_object('at', string, 'user', jsonb_build_object('id', 'past')) FROM moment;
SELECT left(string, 30) AS string, at, tag IS NOT NULL AS stored FROM moment LEFT JOIN fluentbit ON tag = string WHERE (at IS NULL) <> (tag IS NOT NULL);
SELECT count(*) AS discarded FROM moment WHERE at IS NOT NULL;
-- 2026-07-01T12 is 10 o'clock UTC, half a second too early, and a number is no time
INSERT INTO fluentbit VALUES ('number', NULL, '{"at": 1782901800, "user": {"id": "past"}}'), ('array', NULL, '{"at": ["2026-07-01T12:30"], "user": {"id": "past"}}'),
	('none', NULL, '{"user": {"id": "past"}}'), ('out', NULL, '{"at": "2020-01-01", "user": {"id": "alice"}}') RETURNING tag;
UPDATE fluentbit SET data = data || '{"at": "2026-07-01T12:30Z"}' WHERE tag = 'number' RETURNING tag;
UPDATE fluentbit SET data = data || '{"at": "2026-07-01T12:30+02"}' WHERE tag = 'number' RETURNING tag;
UPDATE fluentbit SET data = data || '{"at": "2026-07-01T14:30+02", "x": 1}' WHERE tag = 'number' RETURNING tag;
RESET timezone;
RESET datestyle;
DROP TABLE fluentbit, moment;

DROP TABLE as_json, as_jsonb, document;
DROP EXTENSION optout;
