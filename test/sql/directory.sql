-- The directory: enroll(), sign_in(), and a site's own writes.
CREATE EXTENSION optout;

SELECT optout.enroll('alice', 'acme', 'Alice', 'alice@example.org');
SELECT optout.enroll('alice', 'globex', 'Another Alice');
SELECT organization, user_id, display_name, email, signed_in_at,
       enrolled_at BETWEEN now() - interval '1 hour' AND clock_timestamp() AS enrolled_just_now
  FROM optout.product_user ORDER BY 1, 2;

-- Enrolling again updates what is given and leaves what is not.
SELECT optout.enroll('alice', 'acme', 'Alice A.');
SELECT optout.enroll('alice', 'acme');
SELECT optout.enroll('alice', 'acme', email => 'alice@example.com');
SELECT organization, display_name, email FROM optout.product_user ORDER BY 1;

-- Several users, all or none; those already there stay as they are.
SELECT optout.enroll(ARRAY['bob', 'alice', 'carol', 'bob'], 'acme');
SELECT optout.enroll(ARRAY['dave', NULL], 'acme');
SELECT optout.enroll(ARRAY['dave', ''], 'acme');
SELECT optout.enroll(ARRAY['dave', repeat('x', 1025)], 'acme');
SELECT optout.enroll('{}'::text[], 'acme');
SELECT user_id, display_name, email FROM optout.product_user WHERE organization = 'acme' ORDER BY 1;

-- Sign-in enrolls, stamps the time, and says whether to track.
SELECT optout.sign_in('erin', 'acme', 'Erin', 'erin@example.org') AS track;
SELECT user_id, display_name, email,
       signed_in_at = enrolled_at AS signed_in_when_enrolled
  FROM optout.product_user WHERE user_id = 'erin';
SELECT optout.opt_out('erin', 'acme');
SELECT user_id, client_may_still_track FROM optout.opt_out_list;
SELECT optout.sign_in('erin', 'acme') AS track;
SELECT user_id, client_may_still_track FROM optout.opt_out_list;
SELECT signed_in_at > enrolled_at AS stamped_again, display_name, email
  FROM optout.product_user WHERE user_id = 'erin';
SELECT optout.sign_in('erin', 'globex') AS track_in_another_organization;
SELECT optout.opt_in('erin', 'acme');
SELECT optout.sign_in('erin', 'acme') AS track;
-- No sign-in is known: no client of theirs was ever told to track.
SELECT optout.opt_out('bob', 'acme');
SELECT user_id, client_may_still_track FROM optout.opt_out_list;
SELECT optout.sign_in(NULL);
SELECT optout.sign_in('');

-- A plain table: a site may fill it, and need not name the organization.
INSERT INTO optout.product_user (user_id, display_name) VALUES ('frank', 'Frank');
SET optout.organization = 'acme';
INSERT INTO optout.product_user (user_id) VALUES ('grace');
RESET optout.organization;
SELECT organization, user_id FROM optout.product_user WHERE user_id IN ('frank', 'grace') ORDER BY 2;
\set VERBOSITY terse
INSERT INTO optout.product_user (user_id) VALUES ('');
INSERT INTO optout.product_user (organization, user_id) VALUES ('*', 'x');
INSERT INTO optout.product_user (organization, user_id) VALUES ('', 'x');
INSERT INTO optout.product_user (user_id) VALUES (repeat('x', 1025));
INSERT INTO optout.product_user (organization, user_id) VALUES ('acme', 'grace');

\set VERBOSITY default

-- A command that writes to the directory cannot administer the same rows meanwhile.
UPDATE optout.product_user SET email = 'x' WHERE organization = 'acme' AND user_id = 'grace' RETURNING optout.opt_out(user_id, 'acme');
\echo :LAST_ERROR_SQLSTATE

-- Leaving the directory does not opt anybody in.
DELETE FROM optout.product_user WHERE organization = 'acme' AND user_id = 'bob';
SELECT optout.accepts('bob', 'acme');
SELECT organization, user_id, display_name, client_may_still_track FROM optout.opt_out_list;
SELECT optout.opt_out('bob', 'acme');   -- not in the directory
SELECT optout.opt_in('bob', 'acme');    -- but opted out, hence can be opted in
SELECT optout.opt_in('bob', 'acme');
SELECT optout.accepts('bob', 'acme');

DROP EXTENSION optout;
