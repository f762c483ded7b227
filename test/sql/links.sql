-- Aliases: other ids of a user.
CREATE EXTENSION optout;
SET timezone = 'UTC';
-- each id, with how many periods it has, and whether it is out now and was at first
CREATE FUNCTION state(VARIADIC ids text[]) RETURNS TABLE (id text, periods bigint, stored boolean, stored_late boolean) LANGUAGE sql AS $$
	SELECT id, (SELECT count(*) FROM optout.opt_out_period p WHERE p.user_id = id), optout.accepts(id),
		   optout.accepts(id, occurred_at => (SELECT min(opted_out_at) FROM optout.opt_out_period))
	  FROM unnest(ids) AS id $$;
SELECT optout.enroll(ARRAY['alice', 'bob', 'carol']);

-- linked before, while and after a user is out
SELECT optout.link('alice', ARRAY['a1', 'a0']);
SELECT optout.opt_out(ARRAY['alice', 'bob'], reason => 'why');
SELECT optout.link('alice', ARRAY['a2'], reason => 'second device');
SELECT * FROM state('alice', 'a0', 'a1', 'a2', 'bob', 'a3');
SELECT optout.opt_in('alice', reason => 'why not');
SELECT optout.link('alice', ARRAY['a3']);
SELECT * FROM state('alice', 'a0', 'a1', 'a2', 'a3');
SELECT optout.opt_out(ARRAY['alice', 'bob']) AS persons;
SELECT optout.opt_out('alice') AS again;
SELECT * FROM state('alice', 'a0', 'a3');
-- a copy is the same row in all but the id
SELECT count(*) AS copies,
	   count(*) FILTER (WHERE (c.opted_in_at, c.opted_out_by, c.opted_in_by, c.reason, c.opted_in_reason)
							  IS NOT DISTINCT FROM (p.opted_in_at, p.opted_out_by, p.opted_in_by, p.reason, p.opted_in_reason)) AS equal
  FROM optout.opt_out_period c JOIN optout.opt_out_period p ON c.alias_of = p.user_id AND c.opted_out_at = p.opted_out_at;
SELECT optout.verify();

-- known links are no news; all users of a call, each with their own
SELECT optout.link('alice', ARRAY['a1', 'a1', 'a4']), optout.link('alice', '{}');
SELECT optout.link(ARRAY['carol', 'bob', 'carol'], ARRAY['c1', 'b1', 'c2'], reason => 'import');
SELECT * FROM state('b1', 'c1', 'c2');

-- lists and history are of persons, and so are counts
SELECT user_id, aliases FROM optout.opt_out_list ORDER BY user_id;
SELECT user_id, opted_out, aliases FROM optout.user_list ORDER BY user_id;
SELECT user_id, reason, opted_in_reason FROM optout.opt_out_history ORDER BY user_id, opted_out_at;
SELECT organization, alias, user_id, linked_at <= now() + interval '1 minute' AS linked_at, linked_by = current_user AS linked_by, reason
  FROM optout.aliases ORDER BY alias;
