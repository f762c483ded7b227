-- Text, numbers and uuids agree on who is who: a number or uuid is the user whose id is
-- its text form, and nobody else is.
CREATE EXTENSION optout;

-- Numbers of all sizes, with either sign, what is nearly the text form of one, and the
-- same for uuids. Every fourth user is opted out, and so are the ends of all types.
CREATE TABLE person (id text PRIMARY KEY, listed boolean NOT NULL);
WITH number AS (
	SELECT DISTINCT sign * ((hashint8extended(n, 1) & 9223372036854775807) / (10::numeric ^ (n % 19))::bigint) AS number
	  FROM generate_series(1, 380) AS n, (VALUES (1), (-1)) AS s (sign)
	UNION SELECT (10::numeric ^ n)::bigint + d FROM generate_series(0, 18) AS n, (VALUES (-1), (0), (1)) AS d (d)
	UNION VALUES (9223372036854775807), (9223372036854775806), (-9223372036854775807), (-9223372036854775807 - 1),
		(2147483647), (2147483648), (-2147483648), (-2147483649), (32767), (32768), (-32768), (-32769), (0), (-1)
), id AS (
	SELECT number::text AS id FROM number
	UNION SELECT prefix || number FROM number, (VALUES ('0'), ('+'), ('-'), (' '), ('-0'), ('--')) AS p (prefix)
	UNION SELECT number || suffix FROM number, (VALUES ('.'), ('.0'), ('e0'), (' '), (':'), ('/'), ('x'), ('é')) AS s (suffix)
	UNION VALUES ('9223372036854775808'), ('-9223372036854775809'), ('9999999999999999999'), ('-9999999999999999999'),
		('10000000000000000000'), ('18446744073709551615'), ('18446744073709551616'), ('18446744073709551658'), ('-'), ('+'), ('0x2a')
	UNION SELECT v FROM generate_series(1, 200) AS n, md5(n::text) AS h, CAST(h AS uuid) AS u, unnest(ARRAY[
		u::text, h, upper(u::text), '{' || u || '}', replace(u::text, '-', '_'), overlay(u::text PLACING '0' FROM 9), overlay(u::text PLACING '0' FROM 14),
		overlay(u::text PLACING '0' FROM 19), overlay(u::text PLACING '0' FROM 24),
		left(u::text, 35), u || '0', translate(u::text, '0f', 'og'), translate(u::text, 'a', ':'), translate(u::text, '9', '/'), translate(u::text, 'a', '`'),
		translate(u::text, 'ef', 'kp'), left(u::text, 34) || 'é']) AS v
)
INSERT INTO person
SELECT id, hashtextextended(id, 7) % 4 = 0 OR id IN ('-1', '32767', '-32768', '2147483647', '-2147483648', '9223372036854775807', '-9223372036854775808')
  FROM id WHERE id <> '';
-- Ids that careless parsing would take for others, and ids with the bytes of a number
-- (of either byte order) or uuid, which half of a key does not tell apart.
INSERT INTO person VALUES ('9999999999999999998', true), ('-8446744073709551618', false), ('18446744073709551658', true), ('42', false),
	('-0', true), ('0', false), ('00000000-0000-4000-8000-00000000000g', true), ('00000000-0000-4000-8000-000000000011', false),
	('00000000-0000-4000-8000-0000000000:a', true), ('00000000-0000-4000-8000-0000000000aa', false),
	('abcdefgh', true), ('7523094288207667809', false), ('7017280452245743464', false),
	('abcdefghijklmnop', true), ('61626364-6566-6768-696a-6b6c6d6e6f70', false)
ON CONFLICT (id) DO UPDATE SET listed = EXCLUDED.listed;
SELECT count(*) > 10000 AS persons, count(*) FILTER (WHERE listed) > 2000 AS listed FROM person;
-- there are warnings of ids that are nearly uuids, which are another test's
SET client_min_messages = error;
SELECT optout.enroll(array_agg(id)) FROM person;
SELECT optout.opt_out(array_agg(id)) = count(*) AS all_opted_out FROM person WHERE listed;
RESET client_min_messages;

-- the numbers and uuids of all that can be read as one, whether it is written so or not
CREATE VIEW number AS
SELECT DISTINCT n::bigint FROM person, trunc(CASE WHEN id ~ '^ *[-+]?[0-9]+(\.0?|e0)? *$' THEN id::numeric END) AS n
 WHERE n BETWEEN -9223372036854775808 AND 9223372036854775807;
