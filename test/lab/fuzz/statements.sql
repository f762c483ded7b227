-- What makes statements at random: calls of the extension's routines, with
-- arguments from the table fuzz.value, wherever a call can be.

SET search_path = fuzz;

-- A routine whose parameters have no values would not be tried.
DO $$
DECLARE
	missing regtype[];
BEGIN
	SELECT array_agg(t) INTO missing
	  FROM (SELECT unnest(proargtypes)::regtype FROM fuzz.routine EXCEPT SELECT type FROM fuzz.value) AS m (t);
	IF missing IS NOT NULL THEN
		RAISE EXCEPTION 'there are no values of %', missing;
	END IF;
END $$;

CREATE FUNCTION fuzz.as_jsonb(doc text) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	RETURN doc::jsonb;
EXCEPTION WHEN OTHERS THEN
	RETURN NULL;
END $$;

----------------------------------------------------------------------
-- Calls
----------------------------------------------------------------------

-- An argument: a value, preferably for a parameter of that name, or a column of
-- a relation of which the statement has a row.
CREATE FUNCTION fuzz.argument(of_type regtype, of_name text, relation regclass, alias text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	result text;
	named boolean := random() < 0.7;
BEGIN
	IF random() < 0.7 THEN
		SELECT format('%s.%I', alias, attname) INTO result
		  FROM pg_attribute
		 WHERE attrelid = relation AND attnum > 0 AND NOT attisdropped AND atttypid = of_type
		 ORDER BY (attname = of_name) AND named DESC, random() LIMIT 1;
	END IF;
	IF result IS NULL THEN
		SELECT expression INTO result
		  FROM fuzz.value
		 WHERE type = of_type AND (name IS NULL OR name = of_name)
		 ORDER BY (name IS NOT NULL) AND named DESC, random() LIMIT 1;
	END IF;
	RETURN result;
END $$;

-- A call of this routine: some arguments by name, some left out, some that are
-- not cast to the type they should be of.
CREATE FUNCTION fuzz.call(routine fuzz.routine, relation regclass, alias text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	arguments text[] := '{}';
	given integer := routine.pronargs - floor(random() * (routine.pronargdefaults + 1))::integer;
	by_name boolean := random() < 0.1;
	i integer;
BEGIN
	FOR i IN 1 .. given LOOP
		-- where a guard of several ids finds them has the name of users elsewhere
		arguments[i] := fuzz.argument(routine.proargtypes[i - 1],
									  CASE WHEN routine.proname LIKE 'guard%' AND routine.proargnames[i] = 'user_ids' THEN 'sources' ELSE routine.proargnames[i] END,
									  relation, alias);
		IF random() < 0.95 THEN
			arguments[i] := format('(%s)::%s', arguments[i], routine.proargtypes[i - 1]::regtype);
		END IF;
		IF by_name THEN
			arguments[i] := routine.proargnames[i] || ' => ' || arguments[i];
		END IF;
	END LOOP;
	RETURN format('optout.%I(%s)', routine.proname, array_to_string(arguments, ', '));
END $$;

-- What stands for @token@ in the templates below.
CREATE FUNCTION fuzz.token(token text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	routine fuzz.routine;
	relation regclass;
	alias text;
	result text;
BEGIN
	CASE token
		WHEN 'user', 'organization' THEN
			RETURN fuzz.argument('text', CASE token WHEN 'user' THEN 'user_id' ELSE token END, NULL, NULL);
		WHEN 'time' THEN
			RETURN fuzz.argument('timestamptz', 'at', NULL, NULL);
		WHEN 'n' THEN
			RETURN floor(random() * 12)::text;
		WHEN 'unique' THEN
			RETURN 'fuzz_' || md5(random()::text);
		WHEN 'end' THEN
			RETURN (ARRAY['COMMIT', 'COMMIT', 'ROLLBACK'])[floor(random() * 3) + 1];
		WHEN 'doc' THEN
			RETURN '(SELECT doc FROM fuzz.document WHERE n = ' || floor(random() * 1000)::int + 1 || ')';
		WHEN 'source' THEN
			RETURN fuzz.argument('text[]', 'sources', NULL, NULL);
		WHEN 'aliases' THEN
			RETURN fuzz.argument('text[]', 'aliases', NULL, NULL);
		WHEN 'isolation' THEN
			RETURN (ARRAY['READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE', 'READ ONLY', 'REPEATABLE READ READ ONLY',
				'SERIALIZABLE READ ONLY'])[floor(random() * 6) + 1];
		WHEN 'when' THEN
			RETURN (ARRAY['BEFORE', 'BEFORE', 'AFTER'])[floor(random() * 3) + 1] ||
				(ARRAY[' INSERT', ' UPDATE', ' INSERT OR UPDATE', ' INSERT OR UPDATE OR DELETE', ' DELETE', ' TRUNCATE',
				' INSERT OR UPDATE OF user_id', ' INSERT OR UPDATE OF user_id, organization, occurred_at', ' INSERT OR UPDATE OF place',
				' INSERT OR UPDATE OF n, raw', ' UPDATE OF big, occurred_at', ' INSERT OR UPDATE OF organization, user_id'])[floor(random() * 12) + 1];
		WHEN 'each' THEN
			RETURN (ARRAY['ROW', 'ROW', 'ROW', 'STATEMENT'])[floor(random() * 4) + 1];
		WHEN 'what' THEN
			RETURN (ARRAY['', '''user_id''', '''user_id'', ''organization''', '''user_id'', ''organization'', ''occurred_at''', '''occurred_at'', ''user_id''',
				'''organization'', ''user_id''', '''nothing''', ''''', 1', '''user_id'', ''user_id'''])[floor(random() * 9) + 1];
		WHEN 'guard' THEN
			RETURN (ARRAY['''user_id''', '''user_id'', ''organization''', '''user_id'', NULL, ''at''', '''n''', 'NULL', '''nothing'''])[floor(random() * 6) + 1];
		WHEN 'trigger' THEN
			SELECT format('optout.%I', proname) INTO result FROM fuzz.routine WHERE prorettype = 'trigger'::regtype ORDER BY random() LIMIT 1;
			RETURN result;
		ELSE
			NULL;
	END CASE;

	-- the rest are calls: rowtext is one as text, with the row "r" of fuzz.row
	CASE
		WHEN token LIKE 'row%' THEN
			relation := 'fuzz.row';
			alias := 'r';
		WHEN token LIKE 'event%' THEN
			relation := 'fuzz.event_plain';
			alias := 'event_plain';
		WHEN token LIKE 'wrapped%' THEN
			relation := 'fuzz.event_plain';
			alias := 'wrapped';
		ELSE
			NULL;
	END CASE;
	-- those that nobody can call need not be tried often
	SELECT * INTO routine FROM fuzz.routine
	 WHERE prokind = CASE token WHEN 'procedure' THEN 'p' ELSE 'f' END
	 ORDER BY CASE WHEN prorettype IN ('trigger'::regtype, 'internal'::regtype) THEN random() ^ 10 ELSE random() END DESC LIMIT 1;
	result := fuzz.call(routine, relation, alias);
	IF token LIKE '%text' THEN
		result := '(' || result || ')::text';
	ELSIF token LIKE '%bool' AND routine.prorettype <> 'boolean'::regtype THEN
		result := '((' || result || ')::text IS DISTINCT FROM ''1'')';
	ELSIF token LIKE '%literal' THEN
		result := quote_literal('SELECT ' || result);
	END IF;
	RETURN result;
END $$;

----------------------------------------------------------------------
-- Places
----------------------------------------------------------------------

-- Each a statement a line, which are run one after the other, whatever becomes
-- of the one before.
CREATE TABLE template (weight integer, statements text);
INSERT INTO template VALUES
(60, $t$SELECT @call@$t$),
(5, $t$SELECT @call@, @call@, @call@$t$),
(5, $t$VALUES (@text@), (@text@)$t$),
(5, $t$SELECT * FROM @call@ AS f$t$),
(2, $t$SELECT * FROM ROWS FROM (@call@, @call@) WITH ORDINALITY$t$),
(5, $t$CALL @procedure@$t$),
(8, $t$SELECT count(@rowtext@) FROM fuzz.row r WHERE r.n % 12 = @n@$t$),
(8, $t$SELECT count(*) FROM fuzz.row r WHERE @rowbool@$t$),
(8, $t$SELECT count(*) FROM fuzz.row r WHERE @rowbool@ AND (@rowbool@ OR NOT @bool@) AND r.n % 12 = @n@$t$),
(5, $t$SELECT count(*) FROM fuzz.row r JOIN fuzz.event_plain e ON r.user_id = e.user_id AND @rowbool@ WHERE r.n % 12 = @n@$t$),
(5, $t$SELECT count(*) FROM fuzz.member m LEFT JOIN LATERAL (SELECT @rowtext@ AS t FROM fuzz.row r WHERE r.user_id = m.user_id LIMIT 3) AS l ON true$t$),
(5, $t$SELECT @rowtext@, count(*) FILTER (WHERE @rowbool@) FROM fuzz.row r WHERE r.n % 12 = @n@ GROUP BY 1 HAVING bool_or(@rowbool@) ORDER BY count(@rowtext@)$t$),
(5, $t$SELECT count(@rowtext@) FILTER (WHERE @rowbool@) OVER (PARTITION BY @rowtext@ ORDER BY @rowtext@) FROM fuzz.row r WHERE r.n % 12 = @n@$t$),
(3, $t$SELECT CASE WHEN @bool@ THEN @text@ ELSE COALESCE(NULLIF(@text@, ''), @text@) END$t$),
(3, $t$SELECT 1 WHERE EXISTS (SELECT @call@) AND (SELECT @text@) <> ALL (SELECT @rowtext@ FROM fuzz.row r LIMIT @n@)$t$),
(3, $t$SELECT n FROM fuzz.row ORDER BY n LIMIT (SELECT length(@text@)) OFFSET @n@$t$),
(5, $t$EXPLAIN SELECT @rowtext@ FROM fuzz.row r WHERE @rowbool@ AND @bool@$t$),
(3, $t$EXPLAIN (ANALYZE, BUFFERS) SELECT count(*) FROM fuzz.event_part WHERE @bool@ AND optout.accepts(user_id, organization, at)$t$),
(3, $t$COPY (SELECT @rowtext@ FROM fuzz.row r WHERE r.n % 12 = @n@) TO STDOUT$t$),

-- writing
(6, $t$INSERT INTO fuzz.sink SELECT @rowtext@ FROM fuzz.row r WHERE r.n % 12 = @n@$t$),
(6, $t$INSERT INTO fuzz.event (user_id, organization, occurred_at) SELECT r.user_id, r.organization, r.at FROM fuzz.row r WHERE r.n % 12 = @n@$t$),
(6, $t$INSERT INTO fuzz.event (user_id, organization, occurred_at) VALUES (@user@, @organization@, @time@) RETURNING @text@$t$),
(4, $t$INSERT INTO fuzz.event_uuid (user_id, at) SELECT r.uid, r.at FROM fuzz.row r WHERE @rowbool@ AND r.n % 12 = @n@$t$),
(4, $t$INSERT INTO fuzz.event_bigint AS e (user_id, organization) SELECT r.big, left(r.organization, 20) FROM fuzz.row r WHERE r.n % 12 = @n@ ON CONFLICT (user_id) DO UPDATE SET n = e.n + 1, organization = EXCLUDED.organization WHERE @rowbool@$t$),
(4, $t$INSERT INTO fuzz.event_bigint AS e (user_id) SELECT DISTINCT r.big FROM fuzz.row r WHERE r.big IS NOT NULL ON CONFLICT (user_id) DO UPDATE SET n = e.n + 1 WHERE @bool@ RETURNING @text@$t$),
(6, $t$INSERT INTO fuzz.event_part (user_id, organization, at, n) SELECT r.user_id, r.organization, r.at, r.n % 4 FROM fuzz.row r WHERE r.n % 12 = @n@$t$),
(6, $t$INSERT INTO fuzz.event_doc (user_id, device, organization, doc) SELECT r.user_id, r.organization, 'acme', d.doc::json FROM fuzz.row r JOIN fuzz.document d ON d.n % 97 = r.n % 12 AND r.n % 12 = @n@$t$),
(6, $t$INSERT INTO fuzz.event_doc (device, doc, docb, at) VALUES (@user@, @doc@::json, fuzz.as_jsonb(@doc@), @time@::timestamp), (NULL, @doc@::json, fuzz.as_jsonb(@doc@), NULL) RETURNING @text@$t$),
(5, $t$UPDATE fuzz.event_doc SET doc = @doc@::json, docb = fuzz.as_jsonb(@doc@), device = CASE WHEN random() < 0.5 THEN device ELSE @user@ END WHERE random() < 0.1$t$),
(4, $t$SELECT optout.guard_view('fuzz.event_doc', 'fuzz_view')
INSERT INTO fuzz.fuzz_view (device, doc) SELECT user_id, @doc@::json FROM fuzz.member ORDER BY random() LIMIT @n@ RETURNING @text@
DROP VIEW fuzz.fuzz_view$t$),
(6, $t$COPY fuzz.event_plain (user_id, organization, at) FROM '@dir@/events' WHERE @eventbool@$t$),
(4, $t$COPY fuzz.event (user_id, organization, occurred_at) FROM '@dir@/events' WHERE @bool@$t$),
(4, $t$COPY fuzz.event_part (user_id, organization, at) FROM '@dir@/events'$t$),
(4, $t$UPDATE fuzz.event SET user_id = @user@, organization = @organization@ WHERE @bool@ AND random() < 0.3$t$),
(4, $t$UPDATE fuzz.event_part SET n = (n + 1) % 4, user_id = CASE WHEN random() < 0.5 THEN user_id ELSE @user@ END WHERE random() < 0.3$t$),
(4, $t$UPDATE fuzz.event_plain SET user_id = @eventtext@ WHERE random() < 0.05 RETURNING @eventtext@$t$),
(3, $t$DELETE FROM fuzz.event_plain WHERE @eventbool@ AND random() < 0.05$t$),
(3, $t$DELETE FROM fuzz.event WHERE random() < 0.2$t$),
(4, $t$MERGE INTO fuzz.event_part e USING fuzz.row r ON e.user_id = r.user_id AND r.n % 12 = @n@ WHEN MATCHED AND @rowbool@ THEN UPDATE SET user_id = r.privilege WHEN MATCHED AND @rowbool@ THEN DELETE WHEN NOT MATCHED AND @rowbool@ THEN INSERT (user_id, organization) VALUES (r.user_id, r.organization)$t$),
(3, $t$WITH d AS (DELETE FROM fuzz.event WHERE random() < 0.1 RETURNING user_id, @text@ AS t), i AS (INSERT INTO fuzz.event_plain (user_id) SELECT user_id FROM d WHERE @bool@ RETURNING @text@) SELECT @text@, count(*) FROM d, i$t$),
(3, $t$UPDATE optout.product_user SET display_name = @text@ WHERE random() < 0.2$t$),
(3, $t$UPDATE optout.product_user SET email = optout.opt_out(user_id, organization)::text WHERE random() < 0.1$t$),
(3, $t$DELETE FROM optout.product_user WHERE random() < 0.05 AND @bool@$t$),
(3, $t$DELETE FROM optout.product_user WHERE random() < 0.05 AND optout.forget(user_id, organization, true)$t$),
(3, $t$INSERT INTO optout.product_user (user_id, organization, display_name) VALUES (@user@, @organization@, @text@) ON CONFLICT DO NOTHING$t$),
(3, $t$TRUNCATE fuzz.sink, fuzz.event_uuid$t$),

-- aliases
(6, $t$SELECT optout.link(@user@, @aliases@, @organization@)$t$),
(4, $t$SELECT optout.unlink(@aliases@, @organization@, @bool@)$t$),
(5, $t$BEGIN ISOLATION LEVEL @isolation@
SELECT optout.link(@user@, @aliases@, 'acme')
SAVEPOINT a
SELECT optout.opt_out(@user@, 'acme'), optout.unlink(@aliases@, 'acme', true)
INSERT INTO fuzz.event_doc (user_id, device, doc) SELECT user_id, 'd' || user_id, @doc@::json FROM fuzz.member ORDER BY random() LIMIT @n@
ROLLBACK TO a
SELECT optout.link(@user@, @aliases@, 'acme'), optout.forget(@user@, 'acme', true)
@end@$t$),
(4, $t$BEGIN
SELECT optout.opt_out(@user@, 'acme')
SELECT optout.link(@user@, @aliases@, 'acme')
SELECT optout.opt_in(@user@, 'acme')
PREPARE TRANSACTION '@unique@'
COMMIT PREPARED '@unique@'
ROLLBACK PREPARED '@unique@'$t$),
(4, $t$SELECT optout.link(array_agg(user_id ORDER BY user_id), array_agg('d' || user_id ORDER BY user_id), organization) FROM fuzz.member WHERE random() < 0.1 GROUP BY organization
SELECT optout.link(ARRAY[@user@, @user@, @user@], ARRAY['dnew', @text@, 'enew'], 'acme')$t$),
(3, $t$DELETE FROM optout.opt_out_period WHERE alias_of IS NULL AND opted_in_at IS NOT NULL AND random() < 0.1$t$),
(4, $t$CREATE TEMPORARY TABLE t (LIKE fuzz.event_doc INCLUDING DEFAULTS)
SELECT optout.guard('pg_temp.t', @source@, organization => 'organization', payload => 'doc')
SELECT optout.guard('pg_temp.t', @source@, occurred_at => 'at', payload => 'docb', time_zone => 'UTC', fixed_organization => 'acme')
INSERT INTO t (user_id, device, doc, docb) SELECT m.user_id, @text@, d.doc::json, fuzz.as_jsonb(d.doc) FROM fuzz.member m JOIN fuzz.document d ON d.n % 50 = @n@ ORDER BY random() LIMIT 100
ALTER TABLE t RENAME doc TO payload
ALTER TABLE t ALTER docb TYPE json USING docb::json
UPDATE t SET payload = @doc@::json WHERE random() < 0.3
ALTER TABLE t DROP docb CASCADE
INSERT INTO t (user_id, device, payload) SELECT m.user_id, NULL, @doc@::json FROM fuzz.member m LIMIT @n@
DROP TABLE t$t$),

-- where errors are caught
(8, $t$DO $do$ BEGIN PERFORM @call@; EXCEPTION WHEN OTHERS THEN RAISE WARNING USING ERRCODE = SQLSTATE, MESSAGE = 'caught: ' || SQLERRM; PERFORM @call@; END $do$$t$),
(8, $t$DO $do$ BEGIN FOR turn IN 1 .. 5 LOOP BEGIN PERFORM @call@; PERFORM @call@; IF turn % 2 = 0 THEN RAISE SQLSTATE 'FUZZZ'; END IF; EXCEPTION WHEN OTHERS THEN RAISE WARNING USING ERRCODE = SQLSTATE, MESSAGE = 'caught: ' || SQLERRM; END; PERFORM count(*) FROM fuzz.row r WHERE NOT optout.accepts(r.user_id, NULLIF(r.organization, '*'), r.at); END LOOP; END $do$$t$),
(5, $t$DO $do$ BEGIN FOR turn IN 1 .. 3 LOOP PERFORM @call@; COMMIT; CALL @procedure@; PERFORM @call@; IF turn % 2 = 0 THEN ROLLBACK; END IF; END LOOP; END $do$$t$),
(5, $t$DO $do$ DECLARE t text; BEGIN FOR t IN SELECT @rowtext@ FROM fuzz.row r LIMIT 20 LOOP BEGIN PERFORM @call@; EXCEPTION WHEN OTHERS THEN NULL; END; IF random() < 0.1 THEN COMMIT; END IF; END LOOP; END $do$$t$),
(12, $t$SELECT fuzz.try(@literal@)$t$),
(12, $t$BEGIN ISOLATION LEVEL REPEATABLE READ
SELECT fuzz.try(@literal@)
SELECT fuzz.try(@literal@)
@end@$t$),

-- transactions
(6, $t$BEGIN
SELECT @call@
SAVEPOINT a
SELECT @call@
SAVEPOINT b
SELECT @call@
ROLLBACK TO a
INSERT INTO fuzz.event (user_id, organization) SELECT user_id, 'acme' FROM fuzz.member LIMIT @n@
RELEASE a
SELECT @call@
@end@$t$),
(6, $t$BEGIN
SAVEPOINT a
INSERT INTO fuzz.event (user_id, organization) SELECT user_id, organization FROM fuzz.member ORDER BY random() LIMIT @n@
SAVEPOINT b
INSERT INTO fuzz.event (user_id, organization) SELECT user_id, organization FROM fuzz.member ORDER BY random() LIMIT @n@
RELEASE b
SELECT @call@
ROLLBACK TO b
ROLLBACK TO a
SELECT @call@
@end@$t$),
(6, $t$BEGIN ISOLATION LEVEL @isolation@
SELECT @call@
SELECT count(*) FROM fuzz.row r WHERE @rowbool@
SELECT @call@
@end@$t$),
(4, $t$BEGIN READ ONLY
SAVEPOINT a
SELECT @call@
ROLLBACK TO a
SELECT @call@
COMMIT$t$),
(5, $t$BEGIN
SELECT @call@
INSERT INTO fuzz.event (user_id, organization) SELECT user_id, organization FROM fuzz.member ORDER BY random() LIMIT @n@
PREPARE TRANSACTION '@unique@'
COMMIT PREPARED '@unique@'$t$),
(4, $t$BEGIN
SELECT @call@
SAVEPOINT a
SELECT count(*) FROM fuzz.row r WHERE @rowbool@ AND optout.accepts(user_id)
PREPARE TRANSACTION '@unique@'
ROLLBACK PREPARED '@unique@'$t$),
(5, $t$BEGIN
DECLARE c CURSOR WITH HOLD FOR SELECT @rowtext@ FROM fuzz.row r WHERE @rowbool@ LIMIT 40
FETCH @n@ FROM c
SELECT @call@
@end@
FETCH ALL FROM c
CLOSE c$t$),
(4, $t$BEGIN
DECLARE c SCROLL CURSOR FOR SELECT r.n, @rowtext@ FROM fuzz.row r LIMIT 40
FETCH @n@ FROM c
SAVEPOINT a
FETCH BACKWARD @n@ FROM c
MOVE LAST IN c
ROLLBACK TO a
FETCH FIRST FROM c
@end@$t$),
(4, $t$BEGIN
DECLARE c CURSOR FOR SELECT * FROM fuzz.event FOR UPDATE
FETCH 1 FROM c
UPDATE fuzz.event SET user_id = @user@, organization = @text@ WHERE CURRENT OF c
DELETE FROM fuzz.event WHERE CURRENT OF c
@end@$t$),
(4, $t$PREPARE p AS SELECT @call@, @rowtext@ FROM fuzz.row r WHERE @rowbool@ LIMIT 20
EXECUTE p
EXECUTE p
SELECT @call@
SET plan_cache_mode = force_generic_plan
EXECUTE p
RESET plan_cache_mode
DEALLOCATE p$t$),
(4, $t$PREPARE p (text, text, timestamptz) AS SELECT optout.accepts($1, $2, $3), optout.is_opted_out($1, $2, $3), count(*) FROM fuzz.row r WHERE optout.accepts($1, r.organization, $3) AND optout.is_opted_out(r.user_id, $2)
EXECUTE p (@user@, @organization@, @time@)
SET plan_cache_mode = force_generic_plan
EXECUTE p (@user@, @organization@, @time@)
RESET plan_cache_mode
DEALLOCATE p$t$),
(3, $t$BEGIN
SELECT optout.guard('fuzz.event_plain', organization => 'organization')
INSERT INTO fuzz.event_plain (user_id, organization) SELECT user_id, organization FROM fuzz.member ORDER BY random() LIMIT @n@
COPY fuzz.event_plain (user_id, organization, at) FROM '@dir@/events'
SELECT optout.unguard('fuzz.event_plain')
@end@$t$),

-- settings and roles
(5, $t$SELECT set_config('optout.organization', @organization@, false)
SELECT @call@
INSERT INTO fuzz.event_unlogged (user_id) SELECT user_id FROM fuzz.row r WHERE r.n % 12 = @n@
RESET optout.organization$t$),
(3, $t$BEGIN
SELECT set_config('optout.organization', @organization@, true)
SELECT @call@
SAVEPOINT a
SELECT set_config('optout.organization', @organization@, true)
SELECT @call@
ROLLBACK TO a
SELECT @call@
@end@
RESET optout.organization$t$),
(3, $t$SET optout.filter = off
SELECT @call@
SELECT count(*) FROM fuzz.row r WHERE @rowbool@
RESET optout.filter$t$),
(4, $t$SET ROLE fuzz_member
SELECT @call@
SELECT count(*) FROM optout.user_list WHERE @bool@
RESET ROLE$t$),
(3, $t$SET SESSION AUTHORIZATION fuzz_stranger
SELECT @call@
SELECT count(*) FROM fuzz.row r WHERE @rowbool@
RESET SESSION AUTHORIZATION$t$),
(3, $t$SET session_replication_role = replica
SELECT @call@
INSERT INTO fuzz.event (user_id, organization) SELECT user_id, organization FROM fuzz.member ORDER BY random() LIMIT @n@
RESET session_replication_role$t$),

-- parallel queries
(5, $t$SELECT set_config(name, 'on', false) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query')
SELECT count(*), min(optout.is_opted_out(r.user_id, NULLIF(r.organization, '*'), r.at)::int) FROM fuzz.row r WHERE @rowbool@
SELECT @call@
SELECT count(*) FROM fuzz.row r WHERE optout.is_opted_out(@user@, r.organization, r.at)
SELECT set_config(name, 'off', false) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query')$t$),

-- views
(5, $t$CREATE TEMPORARY VIEW v WITH (security_barrier) AS SELECT r.*, @rowtext@ AS t FROM fuzz.row r WHERE @rowbool@
SELECT count(*) FROM v WHERE v.t <> '' AND optout.accepts(v.user_id, 'acme') AND @bool@
DROP VIEW v$t$),
(5, $t$SELECT count(*) FROM optout.user_list WHERE @bool@ AND optout.accepts(user_id, organization) AND NOT optout.is_opted_out(user_id, organization, signed_in_at)$t$),
(3, $t$SELECT count(*) FROM optout.opt_out_list l LEFT JOIN optout.opt_out_history h USING (organization, user_id) LEFT JOIN optout.discards d USING (organization), optout.status s WHERE @bool@
SELECT count(*) FROM optout.guarded g, optout.readable_organization o WHERE @bool@$t$),
(3, $t$CREATE TEMPORARY VIEW v AS SELECT * FROM fuzz.event_plain WHERE optout.accepts(user_id, organization) AND @eventbool@ WITH LOCAL CHECK OPTION
INSERT INTO v SELECT user_id, organization FROM fuzz.member ORDER BY random() LIMIT @n@
UPDATE v SET user_id = @user@ WHERE random() < 0.1
DROP VIEW v$t$),
(3, $t$CREATE MATERIALIZED VIEW fuzz.@unique@ AS SELECT @rowtext@ AS t FROM fuzz.row r WHERE r.n % 12 = @n@
REFRESH MATERIALIZED VIEW fuzz.@unique@
DROP MATERIALIZED VIEW fuzz.@unique@$t$),
(3, $t$CREATE TEMPORARY TABLE t AS SELECT @rowtext@ AS t FROM fuzz.row r WHERE @rowbool@
ALTER TABLE t ADD d text DEFAULT @text@, ADD CHECK (@bool@)
INSERT INTO t DEFAULT VALUES
CREATE INDEX ON t (@text@)
CREATE INDEX ON t (t) WHERE @bool@
ALTER TABLE t ADD g text GENERATED ALWAYS AS (@text@) STORED
ALTER TABLE t ALTER t TYPE text USING @text@
DROP TABLE t$t$),

-- claimed to be immutable and parallel safe, so that it may be anywhere
(6, $t$CREATE TEMPORARY TABLE t AS SELECT user_id, organization, at, n FROM fuzz.row r WHERE r.n % 12 = @n@
CREATE FUNCTION pg_temp.wrapped(user_id text, organization text, at timestamptz, n integer) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $f$ BEGIN RETURN left(@wrappedtext@, 100); END $f$
CREATE INDEX ON t (pg_temp.wrapped(user_id, organization, at, n))
CREATE INDEX ON t (user_id) WHERE pg_temp.wrapped(user_id, organization, at, n) = 'true'
INSERT INTO t SELECT user_id, organization FROM fuzz.member ORDER BY random() LIMIT @n@
ANALYZE t
SELECT count(*) FROM t WHERE pg_temp.wrapped(user_id, organization, at, n) = 'true'
ALTER TABLE t ADD CHECK (pg_temp.wrapped(user_id, organization, at, n) <> '')
ALTER TABLE t ADD g text GENERATED ALWAYS AS (pg_temp.wrapped(user_id, organization, at, n)) STORED
UPDATE t SET user_id = @user@ WHERE random() < 0.2
REINDEX TABLE t
SELECT pg_temp.wrapped('u1', 'acme', NULL, 1), pg_temp.wrapped(NULL, NULL, NULL, NULL)
DROP TABLE t CASCADE
DROP FUNCTION pg_temp.wrapped$t$),
(4, $t$CREATE FUNCTION fuzz.@unique@(user_id text, organization text, at timestamptz, n integer) RETURNS text LANGUAGE plpgsql PARALLEL SAFE AS $f$ BEGIN RETURN left(@wrappedtext@, 100); EXCEPTION WHEN SQLSTATE '22023' OR invalid_transaction_state THEN RETURN SQLSTATE; END $f$
SELECT set_config(name, 'on', false) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query')
SELECT count(fuzz.@unique@(user_id, organization, at, n)) FROM fuzz.row
SELECT set_config(name, 'off', false) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query')
DROP FUNCTION fuzz.@unique@$t$),
(4, $t$CREATE FUNCTION pg_temp.wrapped(user_id text, organization text, at timestamptz, n integer) RETURNS text LANGUAGE sql SECURITY DEFINER SET search_path = '' AS $f$ SELECT @wrappedtext@ $f$
SELECT pg_temp.wrapped(r.user_id, r.organization, r.at, r.n) FROM fuzz.row r LIMIT 30
DROP FUNCTION pg_temp.wrapped$t$),
(3, $t$CREATE DOMAIN pg_temp.d AS text CHECK (optout.accepts(VALUE, @organization@) IS NOT NULL) CHECK (@bool@)
SELECT r.user_id::pg_temp.d FROM fuzz.row r LIMIT @n@
DROP DOMAIN pg_temp.d$t$),

-- as triggers
(10, $t$CREATE TEMPORARY TABLE t (LIKE fuzz.event INCLUDING GENERATED)
CREATE TRIGGER a @when@ ON t FOR EACH @each@ EXECUTE FUNCTION @trigger@(@what@)
CREATE TRIGGER b @when@ ON t FOR EACH @each@ WHEN (@bool@) EXECUTE FUNCTION @trigger@(@what@)
INSERT INTO t (user_id, organization, occurred_at, place, raw, big) SELECT r.user_id, r.organization, r.at, '(1,2)', 'x', r.big FROM fuzz.row r WHERE r.n % 12 = @n@
INSERT INTO t (user_id, organization) VALUES (@user@, @organization@), (NULL, NULL)
INSERT INTO t (n) VALUES (1)
UPDATE t SET user_id = @user@, place = '(3,4)', raw = 'y', big = big + 1, n = n + 1, organization = @organization@, occurred_at = @time@
DELETE FROM t WHERE random() < 0.5
TRUNCATE t
DROP TABLE t$t$),
(5, $t$CREATE TEMPORARY TABLE t (n integer, user_id integer, x text, at timestamptz)
CREATE CONSTRAINT TRIGGER a AFTER INSERT OR UPDATE OR DELETE ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION @trigger@(@what@)
CREATE TRIGGER b AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION @trigger@(@what@)
SELECT optout.guard('pg_temp.t')
INSERT INTO t SELECT n, n, n FROM generate_series(1, 5) n
UPDATE t SET x = @user@, user_id = @n@
DELETE FROM t
DROP TABLE t$t$),
(5, $t$CREATE TEMPORARY TABLE t (LIKE fuzz.event_plain)
SELECT optout.guard('pg_temp.t', organization => 'organization', occurred_at => 'at')
CREATE FUNCTION pg_temp.f() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN PERFORM @call@; RETURN NEW; END $f$
CREATE TRIGGER a @when@ ON t FOR EACH @each@ EXECUTE FUNCTION pg_temp.f()
CREATE CONSTRAINT TRIGGER z AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pg_temp.f()
INSERT INTO t SELECT user_id, organization FROM fuzz.member ORDER BY random() LIMIT @n@
COPY t (user_id, organization, at) FROM '@dir@/events'
UPDATE t SET user_id = @user@
DROP TABLE t
DROP FUNCTION pg_temp.f$t$),
(3, $t$CREATE TEMPORARY TABLE t (LIKE fuzz.event_plain)
CREATE POLICY a ON t USING (optout.accepts(user_id, organization)) WITH CHECK (@bool@)
ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY
SELECT optout.guard('pg_temp.t')
INSERT INTO t SELECT user_id, organization FROM fuzz.member ORDER BY random() LIMIT @n@
SELECT count(*) FROM t
DROP TABLE t$t$),

-- what is stored
(4, $t$SELECT optout.opt_out(ARRAY['u1', 'u2', '3'], 'acme')
CALL optout.purge(ARRAY['u1', 'u2', '3'], 'acme')
CALL optout.purge(@aliases@, @organization@, @bool@)
SELECT * FROM optout.stored_events(@aliases@, @organization@)$t$),

-- tables that come under a rule
(5, $t$SELECT optout.guard_schema('fuzz_rule', @source@, 'organization', 'at', 'doc', 'UTC')
CREATE TABLE fuzz_rule.@unique@ (LIKE fuzz.event_doc)
INSERT INTO fuzz_rule.@unique@ (user_id, organization, at) SELECT user_id, organization, @time@ FROM fuzz.member ORDER BY random() LIMIT @n@
ALTER TABLE fuzz_rule.@unique@ RENAME user_id TO person
ALTER TABLE fuzz_rule.@unique@ ADD user_id bigint, ALTER doc TYPE jsonb USING doc::jsonb
SELECT optout.json_id(@doc@::json, '$.user.id'), @call@
INSERT INTO fuzz_rule.@unique@ (user_id, device, doc) SELECT r.big, r.user_id, fuzz.as_jsonb(@doc@) FROM fuzz.row r WHERE r.n % 12 = @n@
DROP TABLE fuzz_rule.@unique@$t$),
(3, $t$BEGIN
SELECT optout.guard_schema('fuzz_rule')
CREATE TABLE fuzz_rule.@unique@ AS SELECT user_id, n FROM fuzz.row r WHERE @rowbool@
CREATE TABLE fuzz_rule.@unique@_part PARTITION OF fuzz.event_part FOR VALUES IN (3)
SAVEPOINT a
ALTER TABLE fuzz_rule.@unique@ SET SCHEMA fuzz
SELECT optout.unguard_schema('fuzz_rule'), @call@
ROLLBACK TO a
DROP TABLE fuzz_rule.@unique@
ROLLBACK$t$),

-- tables that change under their guard
(5, $t$CREATE TEMPORARY TABLE t (LIKE fuzz.event_plain)
SELECT optout.guard('pg_temp.t', organization => 'organization', occurred_at => 'at')
ALTER TABLE t RENAME user_id TO person
INSERT INTO t SELECT user_id, organization, @time@ FROM fuzz.member ORDER BY random() LIMIT @n@
ALTER TABLE t ALTER n TYPE text, ADD extra text DEFAULT @text@
ALTER TABLE t ALTER person TYPE varchar
ALTER TABLE t DROP at
INSERT INTO t SELECT user_id, organization FROM fuzz.member ORDER BY random() LIMIT @n@ RETURNING @text@
ALTER TABLE t DROP organization CASCADE
INSERT INTO t SELECT user_id FROM fuzz.member ORDER BY random() LIMIT @n@
SELECT count(*) FROM optout.guarded WHERE @bool@
DROP TABLE t$t$),
(5, $t$CREATE TEMPORARY TABLE t (LIKE fuzz.event_plain) PARTITION BY LIST (n)
CREATE TEMPORARY TABLE t1 (n integer, gone text, at timestamptz, organization text, user_id text)
SELECT optout.guard('pg_temp.t', organization => 'organization')
SELECT optout.guard('pg_temp.t1', @guard@)
ALTER TABLE t1 DROP gone
ALTER TABLE t ATTACH PARTITION t1 FOR VALUES IN (1)
SELECT optout.unguard('pg_temp.t1')
ALTER TABLE t ATTACH PARTITION t1 FOR VALUES IN (1)
CREATE TEMPORARY TABLE t2 PARTITION OF t DEFAULT
INSERT INTO t SELECT user_id, organization, @time@, length(user_id) % 3 FROM fuzz.member ORDER BY random() LIMIT @n@
COPY t (user_id, organization, at) FROM '@dir@/events' WHERE @bool@
UPDATE t SET n = 3 - n, user_id = @user@ WHERE random() < 0.5
SELECT optout.guard('pg_temp.t1', @guard@), optout.guard('pg_temp.t', @guard@)
ALTER TABLE t DETACH PARTITION t1
INSERT INTO t1 (user_id, n) SELECT user_id, n FROM fuzz.row r WHERE r.n % 12 = @n@
SELECT optout.unguard('pg_temp.t'), @call@
DROP TABLE t, t1$t$),
(4, $t$CREATE TEMPORARY TABLE k (id serial, user_id text UNIQUE)
CREATE TEMPORARY TABLE t (user_id text REFERENCES k (user_id) ON UPDATE CASCADE ON DELETE SET NULL DEFERRABLE, n integer)
SELECT optout.guard('pg_temp.t'), optout.guard('pg_temp.k', @guard@)
INSERT INTO k (user_id) SELECT user_id FROM fuzz.member GROUP BY user_id ORDER BY random() LIMIT 10
INSERT INTO t SELECT user_id, 1 FROM k
UPDATE k SET user_id = @user@ WHERE id = 1
UPDATE k SET user_id = 'v' || id WHERE @bool@
DELETE FROM k WHERE random() < 0.3
DROP TABLE t, k$t$),
(4, $t$CREATE FUNCTION pg_temp.f(depth integer) RETURNS void LANGUAGE plpgsql AS $f$ BEGIN PERFORM @call@; INSERT INTO fuzz.event (user_id, organization) SELECT user_id, organization FROM fuzz.member ORDER BY random() LIMIT 3; IF depth > 0 THEN PERFORM pg_temp.f(depth - 1); END IF; IF random() < 0.3 THEN RAISE SQLSTATE 'FUZZZ'; END IF; EXCEPTION WHEN OTHERS THEN RAISE WARNING USING ERRCODE = SQLSTATE, MESSAGE = 'caught: ' || SQLERRM; END $f$
SELECT pg_temp.f(8)
BEGIN
SELECT pg_temp.f(70)
@end@
DROP FUNCTION pg_temp.f$t$),

-- maintenance
(2, $t$ANALYZE optout.opt_out_period, optout.product_user, optout.discard_ledger$t$),
(2, $t$VACUUM optout.opt_out_period, optout.discard_ledger$t$),
(1, $t$VACUUM FULL optout.opt_out_period$t$),
(1, $t$CLUSTER optout.opt_out_period USING opt_out_period_pkey$t$),
(1, $t$REINDEX TABLE optout.opt_out_period$t$),
(1, $t$REINDEX TABLE optout.authority$t$);

-- statements, in the order they are to be run in; @dir@ is where the file of
-- events is
CREATE FUNCTION fuzz.statements(n integer, dir text) RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
	template text;
	line text;
	made integer := 0;
	unique_name text;
BEGIN
	WHILE made < n LOOP
		-- likely in proportion to its weight
		SELECT t.statements INTO template FROM fuzz.template t ORDER BY -ln(1 - random()) / t.weight LIMIT 1;
		unique_name := fuzz.token('unique');
		template := replace(replace(template, '@unique@', unique_name), '@dir@', dir);
		FOREACH line IN ARRAY string_to_array(template, E'\n') LOOP
			SELECT string_agg(CASE WHEN part % 2 = 1 THEN s ELSE fuzz.token(s) END, '' ORDER BY part) INTO line
			  FROM string_to_table(line, '@') WITH ORDINALITY AS l (s, part);
			RETURN NEXT line;
			made := made + 1;
		END LOOP;
	END LOOP;
END $$;

----------------------------------------------------------------------
-- Errors that change nothing
----------------------------------------------------------------------

-- All that the extension keeps.
CREATE FUNCTION fuzz.digest() RETURNS text
LANGUAGE sql SECURITY DEFINER AS $$
	SELECT md5(concat(
		(SELECT sum(hashtextextended(u::text, 0)) FROM optout.product_user u),
		(SELECT sum(hashtextextended(p::text, 0)) FROM optout.opt_out_period p),
		(SELECT sum(hashtextextended(a::text, 0)) FROM optout.user_alias a),
		(SELECT sum(hashtextextended(a::text, 0)) FROM optout.authority a),
		(SELECT sum(hashtextextended(l::text, 0)) FROM optout.discard_ledger l),
		(SELECT sum(hashtextextended(format('%s %s', r.oid, r.proacl), 0)) FROM fuzz.routine r),
		(SELECT sum(hashtextextended(format('%s %s', t.oid, t.tgargs), 0)) FROM pg_trigger t
		  WHERE tgfoid = 'optout.discard_opted_out'::regproc)))
$$;

-- What becomes of a statement.  One that fails must leave nothing behind; what
-- others do does not count, in a transaction that does not see it.
CREATE FUNCTION fuzz.try(statement text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	before text;
	role text := current_user;
	alone boolean := current_setting('transaction_isolation') <> 'read committed';
	result text;
BEGIN
	IF alone THEN
		before := fuzz.digest();
	END IF;
	BEGIN
		EXECUTE statement INTO result;
	EXCEPTION WHEN OTHERS THEN
		result := SQLSTATE;
		RAISE WARNING USING ERRCODE = SQLSTATE, MESSAGE = 'caught: ' || SQLERRM;
	END;
	IF alone AND result ~ '^[0-9A-Z]{5}$' AND fuzz.digest() <> before THEN
		RAISE WARNING 'fuzz: a statement that failed has changed something: %', statement;
	END IF;
	IF current_user <> role THEN
		RAISE WARNING 'fuzz: a statement has changed the role: %', statement;
	END IF;
	RETURN result;
END $$;

GRANT SELECT ON ALL TABLES IN SCHEMA fuzz TO PUBLIC;
