-- What the leak hunt keeps in the database; test/lab/soak/hunt runs it once.
--
-- Events carry two clocks: "sent", taken before the filter is asked, and
-- "finished", taken after it has answered.  Calls of administrators carry two as
-- well: "begun", taken before, and "acknowledged", taken after their commit has
-- returned.  All are of one machine, and nobody may set it back meanwhile.

CREATE EXTENSION IF NOT EXISTS optout;
CREATE SCHEMA soak;

----------------------------------------------------------------------
-- Who there is
----------------------------------------------------------------------

-- Persons are "u0" and so on, for these classes:
--
--	u	of one administrator each, who may change them in long transactions
--	c	everybody's
--	e	opted out and erased by admin_erase.sql
--	t	opted out and in while the state table's trigger is disabled
--	l	linked, forgotten, signed in by admin_link.sql, each by everybody
--	n	newcomers: opted out for the first time
--	y	the same, while the trigger is known to be disabled
--	p	known by an alias only, until admin_pair.sql enrolls them
--
-- "out" is always opted out.  "kept", who never is, need not be enrolled.
CREATE TABLE soak.member (user_id text);
INSERT INTO soak.member
SELECT 'u' || n FROM generate_series(0, :users - 1) n
UNION ALL
SELECT class || n FROM unnest('{c,e,t,l}'::text[]) AS class, generate_series(0, 3) n
UNION ALL
SELECT 'out';
SELECT optout.enroll('out', 'org0'), optout.enroll('out', 'org1');
SELECT optout.opt_out('out', 'org0'), optout.opt_out('out', 'org1');

-- Aliases that persons have all the time:
--
--	d	of u		f	of e		s	of t
--
-- and others that come and go:
--
--	x	of u, by its own administrator
--	a	of any l; now and then they are enrolled as users
--	m	of n
--	q	of p
CREATE VIEW soak.constant_alias AS
SELECT user_id, translate(user_id, 'uet', 'dfs') AS alias FROM soak.member WHERE user_id ~ '^[uet][0-9]';

-- Users who have never been opted out before: they have another number in each
-- fiftieth of a second, so that nobody needs to tell anybody.  Pairs of an alias and
-- a user have another in each tenth, "y" users in each second.
CREATE FUNCTION soak.newcomer(a_second integer DEFAULT 50) RETURNS text
LANGUAGE sql AS $$
	SELECT floor(extract(epoch FROM clock_timestamp()) * a_second)::bigint::text
$$;

----------------------------------------------------------------------
-- Administrators
----------------------------------------------------------------------

-- What a call does, one row for each user or alias.  Written before the call, so
-- that none is missing whatever becomes of it; acknowledged after its commit.
CREATE SEQUENCE soak.next_action;

-- persons who are out afterwards, or in
CREATE TABLE soak.action (
	action bigint NOT NULL,
	organization text NOT NULL,
	user_id text NOT NULL,
	opts_out boolean NOT NULL,
	begun timestamptz NOT NULL,
	acknowledged timestamptz
);
CREATE INDEX ON soak.action (action);

-- whose an alias is afterwards; nobody's if user_id is NULL
CREATE TABLE soak.link_action (
	action bigint NOT NULL,
	organization text NOT NULL,
	alias text NOT NULL,
	user_id text,
	only_of text,				-- it stays as it is if it is not this person's
	begun timestamptz NOT NULL,
	acknowledged timestamptz
);
CREATE INDEX ON soak.link_action (action);

-- whose past is gone afterwards, or some of it
CREATE TABLE soak.deletion (
	action bigint NOT NULL,
	organization text NOT NULL,
	user_id text NOT NULL,
	begun timestamptz NOT NULL
);
CREATE INDEX ON soak.deletion (action);
CREATE INDEX ON soak.deletion (organization, user_id, begun);

-- Returns what to acknowledge later, and which function is to be called now.
CREATE FUNCTION soak.intend(opts_out boolean, organization text, user_ids text[],
							OUT action bigint, OUT call text)
LANGUAGE plpgsql AS $$
BEGIN
	action := nextval('soak.next_action');
	call := CASE WHEN opts_out THEN 'opt_out' ELSE 'opt_in' END;
	INSERT INTO soak.action
	SELECT intend.action, intend.organization, user_id, intend.opts_out, clock_timestamp()
	  FROM unnest(user_ids) AS user_id;