SELECT pg_typeof(aliases) FROM optout.opt_out_list LIMIT 1;
-- aliases cost nothing where they are not asked for, whoever reads
CREATE FUNCTION mentions(query text, what text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	line text;
	n bigint := 0;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
		n := n + (line ~ what)::int;
	END LOOP;
	RETURN n;
END $$;
CREATE ROLE regress_reader;
SELECT optout.grant_authority('regress_reader', 'default', 'read');
SELECT v, mentions(format('SELECT user_id FROM optout.%I', v), 'user_alias'), mentions(format('SELECT count(*) FROM optout.%I', v), 'user_alias'),
	   mentions(format('SELECT * FROM optout.%I', v), 'user_alias') > 0 AS selected
  FROM unnest(ARRAY['opt_out_list', 'user_list']) AS v;
SET ROLE regress_reader;
SELECT user_id, aliases FROM optout.opt_out_list ORDER BY user_id;
SELECT alias FROM optout.aliases ORDER BY 1;
SELECT optout.link('alice', ARRAY['x']);
SELECT optout.unlink(ARRAY['a1']);
SELECT * FROM optout.user_alias;
RESET ROLE;

-- guards
CREATE TABLE event (user_id text);
SELECT optout.guard('event');
INSERT INTO event VALUES ('alice'), ('a1'), ('c1'), ('b1'), ('x') RETURNING *;
SELECT sum(discarded) >= 3 AS counted FROM optout.discards;

-- reports answer for an alias as for its user, also of the past
SELECT id, optout.is_opted_out(id) AS now, optout.is_opted_out(id, at => (SELECT min(opted_out_at) FROM optout.opt_out_period)) AS at_first,
	   optout.is_opted_out(id, at => '2000-01-01') AS before
  FROM unnest('{alice,a3,b1,c1}'::text[]) AS id;

-- errors, in this order: arguments
\set VERBOSITY terse
SELECT optout.link(NULL::text, ARRAY['x']);
SELECT optout.link('alice', NULL);
SELECT optout.link('alice', ARRAY['x', NULL]);
SELECT optout.link(ARRAY['alice', NULL], ARRAY['x', 'y']);
\echo :LAST_ERROR_SQLSTATE
SELECT optout.link('', ARRAY['x']);
SELECT optout.link('alice', ARRAY['']);
SELECT optout.link('alice', ARRAY[repeat('x', 1025)]);
SELECT optout.link('alice', ARRAY['x', 'alice']);
\echo :LAST_ERROR_SQLSTATE
SELECT optout.link('alice', ARRAY[['x'], ['y']]);
SELECT optout.link(ARRAY['alice'], ARRAY['x', 'y']);
\echo :LAST_ERROR_SQLSTATE
SELECT optout.link('alice', ARRAY['x'], '*');
SELECT optout.unlink(NULL);
SELECT optout.unlink(ARRAY['x', NULL]);
SELECT optout.unlink(ARRAY['']);
-- who is a user, and who an alias
\set VERBOSITY default
SELECT optout.link('nobody', ARRAY['alice']);
\echo :LAST_ERROR_SQLSTATE
SELECT optout.link('a1', ARRAY['x']);
\echo :LAST_ERROR_SQLSTATE
SELECT optout.opt_out('a1');
SELECT optout.opt_out(ARRAY['carol', 'c1']);
SELECT optout.opt_in('a1');
SELECT optout.opt_in(ARRAY['alice', 'a1']);
SELECT optout.forget('a1', force => true);
\echo :LAST_ERROR_SQLSTATE
SELECT optout.link('bob', ARRAY['x', 'a1']);
\echo :LAST_ERROR_SQLSTATE
SELECT optout.link('bob', ARRAY['x', 'carol']);
\echo :LAST_ERROR_SQLSTATE
SELECT optout.link(ARRAY['alice', 'bob'], ARRAY['x', 'x']);
\echo :LAST_ERROR_SQLSTATE
\set VERBOSITY terse
SELECT optout.enroll('a1');
\echo :LAST_ERROR_SQLSTATE
SELECT optout.sign_in('a1');
SELECT optout.enroll(ARRAY['dave', 'a1']);
\set VERBOSITY default
INSERT INTO optout.product_user (user_id) VALUES ('a1');
UPDATE optout.product_user SET user_id = 'a1' WHERE user_id = 'carol';
UPDATE optout.product_user SET organization = 'acme', user_id = 'a1' WHERE user_id = 'carol';
SELECT optout.forget('a1', 'acme'), optout.enroll('carol');
-- an id that was opted out by itself: nobody is accepted through linking
SELECT optout.enroll(ARRAY['d1', 'd2']), optout.opt_out(ARRAY['d1', 'd2']), optout.opt_in('d2');
DELETE FROM optout.product_user WHERE user_id IN ('d1', 'd2');
SELECT optout.link('carol', ARRAY['d1']);
\echo :LAST_ERROR_SQLSTATE
SELECT optout.link('carol', ARRAY['d2']);
-- nor one that has aliases of its own
SELECT optout.link('d1', ARRAY['d11']);
SELECT optout.link('carol', ARRAY['d1']);
SELECT optout.enroll('d3'), optout.link('d3', ARRAY['d31']);
DELETE FROM optout.product_user WHERE user_id = 'd3';
SELECT optout.link('carol', ARRAY['d3']);
\echo :LAST_ERROR_SQLSTATE
BEGIN;
SELECT optout.opt_out('carol'), optout.forget('d1', force => true), optout.link('carol', ARRAY['d1']);
COMMIT;
SELECT * FROM state('carol', 'c1', 'd1', 'd11');
SELECT count(*) FROM optout.aliases WHERE alias IN ('x', 'd11');
SELECT optout.verify();

-- of several errors the first: arguments, the user, whose the alias is, its own opt-outs
\set VERBOSITY sqlstate
SELECT optout.link(ARRAY['nobody', 'x'], ARRAY['x', NULL]);
SELECT optout.link(ARRAY['nobody', 'x'], ARRAY['a1', 'x']);
SELECT optout.link(ARRAY['nobody', 'bob'], ARRAY['a1', 'd2']);
SELECT optout.link(ARRAY['bob', 'bob'], ARRAY['d2', 'a1']);
SELECT optout.link(ARRAY['bob', 'bob'], ARRAY['d2', 'carol']);
SELECT optout.link(ARRAY['bob', 'bob'], ARRAY['d2', 'x']);
\set VERBOSITY default

-- unlink
SELECT optout.unlink(ARRAY['a1']);
\echo :LAST_ERROR_SQLSTATE
SELECT optout.unlink(ARRAY['nobodys', 'c1', 'a1'], force => true), optout.unlink(ARRAY['a1']) AS again, optout.unlink('{}') AS none;
SELECT * FROM state('alice', 'a1', 'a2', 'c1');
SELECT optout.opt_in('alice'), optout.unlink(ARRAY['a2', 'a2', 'alice']);
SELECT * FROM state('alice', 'a2', 'a3');
SELECT optout.enroll('a1'), optout.link('bob', ARRAY['a2']);
SELECT optout.verify();

-- in other organizations the same ids are others
SELECT optout.enroll('alice', 'acme'), optout.link('alice', ARRAY['a3', 'bob'], 'acme'), optout.opt_out('alice', 'acme');
SELECT optout.accepts('bob', 'acme'), optout.accepts('a3', 'acme'), optout.accepts('a3');
SELECT optout.unlink(ARRAY['bob'], 'acme', true), optout.accepts('bob', 'acme');

-- who leaves the directory keeps the aliases, as the opt-out
SELECT optout.opt_out('alice');
DELETE FROM optout.product_user WHERE organization = 'default' AND user_id = 'alice';
SELECT optout.link('alice', ARRAY['a5']);
SELECT user_id, aliases FROM optout.opt_out_list WHERE organization = 'default' AND user_id = 'alice';
SELECT optout.opt_in('alice');
SELECT * FROM state('alice', 'a5');
SELECT optout.link('alice', ARRAY['a6']);
SELECT count(*) FROM optout.aliases WHERE organization = 'default' AND user_id = 'alice';

-- forget takes the aliases with it
SELECT optout.forget('alice'), optout.forget('alice') AS again;
SELECT count(*) FROM optout.aliases WHERE organization = 'default' AND user_id = 'alice';
SELECT count(*) FROM optout.opt_out_period WHERE organization = 'default' AND (user_id = 'alice' OR user_id LIKE 'a_' OR alias_of = 'alice') AND user_id <> 'a2';
SELECT optout.enroll('eve'), optout.link('eve', ARRAY['e1']);
DELETE FROM optout.product_user WHERE user_id = 'eve';
SELECT optout.forget(ARRAY['eve', 'nobody']) AS only_aliases;
SELECT optout.verify();

-- retention by hand takes the copies of what it deletes, even those it does not know of
SELECT optout.opt_in(ARRAY['bob', 'carol']);
BEGIN;
DELETE FROM optout.opt_out_period WHERE user_id = 'bob' AND opted_in_at IS NOT NULL;
SELECT user_id, alias_of FROM optout.opt_out_period WHERE 'bob' IN (user_id, alias_of);
ROLLBACK;
DELETE FROM optout.opt_out_period WHERE opted_in_at < now();
SELECT optout.verify();

-- savepoints
SELECT optout.enroll('frank');
BEGIN;
SELECT optout.link('frank', ARRAY['f1']);
SAVEPOINT s;
SELECT optout.opt_out('frank'), optout.link('frank', ARRAY['f2']);
SELECT * FROM state('frank', 'f1', 'f2');
ROLLBACK TO s;
SELECT * FROM state('frank', 'f1', 'f2');
COMMIT;
SELECT user_id, aliases FROM optout.user_list WHERE user_id = 'frank';

-- verify() counts what is not as it should be: a period more, less, or other, and who is both
SELECT optout.opt_out('frank'), optout.link('frank', ARRAY['f2', 'f3', 'f4']), optout.verify();
DELETE FROM optout.opt_out_period WHERE user_id = 'f2';
UPDATE optout.opt_out_period SET opted_out_at = opted_out_at - interval '1 hour' WHERE user_id = 'f3';
INSERT INTO optout.opt_out_period SELECT organization, user_id, '2020-01-01', '2020-01-02', 'x', 'x' FROM optout.opt_out_period WHERE user_id = 'f4';
SELECT optout.verify() AS three;
SET session_replication_role = replica;
INSERT INTO optout.product_user (user_id) VALUES ('f1');
RESET session_replication_role;
SELECT optout.verify() AS four;
-- who is both can be opted out as an alias; an opt-out of its own is left alone
SELECT optout.opt_in('frank');
INSERT INTO optout.opt_out_period (organization, user_id, opted_out_at, opted_out_by) VALUES ('default', 'f1', now(), 'by hand');
SELECT optout.opt_out('frank'), optout.opt_in('frank'), optout.accepts('frank'), optout.accepts('f1');
SELECT optout.opt_in('f1');
SELECT optout.unlink(ARRAY['f1', 'f2', 'f3', 'f4']), optout.opt_in(ARRAY['f1']);
SELECT count(*) FROM optout.opt_out_period WHERE alias_of = 'frank';

-- read-only
BEGIN READ ONLY;
SELECT optout.link('frank', ARRAY['f1']);
ROLLBACK;
BEGIN READ ONLY;
SELECT optout.unlink(ARRAY['f1']);
ROLLBACK;

-- the trigger functions are for these tables only
CREATE TABLE mine (organization text, user_id text, opted_out_at timestamptz);
CREATE TRIGGER t AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION optout.refuse_aliases();
INSERT INTO mine VALUES ('default', 'a1');
CREATE TRIGGER u AFTER DELETE ON mine FOR EACH ROW EXECUTE FUNCTION optout.delete_alias_periods();
DROP TRIGGER t ON mine;
INSERT INTO mine VALUES ('default', 'a1');
DELETE FROM mine;

-- many at once, of one user and of many
SELECT optout.enroll(array_agg('u' || n)) FROM generate_series(1, 1500) AS n;
SELECT optout.link(array_agg('u' || n), array_agg('v' || n)) FROM generate_series(1, 1500) AS n;
SELECT optout.link('u1', array_agg('w' || n)) FROM generate_series(1, 1500) AS n;
SELECT optout.opt_out('u1');
SELECT count(*) FROM optout.opt_out_period WHERE alias_of = 'u1';
SELECT optout.opt_out(array_agg('u' || n)) FROM generate_series(1, 1500) AS n;
SELECT count(*) FROM optout.opt_out_period WHERE user_id ~ '^[vw]' AND opted_in_at IS NULL;
SELECT optout.opt_in(array_agg('u' || n)) FROM generate_series(1, 1500) AS n;
SELECT count(*) FROM optout.opt_out_period WHERE opted_in_at IS NULL;
SELECT optout.verify();
SELECT optout.unlink(array_agg('w' || n)) FROM generate_series(1, 1500) AS n;
SELECT optout.opt_out('u1'), optout.forget(array_agg('u' || n), force => true) FROM generate_series(1, 1500) AS n;
SELECT count(*) FROM optout.opt_out_period WHERE user_id ~ '^[uvw][0-9]';
SELECT count(*) FROM optout.user_alias WHERE user_id ~ '^u';

DROP TABLE event, mine;
DROP FUNCTION state, mentions;
SELECT optout.revoke_authority('regress_reader', 'default', 'read');
DROP ROLE regress_reader;
DROP EXTENSION optout;
