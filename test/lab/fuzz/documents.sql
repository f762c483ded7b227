-- Whether guards find in documents what the program "documents" says: one row for
-- each check, whether it holds and what it is.  In a database of its own; the
-- variable "directory" is where that program has written.

SET client_min_messages = error;
CREATE EXTENSION optout;
CREATE SCHEMA fuzz;
SET search_path = fuzz;

CREATE TABLE path (p int PRIMARY KEY, path text, keys text[]);
CREATE TABLE document (n int PRIMARY KEY, p int, doc text, in_json text, in_jsonb text, special text);
CREATE TABLE moment (n int PRIMARY KEY, doc text, at timestamptz, local timestamp);
\set file :directory /paths
COPY path FROM :'file';
\set file :directory /documents
COPY document FROM :'file';
\set file :directory /times
COPY moment FROM :'file';
ANALYZE path, document, moment;

CREATE FUNCTION as_jsonb(doc text) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	RETURN doc::jsonb;
EXCEPTION WHEN OTHERS THEN
	RETURN NULL;
END $$;
-- The server's own word, where it has any: the string or number that a path leads to.
CREATE FUNCTION lead(doc json, keys text[], OUT known boolean, OUT id text) LANGUAGE plpgsql AS $$
BEGIN
	id := CASE json_typeof(doc #> keys) WHEN 'string' THEN doc #>> keys WHEN 'number' THEN (doc #>> keys)::numeric::text END;
	known := true;
EXCEPTION WHEN OTHERS THEN
	known := false;
END $$;
CREATE FUNCTION possible(id text) RETURNS text LANGUAGE sql AS $$
	SELECT CASE WHEN octet_length(id) <= 1024 THEN id END
$$;
CREATE TABLE twin AS
SELECT n, p, doc::json AS doc, as_jsonb(doc) AS docb, in_json, in_jsonb, special FROM document;
CREATE UNIQUE INDEX ON twin (n);
ANALYZE twin;

----------------------------------------------------------------------
-- Is the program right?
----------------------------------------------------------------------

SELECT count(*) > 0 AND bool_and(possible(id) IS NOT DISTINCT FROM possible(in_jsonb)),
	   'what is to be found in jsonb is what #>> finds'
  FROM twin JOIN path USING (p)
	   CROSS JOIN LATERAL (SELECT CASE WHEN jsonb_typeof(docb #> keys) IN ('string', 'number') THEN docb #>> keys END) AS i (id)
 WHERE docb IS NOT NULL;
-- The guard takes no number from json that is written with more than 8000 digits, or
-- with such an exponent.
SELECT count(*) > 0 AND bool_and(possible(id) IS NOT DISTINCT FROM possible(in_json)),
	   'so it is in json, where #>> does not fail'
  FROM twin JOIN path USING (p)
	   CROSS JOIN LATERAL lead(doc, keys)
 WHERE known AND doc::text !~ '[eE][-+]?[0-9]{5}';
SELECT bool_and(found > 10), 'there is something to find'
  FROM (VALUES ((SELECT count(*) FROM twin WHERE in_json IS NOT NULL)), ((SELECT count(*) FROM twin WHERE in_json IS NULL)),
			   ((SELECT count(*) FROM twin WHERE in_jsonb IS DISTINCT FROM in_json)), ((SELECT count(*) FROM twin WHERE docb IS NULL)),
			   ((SELECT count(*) FROM twin WHERE docb IS NULL AND in_json IS NOT NULL)), ((SELECT count(*) FROM twin WHERE special = 'deep')),
			   ((SELECT count(*) FROM moment WHERE at IS NOT NULL)), ((SELECT count(*) FROM moment WHERE local IS NOT NULL)),
			   ((SELECT count(*) FROM moment WHERE at IS NULL AND local IS NULL))) AS v (found);

----------------------------------------------------------------------
-- Is the guard?
----------------------------------------------------------------------

-- Each document is offered twice: once while half of the users are opted out, and
-- once while the others are.  Who names somebody is discarded exactly once.
CREATE TABLE member AS
SELECT id AS user_id, row_number() OVER (ORDER BY id) % 2 = 0 AS first
  FROM (SELECT in_json FROM twin UNION SELECT in_jsonb FROM twin) AS i (id)
 WHERE octet_length(id) BETWEEN 1 AND 1024;
SELECT optout.enroll(array_agg(user_id)) FROM member \g /dev/null

CREATE TABLE stored (n int, type text, first boolean);
CREATE FUNCTION offer(first boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	way record;
BEGIN
	FOR way IN SELECT p, path, type FROM path, unnest('{json,jsonb}'::text[]) AS type LOOP
		EXECUTE format('CREATE TABLE event (n int, doc %s)', way.type);
		PERFORM optout.guard('event', ARRAY[way.path], payload => 'doc');
		EXECUTE format('INSERT INTO event SELECT n, %1$I FROM twin WHERE p = %2$s AND %1$I IS NOT NULL',
					   CASE way.type WHEN 'json' THEN 'doc' ELSE 'docb' END, way.p);
		INSERT INTO stored SELECT n, way.type, offer.first FROM event;
		DROP TABLE event;
	END LOOP;
END $$;

SELECT optout.opt_out(array_agg(user_id)) FROM member WHERE first \g /dev/null
SELECT offer(true) \g /dev/null
SELECT optout.opt_in(array_agg(user_id)) FROM member WHERE first \g /dev/null
SELECT optout.opt_out(array_agg(user_id)) FROM member WHERE NOT first \g /dev/null
SELECT offer(false) \g /dev/null
ANALYZE stored, member;

CREATE FUNCTION report_wrong(type text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	wrong record;
	is_right boolean := true;
BEGIN
	FOR wrong IN
		SELECT t.n, f.first, s.n IS NOT NULL AS is_stored, t.id
		  FROM (SELECT n, CASE report_wrong.type WHEN 'json' THEN in_json ELSE in_jsonb END AS id
				  FROM twin WHERE report_wrong.type = 'json' OR docb IS NOT NULL) AS t
			   CROSS JOIN (VALUES (true), (false)) AS f (first)
			   LEFT JOIN stored s ON s.n = t.n AND s.type = report_wrong.type AND s.first = f.first
			   LEFT JOIN member m ON m.user_id = t.id
		 WHERE (s.n IS NOT NULL) <> (m.first IS DISTINCT FROM f.first)
		 ORDER BY 1, 2 LIMIT 10
	LOOP
		RAISE LOG 'fuzz: document % was % although % was to be found', wrong.n, CASE WHEN wrong.is_stored THEN 'stored' ELSE 'discarded' END, wrong.id;
		is_right := false;
	END LOOP;
	RETURN is_right;
END $$;
SELECT report_wrong('json'), 'the guard finds in json what is there, and nothing else';
SELECT report_wrong('jsonb'), 'so it does in jsonb';
SELECT (SELECT sum(discarded) FROM optout.discards) = (SELECT 2 * (count(*) + count(docb)) FROM twin) - (SELECT count(*) FROM stored), 'the ledger has counted the others';

-- An update passes unless it makes the event another user's who is opted out; now
-- that are those who are not "first".  Each document takes the next one's place.
CREATE TABLE change AS
SELECT n, p, type, lead(n) OVER (PARTITION BY p, type ORDER BY n) AS next
  FROM twin, unnest('{json,jsonb}'::text[]) AS type
 WHERE n % 5 = 0 AND docb IS NOT NULL;
CREATE TABLE changed (n int, type text, doc text);
CREATE FUNCTION change_each() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	way record;
BEGIN
	FOR way IN SELECT p, path, type, CASE type WHEN 'json' THEN 'doc' ELSE 'docb' END AS source
				 FROM path, unnest('{json,jsonb}'::text[]) AS type LOOP
		EXECUTE format('CREATE TABLE event AS SELECT n, %I AS doc FROM twin JOIN change USING (n, p) WHERE p = %s AND type = %L',
					   way.source, way.p, way.type);
		PERFORM optout.guard('event', ARRAY[way.path], payload => 'doc');
		EXECUTE format('UPDATE event e SET doc = t.%I FROM change c JOIN twin t ON t.n = c.next WHERE c.n = e.n AND c.type = %L',
					   way.source, way.type);
		INSERT INTO changed SELECT n, way.type, doc FROM event;
		DROP TABLE event;
	END LOOP;
END $$;
SELECT change_each() \g /dev/null
SELECT bool_and(count > 3), 'an update is discarded where its document names somebody else who is opted out, and only there'
  FROM (SELECT type, suppressed, CASE WHEN bool_and(found = CASE WHEN suppressed THEN old ELSE new END) THEN count(*) ELSE 0 END AS count
		  FROM (SELECT c.type, d.doc AS found,
					   CASE c.type WHEN 'json' THEN o.doc::text ELSE o.docb::text END AS old,
					   CASE c.type WHEN 'json' THEN t.doc::text ELSE t.docb::text END AS new,
					   i.old IS DISTINCT FROM i.new AND EXISTS (SELECT FROM member m WHERE m.user_id = i.new AND NOT m.first) AS suppressed
				  FROM change c JOIN twin o USING (n) JOIN twin t ON t.n = c.next JOIN changed d ON d.n = c.n AND d.type = c.type
					   CROSS JOIN LATERAL (SELECT CASE c.type WHEN 'json' THEN o.in_json ELSE o.in_jsonb END,
												  CASE c.type WHEN 'json' THEN t.in_json ELSE t.in_jsonb END) AS i (old, new)) AS u
		 GROUP BY type, suppressed) AS g;

----------------------------------------------------------------------
-- Times
----------------------------------------------------------------------

-- somebody who was out for ten years
SELECT optout.enroll('past'), optout.opt_out('past'), optout.opt_in('past') \g /dev/null
UPDATE optout.opt_out_period SET opted_out_at = '2000-01-01 00:00:00.123456+00', opted_in_at = '2010-01-01 00:00:00.123456+00' WHERE user_id = 'past';
CREATE TABLE event_at (n int, user_id text DEFAULT 'past', doc json);
CREATE TABLE event_local (n int, user_id text DEFAULT 'past', at timestamp);
SELECT optout.guard('event_at', ARRAY['user_id'], occurred_at => '$.at', payload => 'doc', time_zone => 'America/New_York'),
	   optout.guard('event_local', ARRAY['user_id'], occurred_at => 'at', time_zone => 'America/New_York') \g /dev/null
INSERT INTO event_at (n, doc) SELECT n, doc::json FROM moment;
INSERT INTO event_local (n, at) SELECT n, local FROM moment;
SELECT bool_and((e.n IS NULL) = COALESCE(t.at >= '2000-01-01 00:00:00.123456+00' AND t.at < '2010-01-01 00:00:00.123456+00', false)), 'the guard reads times in ISO 8601, and nothing else'
  FROM moment m
	   CROSS JOIN LATERAL (SELECT COALESCE(m.at, m.local AT TIME ZONE 'America/New_York')) AS t (at)
	   LEFT JOIN event_at e USING (n);
SELECT bool_and((e.n IS NULL) = COALESCE(t.at >= '2000-01-01 00:00:00.123456+00' AND t.at < '2010-01-01 00:00:00.123456+00', false)), 'so it does times without zone'
  FROM moment m
	   CROSS JOIN LATERAL (SELECT m.local AT TIME ZONE 'America/New_York') AS t (at)
	   LEFT JOIN event_local e USING (n);
