-- Every form in which guard() can be called: those of 1.1, and those with several
-- ids.  What each has made is in the view.
CREATE EXTENSION optout;
CREATE TABLE event (user_id text, org text, at timestamptz, device text, local timestamp, doc jsonb);
CREATE FUNCTION form(call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	made text;
BEGIN
	EXECUTE 'SELECT optout.guard(' || call || ')';
	SELECT concat_ws('|', user_id, organization, occurred_at, user_ids, payload, time_zone, fixed_organization) INTO made FROM optout.guarded;
	PERFORM optout.unguard('event');
	RETURN made;
END $$;

-- of 1.1
SELECT call, form(call) FROM unnest(ARRAY[
	$$'event'$$,
	$$'event'::regclass$$,
	$$'event', 'device'$$,
	$$'event', 'device', 'org'$$,
	$$'event', 'device', 'org', 'at'$$,
	$$'event', 'device', NULL, 'at'$$,
	$$'event', 'device'::name, 'org'::name, 'at'::name$$,
	$$'event', 'device'::text, 'org'::text, 'at'::text$$,
	$$'event', 'device'::varchar, 'org'::varchar$$,
	$$'event', 'device'::text, 'org'::varchar, 'at'::name$$,
	$$'event', organization => 'org'$$,
	$$'event', occurred_at => 'at'$$,
	$$'event', organization => 'org', occurred_at => 'at'$$,
	$$'event', organization => 'org'::text, occurred_at => 'at'::text$$,
	$$'event', user_id => 'device'$$,
	$$relation => 'event', user_id => 'device', organization => 'org', occurred_at => 'at'$$,
	$$relation := 'event', user_id := 'device', occurred_at := NULL$$]) AS call;
-- and with several ids
SELECT call, form(call) FROM unnest(ARRAY[
	$$'event', ARRAY['user_id', 'device']$$,
	$$'event', '{user_id,device}'::text[]$$,
	$$'event', ARRAY['user_id', 'device']::varchar[]$$,
	$$'event', ARRAY['user_id', 'device']::name[]$$,
	$$'event', ARRAY['device']$$,
	$$'event', ARRAY['user_id', 'device'], 'org'$$,
	$$'event', ARRAY['user_id', 'device'], 'org', 'at'$$,
	$$'event', ARRAY['user_id', 'device'], 'org'::text, 'at'::text$$,
	$$'event', ARRAY['user_id', 'device'], NULL, 'at'$$,
	$$'event', user_ids => ARRAY['user_id', 'device'], organization => 'org'$$,
	$$'event', user_ids => '{user_id,device}', occurred_at => 'local', time_zone => 'UTC'$$,
	$$'event', ARRAY['$.user.id', 'user_id', '$."a b".c'], '$.org', '$.at', 'doc', 'Europe/Berlin'$$,
	$$'event', ARRAY['user_id'], fixed_organization => 'it''s \acme='$$,
	$$relation => 'event', user_ids => ARRAY['$."a=b"'], organization => NULL, occurred_at => 'at', payload => 'doc', time_zone => NULL, fixed_organization => 'acme'$$]) AS call;

-- What is refused
\set VERBOSITY sqlstate
SELECT optout.guard('event', NULL::text[]);
SELECT optout.guard('event', ARRAY['user_id', NULL]);
SELECT optout.guard('event', '{}'::text[]);
SELECT optout.guard('event', ARRAY[['user_id'], ['device']]);
SELECT optout.guard('event', ARRAY['user_id', 'user_id']);
SELECT optout.guard('event', ARRAY['user_id', 'nobody']);
SELECT optout.guard('event', ARRAY['user_id', 'at']);
SELECT optout.guard('event', ARRAY['doc']);
SELECT optout.guard('event', ARRAY['$.id']);
SELECT optout.guard('event', ARRAY['$.id'], payload => 'nothing');
SELECT optout.guard('event', ARRAY['$.id'], payload => 'user_id');
SELECT optout.guard('event', ARRAY['user_id'], payload => 'doc');
SELECT optout.guard('event', ARRAY['user_id'], occurred_at => 'local');
SELECT optout.guard('event', ARRAY['user_id'], occurred_at => 'local', time_zone => 'Nowhere/Nothing');
SELECT optout.guard('event', ARRAY['user_id'], time_zone => '');
SELECT optout.guard('event', ARRAY['user_id'], occurred_at => '$.at', payload => 'doc');
SELECT optout.guard('event', ARRAY['user_id'], 'org', fixed_organization => 'acme');
SELECT optout.guard('event', ARRAY['user_id'], fixed_organization => '*');
SELECT optout.guard('event', ARRAY['user_id'], fixed_organization => '');
SELECT optout.guard('event', ARRAY['$.id'], '$.' || repeat('o', 70), payload => 'doc');
-- paths: what is none, and what is more than keys
CREATE FUNCTION paths() RETURNS TABLE (path text, state text) LANGUAGE plpgsql AS $$
BEGIN
	FOREACH path IN ARRAY ARRAY['$.', '$.a b', '$..a', '$."a', '$.a $.b', '$.a[', '$?', '$.1',
		'$', '$.*', '$.**', '$[0]', '$.a[*]', '$.a[0].b', '$.a.type()', '$.a ? (@ > 1)', '$.a == 1', '$.a + 1', '$a', '$a.b', '$.a.b.*'] LOOP
		BEGIN
			state := 'accepted';
			PERFORM optout.guard('event', ARRAY[path], payload => 'doc');
		EXCEPTION WHEN others THEN
			state := SQLSTATE;
		END;
		RETURN NEXT;
	END LOOP;
END $$;
SELECT * FROM paths();
\set VERBOSITY default
-- with the hints that help
SELECT optout.guard('event', ARRAY['doc']);
SELECT optout.guard('event', ARRAY['$.id']);
SELECT optout.guard('event', ARRAY['$.id[0]'], payload => 'doc');
SELECT optout.guard('event', ARRAY['user_id'], occurred_at => 'local');
SELECT optout.guard('event', ARRAY['user_id'], occurred_at => '$.at', payload => 'doc');
SELECT * FROM optout.guarded;

-- In the form of 1.1 what begins with $ is a column.
ALTER TABLE event ADD "$.id" text;
SELECT form($$'event', '$.id'$$);

-- Without any organization where the directory holds another than the setting's
SELECT optout.enroll('alice', 'acme');
SELECT optout.guard('event', ARRAY['user_id', 'device']);
SELECT optout.guard('event', ARRAY['user_id', 'device'], fixed_organization => 'acme');
SELECT optout.guard('event', ARRAY['user_id', 'device'], 'org');

DROP TABLE event;
DROP FUNCTION form, paths;
DROP EXTENSION optout;
