-- What each reader sees.
CREATE EXTENSION optout;
CREATE ROLE regress_acme_admin;
CREATE ROLE regress_acme_reader;
CREATE ROLE regress_both;
CREATE ROLE regress_all_reader;
CREATE ROLE regress_nobody;
SELECT optout.enroll('alice', org, 'Alice of ' || org), optout.enroll('bob', org), optout.opt_out('alice', org, 'reason of ' || org)
  FROM unnest('{acme,globex,initech}'::text[]) org;
INSERT INTO optout.discard_ledger VALUES
  ('acme', '2026-05-01 10:00+00', 1, 10), ('acme', '2026-05-01 10:00+00', 2, 5), ('acme', '2026-05-01 11:00+00', 1, 1),
  ('globex', '2026-05-01 10:00+00', 1, 7);
SELECT optout.grant_authority('regress_acme_admin', 'acme', 'administer');
SELECT optout.grant_authority('regress_acme_reader', 'acme', 'read');
SELECT optout.grant_authority('regress_both', 'acme', 'read'), optout.grant_authority('regress_both', 'globex', 'administer');
SELECT optout.grant_authority('regress_all_reader', '*', 'read');

SET timezone = 'UTC';
CREATE FUNCTION seen() RETURNS TABLE (view text, organizations text) LANGUAGE sql AS $$
  SELECT 'user_list', string_agg(DISTINCT organization, ', ') FROM optout.user_list
  UNION ALL SELECT 'opt_out_list', string_agg(DISTINCT organization, ', ') FROM optout.opt_out_list
  UNION ALL SELECT 'opt_out_history', string_agg(DISTINCT organization, ', ') FROM optout.opt_out_history
  UNION ALL SELECT 'discards', string_agg(DISTINCT organization, ', ') FROM optout.discards
  UNION ALL SELECT 'readable_organization', string_agg(DISTINCT organization, ', ') FROM optout.readable_organization
$$;
SELECT * FROM seen();
SET ROLE regress_acme_admin;
SELECT * FROM seen();
SELECT * FROM optout.user_list ORDER BY user_id;
SELECT organization, user_id, display_name, reason FROM optout.opt_out_list;
SELECT * FROM optout.discards ORDER BY hour;
SET ROLE regress_acme_reader;
SELECT * FROM seen();
SET ROLE regress_both;
SELECT * FROM seen();
SET ROLE regress_all_reader;
SELECT * FROM seen();
SET ROLE regress_nobody;
SELECT * FROM seen();

-- A view over the views shows what its reader may see, not what its owner may.
RESET ROLE;
CREATE VIEW dashboard AS SELECT organization, user_id FROM optout.opt_out_list;
GRANT SELECT ON dashboard TO PUBLIC;
SET ROLE regress_acme_reader;
SELECT * FROM dashboard;
-- A pooled connection that changes roles does not keep the first one's plan.
PREPARE list AS SELECT organization FROM optout.opt_out_list ORDER BY 1;
EXECUTE list;
SET ROLE regress_all_reader;
EXECUTE list;
SET ROLE regress_nobody;
EXECUTE list;

-- A reader's own functions and operators do not see rows that they may not.
SET ROLE regress_acme_reader;
CREATE FUNCTION pg_temp.peek(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
BEGIN RAISE NOTICE 'peeked at %', $1; RETURN true; END $$;
SELECT organization, user_id FROM optout.opt_out_list WHERE pg_temp.peek(reason);
SELECT organization, user_id FROM optout.opt_out_history WHERE pg_temp.peek(reason);
SELECT organization, user_id FROM optout.user_list WHERE user_id = 'alice' AND pg_temp.peek(display_name);
SELECT organization FROM optout.discards WHERE pg_temp.peek(discarded::text);
SELECT 1 / (organization <> 'globex')::int AS no_error FROM optout.opt_out_list;
DROP FUNCTION pg_temp.peek;
RESET ROLE;

-- client_may_still_track, and users who left the directory
UPDATE optout.product_user SET signed_in_at = now() - interval '1 day' WHERE organization = 'acme';
UPDATE optout.product_user SET signed_in_at = now() + interval '1 day' WHERE organization = 'globex';
DELETE FROM optout.product_user WHERE organization = 'initech' AND user_id = 'alice';
SELECT organization, user_id, display_name, client_may_still_track FROM optout.opt_out_list ORDER BY organization;
SELECT organization, user_id, opted_out FROM optout.user_list ORDER BY 1, 2;

DROP VIEW dashboard;
DROP FUNCTION seen;
SET client_min_messages = error;
DROP EXTENSION optout;
DROP ROLE regress_acme_admin, regress_acme_reader, regress_both, regress_all_reader, regress_nobody;