END $$;

-- The same for aliases that are linked, or unlinked where user_id is NULL.
CREATE FUNCTION soak.intend_link(organization text, aliases text[], user_id text,
								 OUT action bigint)
LANGUAGE plpgsql AS $$
BEGIN
	action := nextval('soak.next_action');
	INSERT INTO soak.link_action (action, organization, alias, user_id, begun)
	SELECT intend_link.action, intend_link.organization, alias, intend_link.user_id, clock_timestamp()
	  FROM unnest(aliases) AS alias;
END $$;

-- The same for "l" persons who are forgotten.
CREATE FUNCTION soak.intend_forget(organization text, user_id text, OUT action bigint)
LANGUAGE plpgsql AS $$
BEGIN
	SELECT i.action INTO action FROM soak.intend(false, organization, ARRAY[user_id]) AS i;
	INSERT INTO soak.link_action (action, organization, alias, only_of, begun)
	SELECT intend_forget.action, intend_forget.organization, 'a' || n, intend_forget.user_id, clock_timestamp()
	  FROM generate_series(0, 3) n;
	INSERT INTO soak.deletion
	VALUES (intend_forget.action, intend_forget.organization, intend_forget.user_id, clock_timestamp());
END $$;

CREATE FUNCTION soak.acknowledge(action bigint) RETURNS void
LANGUAGE sql AS $$
	UPDATE soak.action a SET acknowledged = clock_timestamp() WHERE a.action = acknowledge.action;
	UPDATE soak.link_action a SET acknowledged = clock_timestamp() WHERE a.action = acknowledge.action;
$$;

-- The call was rolled back: there has been none.
CREATE FUNCTION soak.take_back(action bigint) RETURNS void
LANGUAGE sql AS $$
	DELETE FROM soak.action a WHERE a.action = take_back.action;
	DELETE FROM soak.link_action a WHERE a.action = take_back.action;
	DELETE FROM soak.deletion a WHERE a.action = take_back.action;
$$;

-- What was told who signed in.
CREATE TABLE soak.signed_in (organization text, user_id text, begun timestamptz, answer boolean, finished timestamptz);

