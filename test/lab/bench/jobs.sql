--
-- jobs.sql: what the benchmark measures, and the table that it makes of it.  To
-- add a row: a comparison, and the jobs that it compares.
--
-- The variables are those of test/lab/bench/run, in lower case.
--
-- Each phase has a list and events of its own, and a server that has just been
-- started with this optout.filter_memory.
CREATE TABLE phase (nr serial, name text PRIMARY KEY, filter_memory text NOT NULL DEFAULT '16MB', set_up text NOT NULL);

CREATE TABLE job (
	nr serial PRIMARY KEY,
	phase text NOT NULL REFERENCES phase,
	name text NOT NULL,
	mem text NOT NULL DEFAULT 'default',	-- work_mem: default or large
	rows bigint NOT NULL,					-- how many rows the statement processes
	expect bigint,							-- what it has to return, or to store
	restart text,							-- run this, then restart the server
	prepare text NOT NULL DEFAULT '',		-- what else comes before
	statement text,
	user_id text,							-- or whose rows to store one by one
	beside int NOT NULL DEFAULT 0,			-- so many transactions a second meanwhile
	beside_what text NOT NULL DEFAULT 'opt-outs',	-- or plain INSERTs
	UNIQUE (phase, name, mem)
);

CREATE TABLE sample (job int REFERENCES job, run int, cpu bigint, elapsed bigint, wal bigint, opt_outs bigint);

-- A row of the table: a job, and the one to compare it with if any.  The target
-- is "<= figure" for us with the default work_mem, ">= figure" for peers with the
-- large one, which lets a hash join do with one batch.
CREATE TABLE comparison (
	nr serial PRIMARY KEY,
	what text NOT NULL,
	phase text NOT NULL REFERENCES phase,
	ours text NOT NULL,
	theirs text,
	unit text NOT NULL,						-- ratio, of CPU or of elapsed time; or ours (less theirs) a row in ns, us, bytes of WAL
	target text
);

INSERT INTO phase (name, set_up) VALUES
	('thousand', format($$CALL make_list('default', %s, 'text'); CALL make_events('event', %s, 1, %1$s)$$, :short_list, :events)),
	('million', format($$CALL make_list('default', %s, 'text'); CALL make_events('event', %s, 1, %1$s);
		CALL make_events('event_few', %2$s / 10, 1, %1$s); CALL make_events('event_30', %2$s, 30, %1$s);
		ALTER TABLE event ENABLE ROW LEVEL SECURITY; GRANT SELECT ON event TO bench_reader;
		CREATE POLICY not_opted_out ON event FOR SELECT TO bench_reader USING (NOT EXISTS (
			SELECT FROM optout.opt_out_period p
			 WHERE p.organization = 'default' AND p.user_id = event.user_id AND p.opted_in_at IS NULL))$$, :list, :events)),
	('named', format($$CALL make_list('acme', %s, 'text'); CALL make_events('event', %s, 1, %1$s)$$, :list, :events)),
	('bigint', format($$CALL make_list('default', %s, 'bigint'); CALL make_events('event', %s, 1, %1$s, 'bigint')$$, :list, :events)),
	('uuid', format($$CALL make_list('default', %s, 'uuid'); CALL make_events('event', %s, 1, %1$s, 'uuid')$$, :list, :events)),
	-- the file "kept" is for those who discard nothing, so that all store the same rows
	('ingest', format($$CALL make_list('default', %s, 'text'); CALL make_events('event', %s, 1, %1$s);
		INSERT INTO optout.product_user (user_id) SELECT 'busy user ' || n FROM generate_series(1, 100000) AS n;
		COPY (SELECT * FROM event ORDER BY event_id) TO '%3$s/offered';
		COPY (SELECT *, substr(md5(user_id), 1, 24) FROM event WHERE NOT listed(event_id, 1) ORDER BY event_id) TO '%3$s/two';
		COPY (SELECT event_id, jsonb_build_object('user', jsonb_build_object('id', user_id), 'event', event)
		        FROM event WHERE NOT listed(event_id, 1) ORDER BY event_id) TO '%3$s/json';
		COPY (SELECT * FROM event WHERE NOT listed(event_id, 1) ORDER BY event_id) TO '%3$s/kept'$$, :list, :copied, :'dir')),
	('bulk', format($$CALL make_list('default', 1, 'text');
		INSERT INTO optout.product_user (user_id) SELECT user_id(n, true, 'text') FROM generate_series(1, %s) AS n;
		CREATE TABLE bulk AS SELECT array_agg(user_id ORDER BY user_id) AS user_ids FROM optout.product_user$$, :list)),
	('purge', format($$CALL make_list('default', %s, 'text'); CALL make_stored(%s, %1$s, false)$$, :short_list, :events)),
	('purge by index', format($$CALL make_list('default', %s, 'text'); CALL make_stored(%s, %1$s, true)$$, :short_list, :events)),
	('large', format($$CALL make_list('default', %s, 'text'); CALL make_events('event', %s, 0, %1$s);
		CALL make_events('event_30', %2$s, 30, %1$s)$$, :large_list, :events)),
	('larger', '');
