-- What the leak hunt keeps in the database; test/lab/soak/hunt runs it once.
--
-- Events carry two clocks: "sent", taken before the filter is asked, and
-- "finished", taken after it has answered.  Calls of administrators carry two as
-- well: "begun", taken before, and "acknowledged", taken after their commit has
-- returned.  All are of one machine, and nobody may set it back meanwhile.

CREATE EXTENSION IF NOT EXISTS optout;
CREATE SCHEMA soak;

----------------------------------------------------------------------
-- Administrators
----------------------------------------------------------------------

-- One row for each user of a call.  Written before the call, so that none is
-- missing whatever becomes of it; acknowledged after its commit.
CREATE TABLE soak.action (
	action bigint NOT NULL,
	organization text NOT NULL,
	user_id text NOT NULL,
	opts_out boolean NOT NULL,
	begun timestamptz NOT NULL,
	acknowledged timestamptz
);
CREATE INDEX ON soak.action (action);
CREATE SEQUENCE soak.next_action;

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

CREATE FUNCTION soak.acknowledge(action bigint) RETURNS void
LANGUAGE sql AS $$
	UPDATE soak.action a SET acknowledged = clock_timestamp() WHERE a.action = acknowledge.action
$$;

-- The call was rolled back: there has been none.
CREATE FUNCTION soak.take_back(action bigint) RETURNS void
LANGUAGE sql AS $$
	DELETE FROM soak.action a WHERE a.action = take_back.action
$$;

-- Users who have never been opted out before: they have another name in each
-- fiftieth of a second, so that nobody needs to tell anybody.
CREATE FUNCTION soak.newcomer() RETURNS text
LANGUAGE sql AS $$
	SELECT 'n' || floor(extract(epoch FROM clock_timestamp()) * 50)::bigint
$$;

-- "u" users belong to one administrator each, who may change them in long
-- transactions; "c" users are everybody's; "e" users those of admin_erase.sql,
-- "t" users those of disturb_trigger.sql; "out" is always opted out.  "kept", who
-- never is, need not be enrolled.
CREATE TABLE soak.member (user_id text);
INSERT INTO soak.member
SELECT 'u' || n FROM generate_series(0, :users - 1) n
UNION ALL
SELECT unnest('{c0,c1,c2,c3,e0,e1,e2,e3,t0,t1,t2,t3,out}'::text[]);
SELECT optout.enroll('out', 'org0'), optout.enroll('out', 'org1');
SELECT optout.opt_out('out', 'org0'), optout.opt_out('out', 'org1');

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
	by_time boolean NOT NULL,	-- the filter is told when the event was sent
	organization text NOT NULL,
	user_id text NOT NULL,
	sent timestamptz NOT NULL,
	expected boolean			-- to be stored, if the transaction knows
);

-- The clock after the filter's answer.  A stored generated column is computed
-- after WHERE and BEFORE triggers.  Were its function volatile, COPY would leave
-- its multi-row path; were it without an argument, it would be called once.
CREATE FUNCTION soak.clock_after(timestamptz) RETURNS timestamptz
LANGUAGE internal IMMUTABLE PARALLEL SAFE AS 'clock_timestamp';

CREATE TABLE soak.event (
	event bigint,
	organization text,
	user_id text,
	sent timestamptz,
	padding text,
	finished timestamptz GENERATED ALWAYS AS (soak.clock_after(sent)) STORED
);
CREATE TABLE soak.guarded (LIKE soak.event INCLUDING GENERATED);
CREATE TABLE soak.guarded_by_time (LIKE soak.event INCLUDING GENERATED);
-- the user in a column beside others', or in a document
CREATE TABLE soak.guarded_shape (LIKE soak.event INCLUDING GENERATED, device text, doc json);
CREATE FUNCTION soak.shape() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	NEW.device := CASE NEW.event % 2 WHEN 0 THEN NEW.user_id WHEN 1 THEN 'kept' END;
	NEW.doc := json_build_object('page', '/', 'user', json_build_object('id', CASE NEW.event % 2 WHEN 1 THEN NEW.user_id END));
	RETURN NEW;
END $$;
CREATE TRIGGER before_guard BEFORE INSERT ON soak.guarded_shape FOR EACH ROW EXECUTE FUNCTION soak.shape();
SELECT optout.guard('soak.guarded_shape', ARRAY['device', '$.user.id'], organization => 'organization', payload => 'doc'),
	   optout.guard('soak.guarded', organization => 'organization'),
	   optout.guard('soak.guarded_by_time', organization => 'organization', occurred_at => 'sent');

-- Ways into these tables; feed has the same for COPY.
CREATE TABLE soak.path (path text, target regclass, condition text, by_time boolean);
INSERT INTO soak.path VALUES
	('WHERE', 'soak.event', 'WHERE optout.accepts(user_id, organization)', false),
	('WHERE, by time', 'soak.event', 'WHERE optout.accepts(user_id, organization, sent)', true),
	('guard', 'soak.guarded', '', false),
	('guard, by time', 'soak.guarded_by_time', '', true),
	('guard, device and document', 'soak.guarded_shape', '', false);

