-- What a new user does first: no set-up beyond CREATE EXTENSION.
CREATE EXTENSION optout;

SELECT optout.enroll('alice');
SELECT optout.enroll('bob', display_name => 'Bob', email => 'bob@example.org');
SELECT optout.opt_out('alice');
SELECT optout.opt_out('alice') AS again;
SELECT organization, user_id, display_name, email, reason, client_may_still_track
  FROM optout.opt_out_list;
SELECT * FROM optout.user_list ORDER BY user_id;

-- Ingest with COPY: alice's rows are discarded, all others are kept.
CREATE TABLE event (user_id text, what text);
COPY event FROM STDIN WHERE optout.accepts(user_id);
alice	page 1
bob	page 2
Alice	another user: ids are compared byte for byte
\N	nobody's event
alice	page 3
alice 	another user, too
\.
SELECT * FROM event;

-- Ingest from a staging table.
CREATE TABLE staging (user_id text, what text);
INSERT INTO staging SELECT u, 'page ' || n
  FROM unnest('{alice,bob,carol}'::text[]) u, generate_series(1, 1000) n;
TRUNCATE event;
INSERT INTO event SELECT * FROM staging s WHERE optout.accepts(s.user_id);
SELECT user_id, count(*) FROM event GROUP BY 1 ORDER BY 1;

-- Back in.
SELECT optout.opt_in('alice');
SELECT optout.opt_in('alice') AS again;
SELECT * FROM optout.opt_out_list;
INSERT INTO event SELECT * FROM staging s WHERE s.user_id = 'alice' AND optout.accepts(s.user_id);
SELECT user_id, count(*) FROM event GROUP BY 1 ORDER BY 1;

-- Several at once.
SELECT optout.enroll(ARRAY['carol', 'dave', 'erin']);
SELECT optout.opt_out(ARRAY['alice', 'carol', 'dave', 'carol'], reason => 'request of 3 May');
SELECT optout.opt_out(ARRAY['bob', 'carol', 'dave']);
SELECT user_id, reason FROM optout.opt_out_list ORDER BY user_id;
SELECT optout.opt_in(ARRAY['alice', 'bob', 'carol', 'erin']);
SELECT user_id FROM optout.opt_out_list ORDER BY user_id;
SELECT user_id, opted_in_at IS NOT NULL AS ended,
       opted_out_by = current_user AS by_me, opted_in_by = current_user AS in_by_me, reason
  FROM optout.opt_out_history ORDER BY user_id, opted_out_at;

DROP TABLE event, staging;
-- The extension goes without a trace, and comes back empty.
DROP EXTENSION optout;
SELECT count(*) FROM pg_namespace WHERE nspname = 'optout';
CREATE EXTENSION optout;
SELECT * FROM optout.user_list;
DROP EXTENSION optout;