UPDATE phase SET filter_memory = '32MB' WHERE name = 'larger';

\set anti_join 'NOT EXISTS (SELECT FROM optout.opt_out_period p WHERE p.organization = \'default\' AND p.user_id = e.user_id AND p.opted_in_at IS NULL)'
\set reset 'TRUNCATE optout.opt_out_period, plain_period'
SELECT kept(:events, 1) AS kept, kept(:events, 30) AS kept_30, kept(:events / 10, 1) AS kept_few, kept(:copied, 1) AS kept_copied \gset

-- Adding the keys, from the first question on.
INSERT INTO job (phase, name, rows, restart, statement) VALUES
	('million', 'keys', :list, '', 'CALL until_ready()'),
	('large', 'keys', :large_list, '', 'CALL until_ready()'),
	('larger', 'keys', :large_list, '', 'CALL until_ready()');

-- Scans.  All is in memory when they begin; where the first session after a
-- start is measured, it comes before those that profit from what it found out.
INSERT INTO job (phase, name, mem, rows, expect, restart, prepare, statement)
SELECT phase, name, mem, events, expect, restart,
       format('CALL until_ready(); SET work_mem = %s; SELECT count(*) FROM %I; SELECT count(*) FROM optout.opt_out_period; %s;',
              CASE mem WHEN 'large' THEN quote_literal(:'work_mem') ELSE 'DEFAULT' END, relation, prepare),
       format('SELECT count(*) AS got FROM %I e WHERE %s', relation, condition)
  FROM (VALUES
	('million', 'first', 'event_30', :events, :kept_30, '',
		'SET enable_seqscan = off; SELECT count(user_id) FROM optout.opt_out_period; RESET enable_seqscan', 'optout.accepts(user_id)', '{large,default}'::text[]),
	('million', 'later', 'event_30', :events, :kept_30, NULL, '', 'optout.accepts(user_id)', '{default,large}'),
	('million', 'anti-join 30', 'event_30', :events, :kept_30, NULL,
		'SELECT require_plan(''Hash .*Anti Join'', $$SELECT FROM event_30 e WHERE ' || :'anti_join' || '$$)', :'anti_join', '{default,large}'),
	('million', 'no-op', 'event', :events, :events, NULL, '', 'no_op(user_id)', '{default,large}'),
	('million', 'floor', 'event', :events, :events, NULL, format('SELECT floor_memory(%s)', 2 * :list), 'floor(user_id)', '{default,large}'),
	('million', 'accepts', 'event', :events, :kept, NULL, '', 'optout.accepts(user_id)', '{default,large}'),
	('million', 'no-op time', 'event', :events, :events, NULL, '', 'no_op(user_id, NULL, occurred_at)', '{default,large}'),
	('million', 'accepts time', 'event', :events, :kept, NULL, '', 'optout.accepts(user_id, NULL, occurred_at)', '{default,large}'),
	('million', 'anti-join', 'event', :events, :kept, NULL,
		'SELECT require_plan(''Hash .*Anti Join'', $$SELECT FROM event e WHERE ' || :'anti_join' || '$$)', :'anti_join', '{default,large}'),
	('million', 'policy', 'event', :events, :kept, NULL, 'SET ROLE bench_reader', 'true', '{large}'),
	('million', 'SQL function', 'event_few', :events / 10, :kept_few, NULL, '', 'sql_accepts(user_id)', '{large}'),
	('thousand', 'no-op', 'event', :events, :events, NULL, '', 'no_op(user_id)', '{default,large}'),
	('thousand', 'floor', 'event', :events, :events, NULL, 'SELECT floor_memory(262144)', 'floor(user_id)', '{default,large}'),
	('thousand', 'accepts', 'event', :events, :kept, NULL, '', 'optout.accepts(user_id)', '{default,large}'),
	('named', 'no-op', 'event', :events, :events, NULL, '', 'no_op(user_id, ''acme'')', '{default,large}'),
	('named', 'accepts', 'event', :events, :kept, NULL, '', 'optout.accepts(user_id, ''acme'')', '{default,large}'),
	('bigint', 'no-op', 'event', :events, :events, NULL, '', 'no_op(user_id)', '{default,large}'),
	('bigint', 'floor', 'event', :events, :events, NULL, format('SELECT floor_memory(%s)', 2 * :list), 'floor(user_id)', '{default,large}'),
	('bigint', 'accepts', 'event', :events, :kept, NULL, '', 'optout.accepts(user_id)', '{default,large}'),
	('uuid', 'no-op', 'event', :events, :events, NULL, '', 'no_op(user_id)', '{default,large}'),
	('uuid', 'floor', 'event', :events, :events, NULL, format('SELECT floor_memory(%s)', 2 * :list), 'floor(user_id)', '{default,large}'),
	('uuid', 'accepts', 'event', :events, :kept, NULL, '', 'optout.accepts(user_id)', '{default,large}'),
	-- the keys were added after a start
	('large', 'first', 'event_30', :events, :kept_30, NULL, '', 'optout.accepts(user_id)', '{default}'),
	('large', 'later', 'event_30', :events, :kept_30, NULL, '', 'optout.accepts(user_id)', '{default}'),
	('large', 'no-op', 'event', :events, :events, NULL, '', 'no_op(user_id)', '{default}'),
	('large', 'floor', 'event', :events, :events, NULL, format('SELECT floor_memory(%s)', 2 * :large_list), 'floor(user_id)', '{default}'),
	('large', 'accepts', 'event', :events, :events, NULL, '', 'optout.accepts(user_id)', '{default}'),
	('larger', 'accepts', 'event', :events, :events, NULL, '', 'optout.accepts(user_id)', '{default}')
  ) AS scan (phase, name, relation, events, expect, restart, prepare, condition, mems), unnest(mems) AS mem;