CREATE FUNCTION soak.sign_in(organization text, user_id text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	begun timestamptz := clock_timestamp();
	answer boolean := optout.sign_in(user_id, organization);
BEGIN
	INSERT INTO soak.signed_in VALUES (organization, user_id, begun, answer, clock_timestamp());
END $$;

-- Choose what to do next with an "l" person or an "a" alias, which others do
-- something with at the same time.  Returns what to acknowledge later and the
-- command, which may fail.
CREATE FUNCTION soak.choose(organization text, OUT action bigint, OUT command text)
LANGUAGE plpgsql AS $$
DECLARE
	chance integer := floor(random() * 100);
	-- some more often than others, so that more meet
	person text := 'l' || floor(random() ^ 2 * 4);
	alias text := 'a' || floor(random() ^ 2 * 4);
	aliases text[] := CASE WHEN random() < 0.7 THEN ARRAY[alias] ELSE ARRAY[alias, 'a' || floor(random() * 4)] END;
	now timestamptz := clock_timestamp();
BEGIN
	IF chance < 26 THEN
		action := soak.intend_link(organization, aliases, person);
		command := format('SELECT optout.link(%L, %L::text[], %L)', person, aliases, organization);
	ELSIF chance < 40 THEN
		action := soak.intend_link(organization, aliases, NULL);
		command := format('SELECT optout.unlink(%L::text[], %L, %L)', aliases, organization, random() < 0.5);
	ELSIF chance < 66 THEN
		SELECT i.action, format('SELECT optout.%I(%L, %L)', i.call, person, organization) INTO action, command
		  FROM soak.intend(random() < 0.5, organization, ARRAY[person]) AS i;
	ELSIF chance < 72 THEN
		SELECT i.action, format('SELECT optout.enroll(%1$L, %2$L); SELECT optout.opt_out(%1$L, %2$L)', person, organization) INTO action, command
		  FROM soak.intend(true, organization, ARRAY[person]) AS i;
	ELSIF chance < 76 THEN
		action := soak.intend_forget(organization, person);
		command := format('SELECT optout.forget(%L, %L, true)', person, organization);
	ELSE
		action := nextval('soak.next_action');
		IF chance < 80 THEN
			-- retention
			INSERT INTO soak.deletion VALUES (choose.action, choose.organization, person, clock_timestamp());
			command := format('DELETE FROM optout.opt_out_period WHERE organization = %L AND user_id = %L AND opted_in_at < %L',
							  organization, person, now - random() * interval '1 s');
		ELSIF chance < 84 THEN
			-- leaves the directory, opted out or not
			command := format('DELETE FROM optout.product_user WHERE organization = %L AND user_id = %L', organization, person);
		ELSIF chance < 88 THEN
			-- and nothing but an open period and aliases remains
			INSERT INTO soak.deletion VALUES (choose.action, choose.organization, person, clock_timestamp());
			command := format('DELETE FROM optout.product_user WHERE organization = %1$L AND user_id = %2$L;
				DELETE FROM optout.opt_out_period WHERE organization = %1$L AND user_id = %2$L AND opted_in_at < %3$L', organization, person, now);
		ELSIF chance < 91 THEN
			command := format('SELECT soak.sign_in(%L, %L)', organization, person);
		ELSIF chance < 93 THEN
			command := format('SELECT optout.enroll(%L, %L)', person, organization);
		-- an alias that is, or is to be, a user
		ELSIF chance < 97 THEN
			command := format('SELECT optout.enroll(%L, %L)', alias, organization);
		ELSE
			command := format('SELECT optout.forget(%L, %L)', alias, organization);
		END IF;
	END IF;
END $$;

-- Execute it, and say whether it has succeeded: the user or the alias may be
-- unknown, somebody else's, or opted out, and two links may meet.  Whoever adds or
-- deletes the same row may get a serialization failure, nobody else.
CREATE FUNCTION soak.attempt(command text) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE command;
	RETURN true;
EXCEPTION
	WHEN undefined_object OR unique_violation OR object_not_in_prerequisite_state OR deadlock_detected THEN
		RETURN false;
	WHEN serialization_failure THEN
		IF command ~ '^SELECT optout\.(opt_out|opt_in|forget|unlink)\(' THEN
			RAISE;
		END IF;
		RETURN false;
END $$;

-- Make a user who is in no directory, has no periods, and an alias.
CREATE FUNCTION soak.make_pair(organization text, pair text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	PERFORM optout.enroll('p' || pair, organization);
	PERFORM optout.link('p' || pair, ARRAY['q' || pair], organization);
	DELETE FROM optout.product_user u WHERE u.organization = make_pair.organization AND u.user_id = 'p' || pair;
END $$;

CREATE FUNCTION soak.finish(action bigint, done boolean) RETURNS void
LANGUAGE sql AS $$
	SELECT CASE WHEN done THEN soak.acknowledge(action) ELSE soak.take_back(action) END
$$;

-- Aliases that were seen with other periods than their user, or as users.
CREATE TABLE soak.odd_alias (seen timestamptz, organization text, alias text, what text);

----------------------------------------------------------------------
-- Ingest
----------------------------------------------------------------------

-- Each event that the filter was asked about, by the very transaction that
-- asked: so what is rolled back was never offered.  The last event of a batch is
-- one of a user who is never opted out.
CREATE SEQUENCE soak.next_event;
CREATE TABLE soak.offered (
	event bigint PRIMARY KEY DEFAULT nextval('soak.next_event'),
	batch bigint NOT NULL,		-- its first event
	path text NOT NULL,
	organization text NOT NULL,
	user_id text NOT NULL,
	other_id text,				-- the event is this user's as well
	sent timestamptz NOT NULL,
	occurred timestamptz,		-- if the filter is told when; may be long before
	expected boolean			-- to be stored, if the transaction knows
);

-- The clock after the filter's answer.  A stored generated column is computed
-- after WHERE and BEFORE triggers.  Were its function volatile, COPY would leave
-- its multi-row path; were it without an argument, it would be called once.
CREATE FUNCTION soak.clock_after(timestamptz) RETURNS timestamptz
LANGUAGE internal IMMUTABLE PARALLEL SAFE AS 'clock_timestamp';

-- all event tables are its children
CREATE TABLE soak.present (
	event bigint,
	organization text,
	user_id text,
	other_id text,
	sent timestamptz,
	occurred timestamptz,
	padding text,
	finished timestamptz GENERATED ALWAYS AS (soak.clock_after(sent)) STORED
);
CREATE TABLE soak.event () INHERITS (soak.present);
CREATE TABLE soak.guarded () INHERITS (soak.present);
CREATE TABLE soak.guarded_by_time () INHERITS (soak.present);
CREATE TABLE soak.guarded_columns (device text, person text) INHERITS (soak.present);
CREATE TABLE soak.guarded_json (doc json) INHERITS (soak.present);
CREATE TABLE soak.guarded_jsonb (device text, doc jsonb) INHERITS (soak.present);
-- whose events are "kept"'s to begin with; other_id says whose they become
CREATE TABLE soak.guarded_updated () INHERITS (soak.present);

-- Put the two ids into the columns and members that the guards read, this way or
-- the other way around.
CREATE FUNCTION soak.shape() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	one text := CASE NEW.event % 2 WHEN 0 THEN NEW.user_id ELSE NEW.other_id END;
	two text := CASE NEW.event % 2 WHEN 0 THEN NEW.other_id ELSE NEW.user_id END;
BEGIN
	CASE TG_TABLE_NAME
		WHEN 'guarded_columns' THEN
			NEW.device := one;
			NEW.person := two;
		WHEN 'guarded_json' THEN
			-- the first character escaped, or only the other id; and two forms of a time
			NEW.doc := CASE WHEN one IS NOT NULL THEN
				format('{"page": "/", "org": %s, "user": {"name": {"id": 1}, "id": 0, "id": "\u00%s%s"}, "seen": [%s], "at": "%s"}',
					   to_json(NEW.organization), to_hex(ascii(one)), substr(one, 2), COALESCE(to_json(two), 'null'),
					   to_char(NEW.occurred AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
			ELSE
				format('{"org": %s, "seen": [%s, "out"], "user": null, "at": "%s"}', to_json(NEW.organization), to_json(two),
					   to_char(NEW.occurred AT TIME ZONE 'Asia/Kolkata', 'YYYYMMDD"T"HH24MISS.US'))
			END;
		WHEN 'guarded_jsonb' THEN
			NEW.device := one;
			NEW.doc := jsonb_build_object('page', '/', 'context', jsonb_build_object('ids', jsonb_build_object('user', two)));
	END CASE;
	RETURN NEW;
END $$;
CREATE TRIGGER before_guard BEFORE INSERT ON soak.guarded_columns FOR EACH ROW EXECUTE FUNCTION soak.shape();
CREATE TRIGGER before_guard BEFORE INSERT ON soak.guarded_json FOR EACH ROW EXECUTE FUNCTION soak.shape();
CREATE TRIGGER before_guard BEFORE INSERT ON soak.guarded_jsonb FOR EACH ROW EXECUTE FUNCTION soak.shape();

SELECT optout.guard('soak.guarded', organization => 'organization'),
	   optout.guard_view('soak.guarded', 'soak.guarded_view'),
	   optout.guard('soak.guarded_updated', organization => 'organization'),
	   optout.guard('soak.guarded_by_time', organization => 'organization', occurred_at => 'occurred'),
	   optout.guard('soak.guarded_columns', ARRAY['device', 'person'], organization => 'organization'),
	   optout.guard('soak.guarded_json', ARRAY['$.user.id', '$.seen."0"'], organization => '$.org', occurred_at => '$.at',
					payload => 'doc', time_zone => 'Asia/Kolkata'),
	   optout.guard('soak.guarded_jsonb', ARRAY['device', '$.context.ids.user'], organization => 'organization', payload => 'doc');

-- Ways into these tables; feed has the same for COPY.
CREATE TABLE soak.path (path text, target regclass, condition text, by_time boolean, two_ids boolean);
INSERT INTO soak.path VALUES
	('WHERE', 'soak.event', 'WHERE optout.accepts(user_id, organization)', false, false),
	('WHERE, by time', 'soak.event', 'WHERE optout.accepts(user_id, organization, occurred)', true, false),
	('guard', 'soak.guarded', '', false, false),
	('guard, through a view', 'soak.guarded_view', '', false, false),
	('guard, by UPDATE', 'soak.guarded_updated', '', false, false),
	('guard, by time', 'soak.guarded_by_time', '', true, false),
	('guard, two columns', 'soak.guarded_columns', '', false, true),
	('guard, json, by time', 'soak.guarded_json', '', true, true),
	('guard, column and jsonb', 'soak.guarded_jsonb', '', false, true);

-- The users of one batch: all sorts, or the same few again and again, of whom a
-- session knows everything soon.  Some batches take their time.  Where an event is
-- told by its time, it may come late.
CREATE VIEW soak.pick AS
WITH batch AS MATERIALIZED (
	SELECT random() < 0.5 AS few, random() < 0.3 AS slow, floor(random() * :users)::integer AS first,
		   substr('udx', 1 + floor(random() * 3)::integer, 1) AS class
)
SELECT 'org' || floor(random() * 2) AS organization,
	   CASE WHEN slow THEN pg_sleep(0.002)::text ELSE '' END ||
	   CASE WHEN n % 10 = 0 THEN 'kept'
			WHEN few THEN class || (first + n % 3) % :users
			WHEN n % 20 <= 2 THEN substr('nm', 1 + floor(random() * 2)::integer, 1) || soak.newcomer()
			WHEN n % 20 = 11 THEN substr('pq', 1 + floor(random() * 2)::integer, 1) || soak.newcomer(10)
			WHEN n % 20 = 12 THEN 'y' || soak.newcomer(1)
			WHEN n % 10 <= 6 THEN substr('cetlasf', 1 + floor(random() * 7)::integer, 1) || floor(random() * 4)
			ELSE substr('udx', 1 + floor(random() * 3)::integer, 1) || floor(random() * :users)
	   END AS user_id,
	   CASE n % 4 WHEN 1 THEN 'kept'
			WHEN 2 THEN CASE WHEN few THEN 'u' || (first + n % 3) % :users ELSE substr('la', 1 + floor(random() * 2)::integer, 1) || floor(random() * 4) END
	   END AS other_id,
	   CASE WHEN random() < 0.5 THEN random() * interval '3 s' ELSE '0' END AS late
  FROM batch, generate_series(1, 40) n;

-- Offer a batch.  Each row goes all the way before the next one is made.
CREATE FUNCTION soak.ingest(how text DEFAULT 'INSERT') RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	way soak.path;
BEGIN
	-- whoever updates is one whom others' reading conflicts with
	SELECT * INTO way FROM soak.path
	 WHERE path <> 'guard, by UPDATE' OR current_setting('transaction_isolation') <> 'serializable'
	 ORDER BY random() LIMIT 1;
	EXECUTE format('
		WITH offer AS (
			INSERT INTO soak.offered (batch, path, organization, user_id, other_id, sent, occurred)
			SELECT $1, $2, organization, user_id, CASE WHEN $3 THEN other_id END, sent, CASE WHEN $4 THEN sent - late END
			  FROM (SELECT *, clock_timestamp() AS sent FROM soak.pick) AS p
			RETURNING *
		)
		INSERT INTO %s (event, organization, user_id, other_id, sent, occurred)
		SELECT event, organization, %s, sent, occurred FROM offer %s', way.target,
				   CASE way.path WHEN 'guard, by UPDATE' THEN '''kept'', user_id' ELSE 'user_id, other_id' END, way.condition)
	USING nextval('soak.next_event'),
		format('%s, %s, %s', how, current_setting('transaction_isolation'), way.path), way.two_ids, way.by_time;
	IF way.path = 'guard, by UPDATE' THEN
		-- of others' rows none is to be seen yet that is on its way
		UPDATE soak.guarded_updated SET user_id = other_id, other_id = NULL, sent = sent WHERE other_id IS NOT NULL;
		DELETE FROM soak.guarded_updated WHERE other_id IS NOT NULL;
	END IF;
END $$;

-- The same several times, of which some fail.
CREATE FUNCTION soak.ingest_and_fail() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	FOR attempt IN 1 .. 4 LOOP
		BEGIN
			PERFORM soak.ingest('exception block');
			BEGIN
				PERFORM soak.ingest('exception block');
				IF random() < 0.5 THEN
					RAISE EXCEPTION 'inner';
				END IF;
			EXCEPTION WHEN raise_exception THEN
				NULL;
			END;
			IF random() < 0.3 THEN
				RAISE EXCEPTION 'outer';
			END IF;
		EXCEPTION WHEN raise_exception THEN
			NULL;
		END;
	END LOOP;
END $$;

-- Offer one event of a user or alias whom this transaction has opted out or in
-- itself.
CREATE FUNCTION soak.ingest_own(organization text, user_id text, expected boolean) RETURNS void
LANGUAGE sql AS $$
	WITH offer AS (
		INSERT INTO soak.offered (batch, path, organization, user_id, sent, expected)
		VALUES (nextval('soak.next_event'), 'own change', $1, $2, clock_timestamp(), $3)
		RETURNING *
	)
	INSERT INTO soak.event (event, organization, user_id, sent)
	SELECT o.event, o.organization, o.user_id, o.sent FROM offer o
	 WHERE optout.accepts(o.user_id, o.organization);
$$;

----------------------------------------------------------------------
-- Erasure
----------------------------------------------------------------------

-- What was stored of users before they were opted out and erased; and when that was
-- done.
CREATE TABLE soak.erased_event (event bigint, organization text, user_id text, other_id text, sent timestamptz, finished timestamptz);
CREATE TABLE soak.erasure (organization text, user_id text, done timestamptz);

CREATE FUNCTION soak.keep_erased() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO soak.erased_event
	VALUES (OLD.event, OLD.organization, OLD.user_id, OLD.other_id, OLD.sent, OLD.finished);
	RETURN NULL;
END $$;

-- Keep what is erased from this table.
CREATE FUNCTION soak.keep_erased_of(relation text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE TRIGGER keep_erased AFTER DELETE ON %s FOR EACH ROW EXECUTE FUNCTION soak.keep_erased()', relation);
END $$;
SELECT soak.keep_erased_of(inhrelid::regclass::text) FROM pg_inherits
 WHERE inhparent = 'soak.present'::regclass AND inhrelid <> 'soak.guarded_updated'::regclass;
CREATE TRIGGER keep_erased AFTER DELETE ON soak.guarded_updated
	FOR EACH ROW WHEN (OLD.other_id IS NULL) EXECUTE FUNCTION soak.keep_erased();

CREATE FUNCTION soak.erase(relation regclass, organization text, user_ids text[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('DELETE FROM %s WHERE organization = $1 AND (user_id = ANY ($2) OR other_id = ANY ($2))', relation)
	USING organization, user_ids;
END $$;

CREATE FUNCTION soak.note_erasure(organization text, user_ids text[]) RETURNS void
LANGUAGE sql AS $$
	INSERT INTO soak.erasure SELECT organization, user_id, clock_timestamp() FROM unnest(user_ids) AS user_id;
$$;

----------------------------------------------------------------------
-- Tables that loaders make
----------------------------------------------------------------------

-- Those in this schema are guarded as soon as they are there.
CREATE SCHEMA soak_load;
SELECT optout.guard_schema('soak_load', ARRAY['user_id', 'other_id'], organization => 'organization');
CREATE SEQUENCE soak.next_load;

-- what they held before they were dropped
CREATE TABLE soak.loaded (LIKE soak.present);

-- Make the table of this number.
CREATE FUNCTION soak.load_create(n bigint, way integer) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	name text := format('t%s', n);
BEGIN
	CASE way
		WHEN 0 THEN
			EXECUTE format('CREATE TABLE soak_load.%I (LIKE soak.present INCLUDING GENERATED)', name);
		WHEN 1 THEN
			EXECUTE format('CREATE TABLE soak.%I (LIKE soak.present INCLUDING GENERATED)', name);
			EXECUTE format('ALTER TABLE soak.%I SET SCHEMA soak_load', name);
		WHEN 2 THEN
			EXECUTE format('CREATE TABLE soak_load.%I (LIKE soak.present INCLUDING GENERATED)', name);
			EXECUTE format('ALTER TABLE soak_load.%I RENAME user_id TO uid', name);
			EXECUTE format('ALTER TABLE soak_load.%I DROP other_id', name);
			EXECUTE format('ALTER TABLE soak_load.%I ADD other_id text', name);
			EXECUTE format('ALTER TABLE soak_load.%I RENAME uid TO user_id', name);
		WHEN 3 THEN
			EXECUTE format('CREATE TABLE soak_load.%I (LIKE soak.present INCLUDING GENERATED) PARTITION BY LIST (organization)', name);
			EXECUTE format('CREATE TABLE soak_load.%I PARTITION OF soak_load.%I FOR VALUES IN (%L)', name || '_0', name, 'org0');
			EXECUTE format('CREATE TABLE soak_load.%I (LIKE soak.present INCLUDING GENERATED)', name || '_1');
			EXECUTE format('ALTER TABLE soak_load.%I ATTACH PARTITION soak_load.%I FOR VALUES IN (%L)', name, name || '_1', 'org1');
		ELSE
			EXECUTE format('CREATE TABLE soak_load.%I (event bigint, organization text, sent timestamptz)', name);
			EXECUTE format('ALTER TABLE soak_load.%I ADD user_id varchar(40), ADD occurred timestamptz,
				ADD finished timestamptz GENERATED ALWAYS AS (soak.clock_after(sent)) STORED', name);
			EXECUTE format('ALTER TABLE soak_load.%I ALTER user_id TYPE text, ADD other_id text', name);
	END CASE;
	PERFORM soak.keep_erased_of(format('soak_load.%I', name));
END $$;

-- The columns of an offer, for events of two ids where the filter is not told the
-- time.
CREATE FUNCTION soak.load_offer(how text) RETURNS text
LANGUAGE sql AS $$
	SELECT format('
		INSERT INTO soak.offered (batch, path, organization, user_id, other_id, sent)
		SELECT (SELECT nextval(''soak.next_event'')), %L, organization, user_id, other_id, clock_timestamp() FROM soak.pick
		RETURNING *', format('loader, %s, %s', current_setting('transaction_isolation'), how))
$$;

CREATE FUNCTION soak.load_ingest(n bigint, way integer) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('
		WITH offer AS (%s)
		INSERT INTO soak_load.%I (event, organization, user_id, other_id, sent)
		SELECT event, organization, user_id, other_id, sent FROM offer',
				   soak.load_offer((ARRAY['created', 'moved', 'renamed column', 'partitioned', 'added column'])[way + 1]), 't' || n);
END $$;

-- The table is made from its rows, which are looked at then.  So it is only after
-- that that the filter has answered.
CREATE FUNCTION soak.load_as(n bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'CREATE TEMP TABLE offer ON COMMIT DROP AS TABLE soak.offered WITH NO DATA';
	EXECUTE format('WITH o AS (%s) INSERT INTO offer SELECT * FROM o', soak.load_offer('made from rows'));
	EXECUTE format('CREATE TABLE soak_load.%I AS SELECT event, organization, user_id, other_id, sent FROM offer', 't' || n);
	EXECUTE format('ALTER TABLE soak_load.%I ADD finished timestamptz DEFAULT clock_timestamp()', 't' || n);
	PERFORM soak.keep_erased_of(format('soak_load.%I', 't' || n));
	DROP TABLE offer;
END $$;

-- Take what is in it, and drop it.
CREATE FUNCTION soak.load_finish(n bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('LOCK TABLE soak_load.%I', 't' || n);
	EXECUTE format('INSERT INTO soak.loaded (event, organization, user_id, other_id, sent, finished)
		SELECT event, organization, user_id, other_id, sent, finished FROM soak_load.%I', 't' || n);
	EXECUTE format('DROP TABLE soak_load.%I', 't' || n);
END $$;

CREATE VIEW soak.stored AS
SELECT event, sent, finished FROM soak.present
UNION ALL
SELECT event, sent, finished FROM soak.loaded
UNION ALL
SELECT event, sent, finished FROM soak.erased_event;

----------------------------------------------------------------------
-- Rounds
----------------------------------------------------------------------

CREATE TABLE soak.round (began timestamptz);

-- What earlier rounds have offered and stored, for the ledger goes on.
CREATE TABLE soak.earlier (organization text, offered bigint, stored bigint);
