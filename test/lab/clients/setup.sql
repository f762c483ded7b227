-- What the clients meet: users, tables, and roles who write and read.
CREATE EXTENSION optout;

-- Writers offer alice, bob, carol and dave.  In the organization default alice is
-- opted out, in acme bob.
SELECT optout.enroll(ARRAY['alice', 'bob', 'carol', 'dave']), optout.opt_out('alice');
SELECT optout.enroll(ARRAY['ann', 'bob'], 'acme'), optout.enroll('gus', 'globex');
SELECT optout.sign_in('bob', 'acme', 'Bob Brown', 'bob@acme.example');
SELECT optout.opt_out('bob', 'acme', 'works council'), optout.opt_out('ann', 'acme'), optout.opt_out('gus', 'globex');
SELECT optout.opt_in('ann', 'acme');

CREATE TABLE event (id bigserial PRIMARY KEY, user_id text, what text);
CREATE TABLE unguarded (LIKE event INCLUDING ALL);
CREATE TABLE shared_event (tenant text, user_id text, at timestamptz);
CREATE TABLE keyed (id uuid PRIMARY KEY, user_id text);
SELECT optout.guard('event'), optout.guard('keyed'), optout.guard('shared_event', 'user_id', 'tenant', 'at');
INSERT INTO shared_event VALUES ('acme', 'bob', now()), ('globex', 'gus', now());

-- through it every event counts as inserted, discarded or not
SELECT optout.guard_view('event', 'event_in');

CREATE ROLE writer LOGIN;
CREATE ROLE acme_writer LOGIN;
ALTER ROLE acme_writer SET optout.organization = 'acme';
GRANT INSERT, SELECT ON event, keyed, unguarded, event_in TO writer, acme_writer;
GRANT UPDATE ON event, keyed TO writer;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO writer, acme_writer;
GRANT EXECUTE ON FUNCTION optout.accepts(text, text, timestamptz) TO writer, acme_writer;

-- app has no authority unless it sets the role of one of the readers
CREATE ROLE acme_reader LOGIN;
ALTER ROLE acme_reader SET TimeZone = 'America/Halifax';
CREATE ROLE globex_reader LOGIN;
CREATE ROLE app LOGIN NOINHERIT;
GRANT acme_reader, globex_reader TO app;
SELECT optout.grant_authority('acme_reader', 'acme', 'read'), optout.grant_authority('globex_reader', 'globex', 'read');

-- Whose events have been stored, and how many discarded, since the last call.
CREATE TABLE told AS SELECT organization, sum(discarded) AS discarded FROM optout.discards GROUP BY organization;
CREATE FUNCTION tally(OUT stored text, OUT discarded text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
AS $$
BEGIN
	SELECT COALESCE(string_agg(e.user_id, ' ' ORDER BY e.user_id), 'none') INTO stored
	  FROM (SELECT user_id FROM event UNION ALL SELECT user_id FROM keyed UNION ALL SELECT user_id FROM unguarded) e;
	TRUNCATE event, keyed, unguarded;
	SELECT COALESCE(string_agg(format('%s %s', d.organization, d.more), ', ' ORDER BY d.organization), 'none') INTO discarded
	  FROM (SELECT d.organization, sum(d.discarded) - COALESCE((SELECT t.discarded FROM told t WHERE t.organization = d.organization), 0) AS more
			  FROM optout.discards d
			 GROUP BY d.organization) d
	 WHERE d.more <> 0;
	DELETE FROM told;
	INSERT INTO told SELECT d.organization, sum(d.discarded) FROM optout.discards d GROUP BY d.organization;
END
$$;