-- COPY, into an empty table
INSERT INTO job (phase, name, rows, expect, prepare, statement, beside)
SELECT 'ingest', name, :copied, :kept_copied,
       format('TRUNCATE %I; CHECKPOINT; CALL until_ready(); SELECT floor_memory(%s);', relation, 2 * :list),
       format('COPY %I FROM ''%s/%s'' %s', relation, :'dir', file, condition), beside
  FROM (VALUES
	('no-op', 'logged', 'kept', 'WHERE no_op(user_id)', 0),
	('floor', 'logged', 'kept', 'WHERE floor(user_id)', 0),
	('accepts', 'logged', 'offered', 'WHERE optout.accepts(user_id)', 0),
	('no-op trigger', 'logged_no_op', 'kept', '', 0),
	('floor trigger', 'logged_floor', 'kept', '', 0),
	('guard', 'logged_guard', 'offered', '', 0),
	('PL/pgSQL', 'logged_plpgsql', 'offered', '', 0),
	('one column', 'logged_one', 'two', '', 0),
	('two columns', 'logged_two', 'two', '', 0),
	('path', 'logged_path', 'json', '', 0),
	('jsonb_path_exists', 'logged_json', 'json', 'WHERE jsonb_path_exists(payload, ''$.user.id'')', 0),
	('accepts beside', 'logged', 'offered', 'WHERE optout.accepts(user_id)', 100)
  ) AS copy (name, relation, file, condition, beside);

-- Single rows, a transaction each.  Where the disk is waited for, this counts, too.
-- Any other transactions cost something, if only room in the processor's caches; so
-- opt-outs are compared with plain INSERTs.
INSERT INTO job (phase, name, rows, expect, prepare, user_id, beside, beside_what)
SELECT 'ingest', name, n, CASE WHEN listed THEN 0 ELSE n END,
       format('TRUNCATE single; ALTER SYSTEM SET fsync = %s; SELECT pg_reload_conf(); CHECKPOINT;', fsync),
       user_id(1, listed, 'text'), beside, beside_what
  FROM (VALUES
	('single kept', :singles, false, 'off', 0, ''),
	('single discarded', :singles, true, 'off', 0, ''),
	('single kept, fsync', :singles / 10, false, 'on', 0, ''),
	('single discarded, fsync', :singles / 10, true, 'on', 0, ''),
	('single kept beside', :singles, false, 'off', 1000, 'opt-outs'),
	('single kept beside others', :singles, false, 'off', 1000, 'INSERTs')
  ) AS single (name, n, listed, fsync, beside, beside_what);