-- The users of one batch: all sorts, or the same few again and again, of whom a
-- session knows everything soon.  Some batches take their time.
CREATE VIEW soak.pick AS
WITH batch AS MATERIALIZED (
	SELECT random() < 0.5 AS few, random() < 0.3 AS slow, floor(random() * :users)::integer AS first
)
SELECT 'org' || floor(random() * 2) AS organization,
	   CASE WHEN slow THEN pg_sleep(0.002)::text ELSE '' END ||
	   CASE WHEN n % 10 = 0 THEN 'kept'
			WHEN few THEN 'u' || (first + n % 3) % :users
			WHEN n % 10 <= 2 THEN soak.newcomer()
			WHEN n % 10 <= 5 THEN substr('cet', n % 10 - 2, 1) || floor(random() * 4)
			ELSE 'u' || floor(random() * :users)
	   END AS user_id
  FROM batch, generate_series(1, 40) n;

-- Offer a batch.  Each row goes all the way before the next one is made.
CREATE FUNCTION soak.ingest(how text DEFAULT 'INSERT') RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	way soak.path;
BEGIN
	SELECT * INTO way FROM soak.path ORDER BY random() LIMIT 1;
	EXECUTE format('
		WITH offer AS (
			INSERT INTO soak.offered (batch, path, by_time, organization, user_id, sent)
			SELECT $1, $2, $3, organization, user_id, clock_timestamp() FROM soak.pick
			RETURNING *
		)
		INSERT INTO %s (event, organization, user_id, sent)
		SELECT event, organization, user_id, sent FROM offer %s', way.target, way.condition)
	USING nextval('soak.next_event'),
		format('%s, %s, %s', how, current_setting('transaction_isolation'), way.path), way.by_time;
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

-- Offer one event of a user whom this transaction has opted out or in itself.
CREATE FUNCTION soak.ingest_own(organization text, user_id text, expected boolean) RETURNS void
LANGUAGE sql AS $$
	WITH offer AS (
		INSERT INTO soak.offered (batch, path, by_time, organization, user_id, sent, expected)
		VALUES (nextval('soak.next_event'), 'own change', false, $1, $2, clock_timestamp(), $3)
		RETURNING *
	)
	INSERT INTO soak.event (event, organization, user_id, sent)
	SELECT o.event, o.organization, o.user_id, o.sent FROM offer o
	 WHERE optout.accepts(o.user_id, o.organization);
$$;

----------------------------------------------------------------------
-- Erasure
----------------------------------------------------------------------

-- What was stored of users before they were opted out, settled and erased; and
-- when that was done.
CREATE TABLE soak.erased_event (event bigint, organization text, user_id text, sent timestamptz, finished timestamptz);
CREATE TABLE soak.erasure (organization text, user_id text, done timestamptz);

CREATE FUNCTION soak.erase(organization text, user_id text) RETURNS void
LANGUAGE sql AS $$
	WITH a AS (DELETE FROM soak.event e WHERE (e.organization, e.user_id) = ($1, $2) RETURNING *),
	b AS (DELETE FROM soak.guarded e WHERE (e.organization, e.user_id) = ($1, $2) RETURNING *),
	c AS (DELETE FROM soak.guarded_by_time e WHERE (e.organization, e.user_id) = ($1, $2) RETURNING *),
	d AS (DELETE FROM soak.guarded_shape e WHERE (e.organization, e.user_id) = ($1, $2) RETURNING *)
	INSERT INTO soak.erased_event
	SELECT e.event, e.organization, e.user_id, e.sent, e.finished
	  FROM (SELECT * FROM a UNION ALL SELECT * FROM b UNION ALL SELECT * FROM c
			UNION ALL SELECT event, organization, user_id, sent, padding, finished FROM d) AS e
$$;

CREATE VIEW soak.present AS
SELECT event, organization, user_id, sent, finished FROM soak.event
UNION ALL
SELECT event, organization, user_id, sent, finished FROM soak.guarded
UNION ALL
SELECT event, organization, user_id, sent, finished FROM soak.guarded_by_time
UNION ALL
SELECT event, organization, user_id, sent, finished FROM soak.guarded_shape;

CREATE VIEW soak.stored AS
SELECT * FROM soak.present
UNION ALL
SELECT * FROM soak.erased_event;

----------------------------------------------------------------------
-- Rounds
----------------------------------------------------------------------

CREATE TABLE soak.round (began timestamptz);

-- What earlier rounds have offered and stored, for the ledger goes on.
CREATE TABLE soak.earlier (organization text, offered bigint, stored bigint);