CREATE VIEW uuid AS
SELECT DISTINCT id::uuid AS u FROM person WHERE id ~* '^\{?[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}\}?$';

-- Wrong answers, three times: the first come from the table, the last from the filter and
-- the cache.
CREATE VIEW wrong AS
SELECT (SELECT count(*) FROM person WHERE optout.accepts(id) = listed) AS text,
       (SELECT count(*) FROM number WHERE optout.accepts(n) = EXISTS (SELECT FROM person WHERE id = n::text AND listed)) AS bigint,
       (SELECT count(*) FROM uuid WHERE optout.accepts(u) = EXISTS (SELECT FROM person WHERE id = u::text AND listed)) AS uuid;
SELECT * FROM wrong;
SELECT * FROM wrong;
SELECT * FROM wrong;
SELECT count(*) > 700 AS numbers FROM number;
SELECT count(*) >= 200 AS uuids FROM uuid;

-- is_opted_out() likewise, and a guard of any type of column
SELECT count(*) FROM number WHERE optout.is_opted_out(n) <> EXISTS (SELECT FROM person WHERE id = n::text AND listed);
SELECT count(*) FROM uuid WHERE optout.is_opted_out(u) <> EXISTS (SELECT FROM person WHERE id = u::text AND listed);
CREATE TABLE id_type (type text PRIMARY KEY, declared text);
INSERT INTO id_type VALUES ('text', 'text'), ('varchar', 'varchar'), ('bpchar', 'character(40)'), ('name', 'name'),
	('smallint', 'smallint'), ('integer', 'integer'), ('bigint', 'bigint'), ('uuid', 'uuid');
CREATE VIEW offered AS
SELECT type, id FROM person, unnest('{text,varchar,bpchar,name}'::text[]) AS type WHERE type <> 'bpchar' OR id NOT LIKE '% '
UNION ALL SELECT type, n::text FROM number, (VALUES ('smallint', 32767), ('integer', 2147483647), ('bigint', 9223372036854775807)) AS t (type, largest)
           WHERE n BETWEEN -largest - 1 AND largest
UNION ALL SELECT 'uuid', u::text FROM uuid;
SELECT format('CREATE TABLE %I (user_id %s)', 'by_' || type, declared) FROM id_type \gexec
SELECT count(optout.guard(to_regclass('by_' || type))) FROM id_type;
SELECT format('INSERT INTO %I SELECT id::%s FROM offered WHERE type = %L', 'by_' || type, declared, type) FROM id_type \gexec
SELECT 'CREATE VIEW stored AS ' || string_agg(format('SELECT %L AS type, user_id::text AS id FROM %I', type, 'by_' || type), ' UNION ALL ') FROM id_type \gexec
-- What is stored must be the events of all who are not listed, and of nobody else.
CREATE VIEW report AS
SELECT type, count(*) > 50 AS offered, count(*) FILTER (WHERE stored.id IS NULL AND listed IS NOT TRUE) AS missing,
       count(*) FILTER (WHERE stored.id IS NOT NULL AND listed) AS leaked,
       count(*) FILTER (WHERE stored.id IS NULL AND listed) > 10 AS discarded
  FROM offered LEFT JOIN stored USING (type, id) LEFT JOIN person USING (id)
 GROUP BY type ORDER BY type;
SELECT * FROM report;

-- purge() looks for each id as the value that it is the text form of
SELECT optout.opt_in(array_agg(id)) = count(*) AS all_opted_in FROM person WHERE listed;
SELECT format('INSERT INTO %I SELECT id::%s FROM offered JOIN person USING (id) WHERE type = %L AND listed', 'by_' || type, declared, type) FROM id_type \gexec
SELECT type AS not_stored FROM report WHERE leaked <= 10;
SET client_min_messages = error;
SELECT optout.opt_out(array_agg(id)) = count(*) AS all_opted_out FROM person WHERE listed;
DO $$
DECLARE
	listed CONSTANT text[] := (SELECT array_agg(id) FROM person WHERE listed);
BEGIN
	CALL optout.purge(listed);
END
$$;
RESET client_min_messages;
SELECT * FROM report;

DROP VIEW report, stored, offered, wrong, number, uuid;
SELECT 'DROP TABLE ' || string_agg(format('%I', 'by_' || type), ', ') FROM id_type \gexec
DROP TABLE id_type, person;
DROP EXTENSION optout CASCADE;