-- The array is in the order of ids, which makes the plain INSERT fastest: it
-- appends to the indexes.
INSERT INTO job (phase, name, rows, expect, restart, prepare, statement)
SELECT 'bulk', name, :list, :list, :'reset',
       'CHECKPOINT; SELECT count(*) FROM optout.product_user; SELECT cardinality(user_ids) FROM bulk;', statement
  FROM (VALUES
	('INSERT', 'INSERT INTO plain_period (organization, user_id, opted_out_at, opted_out_by)
	            SELECT ''default'', u, now(), current_user FROM bulk, unnest(user_ids) AS u'),
	('opt_out', 'SELECT optout.opt_out(user_ids) AS got FROM bulk')
  ) AS bulk (name, statement);

-- The rows of all listed users, about one in a hundred.  A session's first purge
-- looks up a good deal in catalogs; so one of nobody comes before.
INSERT INTO job (phase, name, rows, expect, prepare, statement)
SELECT phase, name, :events - :kept, :events - :kept,
       format('SET client_min_messages = warning; VACUUM %1$I; CALL add_listed(%1$L); CALL optout.purge(''{}''); CHECKPOINT; SELECT count(*) FROM %1$I;', relation), statement
  FROM unnest(ARRAY['purge', 'purge by index']) AS phase, (VALUES
	('DELETE', 'stored', 'SELECT plain_purge() AS got'),
	('purge', 'stored_guard', 'SELECT purge() AS got')
  ) AS purge (name, relation, statement);

-- 3000000 -> 3 million
CREATE FUNCTION words(n bigint) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN n >= 1000000 THEN trim_scale(n / 1000000.0) || ' million'
            WHEN n >= 1000 THEN trim_scale(n / 1000.0) || ' thousand' ELSE n::text END;

INSERT INTO comparison (what, phase, ours, theirs, unit, target) VALUES
	('scan, accepts / no-op C function, list of ' || words(:short_list), 'thousand', 'accepts', 'no-op', 'ratio', '<= 1.25'),
	('scan, floor (a hash and one random access) / no-op C function, list of ' || words(:short_list), 'thousand', 'floor', 'no-op', 'ratio', NULL),
	('scan, accepts / no-op C function, list of ' || words(:list), 'million', 'accepts', 'no-op', 'ratio', '<= 1.45'),
	('scan, floor / no-op C function, list of ' || words(:list), 'million', 'floor', 'no-op', 'ratio', NULL),
	('scan, accepts / floor, list of ' || words(:list), 'million', 'accepts', 'floor', 'ratio', NULL),
	('scan, accepts / no-op C function, named organization', 'named', 'accepts', 'no-op', 'ratio', '<= 1.6'),
	('scan, accepts / no-op C function, bigint ids', 'bigint', 'accepts', 'no-op', 'ratio', '<= 1.6'),
	('scan, floor / no-op C function, bigint ids', 'bigint', 'floor', 'no-op', 'ratio', NULL),
	('scan, accepts / no-op C function, uuid ids', 'uuid', 'accepts', 'no-op', 'ratio', '<= 1.6'),
	('scan, floor / no-op C function, uuid ids', 'uuid', 'floor', 'no-op', 'ratio', NULL),
	('scan, accepts / no-op C function, with the event''s time', 'million', 'accepts time', 'no-op time', 'ratio', '<= 1.6'),
	('scan, hash anti-join (NOT EXISTS) / accepts', 'million', 'anti-join', 'accepts', 'ratio', '>= 4'),
	('scan, row-level security policy (NOT EXISTS) / accepts', 'million', 'policy', 'accepts', 'ratio', NULL),
	('scan, SQL function (EXISTS) / accepts', 'million', 'SQL function', 'accepts', 'ratio', NULL),
	('30 % discarded, first scan after a start, ns a row', 'million', 'first', NULL, 'ns', '<= 250'),
	('30 % discarded, later sessions, ns a row', 'million', 'later', NULL, 'ns', '<= 175'),
	('30 % discarded, first scan of a session, hash anti-join / accepts', 'million', 'anti-join 30', 'later', 'ratio', '>= 2.8'),
	('adding the keys after a start, cold, cache filled too (1.2), ns a row', 'million', 'keys', NULL, 'ns', '<= 150'),
	('COPY, WHERE accepts / WHERE no-op C function', 'ingest', 'accepts', 'no-op', 'ratio', '<= 1.11'),
	('COPY, WHERE floor / WHERE no-op C function', 'ingest', 'floor', 'no-op', 'ratio', NULL),
	('COPY, guarded table / no-op C trigger', 'ingest', 'guard', 'no-op trigger', 'ratio', '<= 1.1'),
	('COPY, floor trigger / no-op C trigger', 'ingest', 'floor trigger', 'no-op trigger', 'ratio', NULL),
	('COPY, guard of two columns / of one', 'ingest', 'two columns', 'one column', 'ratio', '<= 1.15'),
	('COPY, guard of a path into jsonb / WHERE jsonb_path_exists', 'ingest', 'path', 'jsonb_path_exists', 'ratio', '<= 1.3'),
	('COPY, PL/pgSQL trigger (EXISTS) / guarded table', 'ingest', 'PL/pgSQL', 'guard', 'ratio', NULL),
	('COPY, WHERE accepts, beside 100 opt-outs a second / alone', 'ingest', 'accepts beside', 'accepts', 'ratio', NULL),
	('prepared single-row INSERT, kept, us', 'ingest', 'single kept', NULL, 'us', NULL),
	('prepared single-row INSERT, discarded / kept', 'ingest', 'single discarded', 'single kept', 'ratio', '<= 1.1'),
	('prepared single-row INSERT, discarded / kept, fsync on, elapsed time', 'ingest', 'single discarded, fsync', 'single kept, fsync', 'elapsed', '<= 1.1'),
	('write-ahead log of a discarded single-row transaction, bytes', 'ingest', 'single discarded', NULL, 'bytes', '<= 120'),
	('write-ahead log of a kept one, bytes', 'ingest', 'single kept', NULL, 'bytes', NULL),
	('guarded single-row INSERT, added by 1000 opt-outs a second beside, us', 'ingest', 'single kept beside', 'single kept', 'us', '<= 0.7'),
	('guarded single-row INSERT, added by 1000 plain INSERTs a second beside, us', 'ingest', 'single kept beside others', 'single kept', 'us', NULL),
	('opt_out of ' || words(:list) || ' / INSERT into a table with the same indexes', 'bulk', 'opt_out', 'INSERT', 'ratio', '<= 1.75'),
	('purge of ' || words(:short_list) || ' users, all of the table is read / DELETE', 'purge', 'purge', 'DELETE', 'ratio', '<= 1.1'),
	('purge of ' || words(:short_list) || ' users, by an index / DELETE', 'purge by index', 'purge', 'DELETE', 'ratio', '<= 1.1'),
	('list of ' || words(:large_list) || ', kept row, no-op C function, ns', 'large', 'no-op', NULL, 'ns', NULL),
	('list of ' || words(:large_list) || ', kept row, floor, ns', 'large', 'floor', NULL, 'ns', NULL),
	('list of ' || words(:large_list) || ', kept row, filter_memory 16 MB, ns', 'large', 'accepts', NULL, 'ns', '<= 140'),
	('list of ' || words(:large_list) || ', kept row, filter_memory 32 MB, ns', 'larger', 'accepts', NULL, 'ns', '<= 140'),
	('list of ' || words(:large_list) || ', 30 % discarded, first scan after a start, ns a row', 'large', 'first', NULL, 'ns', NULL),
	('list of ' || words(:large_list) || ', 30 % discarded, later sessions, ns a row', 'large', 'later', NULL, 'ns', '<= 350'),
	('list of ' || words(:large_list) || ', adding the keys, filter_memory 16 MB, ns a row', 'large', 'keys', NULL, 'ns', NULL),
	('list of ' || words(:large_list) || ', adding the keys, filter_memory 32 MB, ns a row', 'larger', 'keys', NULL, 'ns', NULL);

-- Only what was asked for, and what it takes.  ("Larger" goes on with the list of "large".)
DELETE FROM comparison WHERE (phase LIKE 'large%') <> :large OR what !~ :'rows';
DELETE FROM job j WHERE NOT EXISTS (SELECT FROM comparison c WHERE c.phase = j.phase AND j.name IN (c.ours, c.theirs));
UPDATE phase SET set_up = (SELECT set_up FROM phase WHERE name = 'large')
 WHERE name = 'larger' AND NOT EXISTS (SELECT FROM job WHERE phase = 'large');
DELETE FROM phase p WHERE NOT EXISTS (SELECT FROM job j WHERE j.phase = p.name);
