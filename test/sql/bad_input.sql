--
-- Strange and impossible values for every argument: each is either taken for
-- exactly what it is or refused with an error that names it, and then nothing has
-- changed.
--
SET client_min_messages = warning;
CREATE EXTENSION optout;

-- What a command with two arguments returns or says; what it says is cut short.
CREATE FUNCTION try(command text, a text DEFAULT NULL, b text DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE command INTO result USING a, b;
	RETURN COALESCE(result, '-');
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || CASE WHEN length(SQLERRM) < 120 THEN SQLERRM ELSE left(SQLERRM, 60) || '[...]' || right(SQLERRM, 20) END;
END $$;

-- Everybody is enrolled twice over: what is done to one must not touch another.
CREATE TABLE input (n serial, kind text, value text);
INSERT INTO input (kind, value) VALUES
	('NULL', NULL), ('empty', ''), ('blank', ' '), ('two blanks', '  '), ('NUL''s neighbour', E'\x01'),
	('tab', E'\t'), ('newline', E'a\nb'), ('carriage return', E'a\r\nb'), ('backslash', E'a\\nb'),
	('lower case', 'alice'), ('upper case', 'ALICE'), ('trailing blank', 'alice '), ('leading blank', ' alice'),
	('trailing newline', E'alice\n'), ('per cent', '%'), ('underscore', '_____'), ('asterisk', '*'), ('asterisks', '**'),
	('quote', ''''), ('quotes', '''; DROP TABLE optout.product_user; --'), ('double quote', '"alice"'),
	('dollars', '$1'), ('array', '{alice}'), ('null', 'null'), ('number', '42'), ('number with zero', '042'),
	('composed', U&'\00fc'), ('decomposed', U&'u\0308'), ('right to left', U&'\05d0\05dc\05d9\05e1'),
	('override', U&'\202ealice'), ('zero width', U&'alice\200b'), ('emoji', U&'\+01f600'), ('full width', U&'\ff41lice'),
	('1024 bytes', repeat('x', 1024)), ('1024 bytes, two each', repeat(U&'\00fc', 512)),
	('1025 bytes', repeat('x', 1025)), ('1025 bytes, the last of two', repeat('x', 1023) || U&'\00fc'),
	('1 MB', repeat('alice', 200000)), ('1 MB, two each', repeat(U&'\00fc', 500000));

-- as a user's id, from being enrolled to being forgotten; how many users are
-- discarded while this one is opted out, and once they are in again.  (No ORDER BY,
-- which would let STABLE functions be called before VOLATILE ones.)
CREATE FUNCTION discarded() RETURNS bigint LANGUAGE sql AS
	$$ SELECT count(*) FROM input WHERE NOT optout.accepts(value) $$;
CREATE TABLE answer AS
SELECT n, kind, try('SELECT optout.enroll($1)', value) AS enroll FROM input;
SELECT enroll, string_agg(kind, ', ' ORDER BY n) AS of FROM answer GROUP BY enroll ORDER BY min(n);
CREATE TABLE answer2 AS
SELECT n, kind, try('SELECT optout.opt_out($1)', value) AS opt_out, NOT optout.accepts(value) AS discarded,
	   optout.is_opted_out(value) AS opted_out, discarded() AS in_all,
	   try('SELECT optout.opt_in($1)', value) AS opt_in, discarded() AS still,
	   try('SELECT optout.sign_in($1)', value) AS sign_in, try('SELECT optout.forget($1)', value) AS forget
  FROM input;
SELECT CASE WHEN opt_in = opt_out AND sign_in = opt_out AND forget = opt_out THEN opt_out ELSE 'differ' END AS opt_out_opt_in_sign_in_forget,
	   discarded, opted_out, in_all, still, count(*), string_agg(kind, ', ' ORDER BY n) FILTER (WHERE opt_out <> 'true') AS of
  FROM answer2 GROUP BY 1, 2, 3, 4, 5 ORDER BY min(n);
SELECT count(*) FROM optout.product_user;
SELECT string_agg(kind, ', ' ORDER BY n) AS not_inserted FROM input
 WHERE try('INSERT INTO optout.product_user (user_id) VALUES ($1) RETURNING user_id', value) IS DISTINCT FROM value;
DELETE FROM optout.product_user;

-- as an organization: the same user, opted out of each in turn; in how many
-- organizations that discards events
CREATE FUNCTION discarded_in() RETURNS bigint LANGUAGE sql AS
	$$ SELECT count(*) FROM input WHERE try('SELECT optout.accepts(''u'', $1)', value) = 'false' $$;
CREATE TABLE answer3 AS
SELECT n, kind, try('SELECT optout.enroll(''u'', $1)', value) AS enroll, try('SELECT optout.opt_out(''u'', $1)', value) AS opt_out,
	   discarded_in(),
	   try('SELECT optout.accepts(''u'', $1)', value) AS accepts, try('SELECT optout.opt_in(''u'', $1)', value) AS opt_in
  FROM input;
SELECT enroll, opt_out = enroll AND opt_in = enroll AND accepts = enroll AS everywhere, opt_out = 'true' AND opt_in = 'true' AND accepts = 'false' AS done,
	   discarded_in, count(*), string_agg(kind, ', ' ORDER BY n) FILTER (WHERE opt_out <> 'true') AS of
  FROM answer3 GROUP BY 1, 2, 3, 4 ORDER BY min(n);
SELECT setting, count(*), string_agg(kind, ', ' ORDER BY n) FILTER (WHERE setting <> 'true') AS of
  FROM (SELECT n, kind, try('SELECT set_config(''optout.organization'', $1, true) = $1', value) AS setting FROM input OFFSET 0) s
 GROUP BY setting ORDER BY min(n);
RESET optout.organization;
SELECT count(*), count(DISTINCT organization) FROM optout.opt_out_history;

-- names, addresses and reasons are whatever they are
SELECT optout.enroll('alice');
DO $$
DECLARE
	i record;
	kept int := 0;
BEGIN
	FOR i IN SELECT kind, value FROM input LOOP
		PERFORM optout.enroll('alice', NULL, 'before', 'before'), optout.enroll('alice', NULL, i.value, i.value),
				optout.opt_out('alice', NULL, i.value);
		IF (SELECT (display_name, email, reason) IS DISTINCT FROM (COALESCE(i.value, 'before'), COALESCE(i.value, 'before'), i.value)
			  FROM optout.opt_out_list WHERE user_id = 'alice') THEN
			RAISE EXCEPTION '% is not kept', i.kind;
		END IF;
		kept := kept + 1;
		PERFORM optout.opt_in('alice');
	END LOOP;
	RAISE WARNING 'kept %', kept;
END $$;

-- what is no text at all
SELECT optout.accepts(convert_from('\x616c69636580', 'UTF8'));
SELECT optout.opt_out(E'alice\x80');

-- arrays
SELECT optout.enroll('{a,b,c}'::text[]);
SELECT t.command, try(t.command) AS result, (SELECT string_agg(user_id, ' ' ORDER BY user_id) FROM optout.opt_out_list) AS opted_out
  FROM unnest(ARRAY[
	'SELECT optout.opt_out(''{}''::text[])',
	'SELECT optout.opt_out(NULL::text[])',
	'SELECT optout.opt_out(''{NULL}''::text[])',
	'SELECT optout.opt_out(''{a,NULL,b}''::text[])',
	'SELECT optout.opt_out(''[5:6]={a,NULL}''::text[])',
	'SELECT optout.opt_out(''{{a,b},{c,c}}''::text[])',
	'SELECT optout.opt_out(''{a,"",b}''::text[])',
	'SELECT optout.opt_out(''{a,nobody,b}''::text[])',
	'SELECT optout.opt_out(''{a,nobody,NULL}''::text[])',
	'SELECT optout.opt_out(ARRAY[''a'', repeat(''b'', 1025)])',
	'SELECT optout.opt_out(''{a,b}''::text[], '''')',
	'SELECT optout.opt_out(''[-3:-1]={c,a,c}''::text[])',
	'SELECT optout.opt_out(''{a,b,b,b,c,a}''::text[])',
	'SELECT optout.opt_in(''{a,nobody}''::text[])',
	'SELECT optout.opt_in(''{a,NULL}''::text[])',
	'SELECT optout.opt_in(''{{a},{b}}''::text[])',
	'SELECT optout.forget(''{a,NULL}''::text[])',
	'SELECT optout.forget(''{a,nobody}''::text[])',
	'SELECT optout.forget(''{nobody}''::text[])',
	'SELECT optout.forget(''{a,""}''::text[], force => true)',
	'SELECT optout.enroll(''{d,""}''::text[])',
	'SELECT optout.enroll(''{d,NULL}''::text[])',
	'SELECT optout.opt_in(''{}''::text[])',
	'SELECT optout.opt_in(''[7:9]={a,b,c}''::text[])']) WITH ORDINALITY AS t (command, n) ORDER BY n;
SELECT count(*) FROM optout.product_user WHERE user_id = 'd';
-- a million elements, mostly the same
SELECT optout.opt_out(array_fill('a'::text, ARRAY[1000000]));
SELECT optout.opt_in(array_fill('a'::text, ARRAY[1000000]) || 'nobody'::text);
SELECT optout.opt_in(array_fill('a'::text, ARRAY[1000000]));

-- times
SELECT optout.opt_out('b');
SELECT t, try('SELECT optout.accepts(''a'', NULL, $1::timestamptz)', t) AS in_again,
	   try('SELECT optout.accepts(''b'', NULL, $1::timestamptz)', t) AS out_now,
	   try('SELECT optout.is_opted_out(''c'', NULL, $1::timestamptz)', t) AS c
  FROM unnest('{-infinity,4714-11-24 BC,0001-01-01,294276-12-31,infinity,294277-01-01,never}'::text[]) t;

-- ids that are stored out of line or compressed
CREATE TABLE large (user_id text);
ALTER TABLE large ALTER user_id SET STORAGE EXTERNAL;
INSERT INTO large SELECT string_agg(md5(i::text), '') FROM generate_series(1, 30000) i;
ALTER TABLE large ALTER user_id SET STORAGE EXTENDED;
INSERT INTO large VALUES (repeat('b', 1000000)), ('b');
CREATE TABLE event (user_id text);
SELECT optout.guard('event');
INSERT INTO event SELECT * FROM large;
SELECT (SELECT array_agg(length(user_id)) FROM large WHERE optout.accepts(user_id)) AS accepted, array_agg(length(user_id)) AS stored FROM event;

-- tables that are none, and columns that are strange
CREATE VIEW a_view AS TABLE event;
CREATE SEQUENCE a_sequence;
CREATE INDEX an_index ON event (md5(user_id));
CREATE TYPE a_type AS (user_id text);
CREATE MATERIALIZED VIEW a_matview AS TABLE event;
CREATE TEMPORARY TABLE temporary (user_id text);
CREATE TABLE "Odd ""table""; --" ("the 'user', id" text, "*" text, "at; DROP" timestamptz);
SELECT t.command, try(t.command) AS result
  FROM unnest(ARRAY[
	'SELECT optout.guard(NULL)', 'SELECT optout.unguard(NULL)', 'SELECT optout.guard(0)', 'SELECT optout.guard(4294967295)',
	'SELECT optout.unguard(0)', 'SELECT optout.guard(''a_view'')', 'SELECT optout.guard(''a_sequence'')', 'SELECT optout.guard(''an_index'')',
	'SELECT optout.guard(''a_type'')', 'SELECT optout.guard(''a_matview'')', 'SELECT optout.guard(''pg_class'', ''relname'')',
	'SELECT optout.guard(''temporary'')', 'SELECT optout.guard(''event'', NULL)', 'SELECT optout.guard(''event'', '''')',
	'SELECT optout.guard(''event'', ''USER_ID'')', 'SELECT optout.guard(''event'', ''ctid'')', 'SELECT optout.guard(''event'', ''user_id; --'')',
	'SELECT optout.guard(''event'', ''user_id'', ''user_id'')', 'SELECT optout.guard(''event'', occurred_at => ''user_id'')',
	'SELECT optout.guard(''"Odd ""table""; --"'', ''the ''''user'''', id'', ''*'', ''at; DROP'')',
	'SELECT optout.unguard(''a_view'')']) WITH ORDINALITY AS t (command, n) ORDER BY n;
SELECT * FROM optout.guarded ORDER BY relation::text;
INSERT INTO "Odd ""table""; --" VALUES ('b', 'default', NULL), ('b', 'other', NULL), ('a', 'default', NULL) RETURNING *;
INSERT INTO "Odd ""table""; --" VALUES ('a', '*', NULL);
INSERT INTO temporary VALUES ('a'), ('b') RETURNING *;

-- authority
SELECT t.command, try(t.command) AS result
  FROM unnest(ARRAY[
	'SELECT optout.grant_authority(0, ''acme'', ''read'')', 'SELECT optout.grant_authority(4294967295, ''acme'', ''read'')',
	'SELECT optout.grant_authority(NULL, ''acme'', ''read'')', 'SELECT optout.grant_authority(''pg_monitor'', ''acme'', NULL)',
	'SELECT optout.grant_authority(''pg_monitor'', ''acme'', '''')', 'SELECT optout.grant_authority(''pg_monitor'', ''acme'', ''READ'')',
	'SELECT optout.grant_authority(''pg_monitor'', ''acme'', repeat(''read'', 1000))', 'SELECT optout.grant_authority(''pg_monitor'', '''', ''read'')',
	'SELECT optout.grant_authority(''pg_monitor'', repeat(''x'', 1025), ''read'')', 'SELECT optout.revoke_authority(0, ''acme'', ''read'')',
	'SELECT optout.enroll(''a'', ''*'')', 'SELECT optout.accepts(NULL, ''*'')']) WITH ORDINALITY AS t (command, n) ORDER BY n;
SELECT * FROM optout.authority;

SET optout.filter = 'perhaps';
SET optout.no_such_setting = 1;

DROP TABLE input, answer, answer2, answer3, large, temporary, "Odd ""table""; --", event CASCADE;
DROP SEQUENCE a_sequence;
DROP TYPE a_type;
DROP FUNCTION discarded, discarded_in, try;
DROP EXTENSION optout;
