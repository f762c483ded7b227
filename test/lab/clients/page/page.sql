-- page.sql: what the page asks for, in a schema that PostGraphile may expose.
--
-- PostGraphile leaves out what belongs to an extension, and functions that are
-- overloaded.  So the page has views and functions with names of their own.
-- They run as whoever asks, and lend no rights.
CREATE SCHEMA opt_out_page;

CREATE VIEW opt_out_page.user_choice WITH (security_invoker) AS
SELECT user_id, display_name
  FROM optout.user_list
 WHERE organization = current_setting('optout.organization') AND NOT opted_out;
COMMENT ON VIEW opt_out_page.user_choice IS 'Who can be opted out.';

CREATE VIEW opt_out_page.opted_out WITH (security_invoker) AS
SELECT user_id, display_name, opted_out_at, reason, client_may_still_track
  FROM optout.opt_out_list
 WHERE organization = current_setting('optout.organization');
COMMENT ON VIEW opt_out_page.opted_out IS 'Who is opted out.';

CREATE FUNCTION opt_out_page.opt_out_users(user_ids text[], reason text DEFAULT NULL) RETURNS bigint
LANGUAGE sql AS 'SELECT optout.opt_out(user_ids, reason => reason)';
COMMENT ON FUNCTION opt_out_page.opt_out_users IS 'Opts all of them out, or none.';

CREATE FUNCTION opt_out_page.opt_in_users(user_ids text[], reason text DEFAULT NULL) RETURNS bigint
LANGUAGE sql AS 'SELECT optout.opt_in(user_ids, reason => reason)';
COMMENT ON FUNCTION opt_out_page.opt_in_users IS 'Opts all of them in again, or none.';

-- The server connects as page, which has no right but to become acme_admin.
CREATE ROLE acme_admin;
SELECT optout.grant_authority('acme_admin', 'acme', 'administer');
CREATE ROLE page LOGIN NOINHERIT;
GRANT acme_admin TO page;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA opt_out_page FROM PUBLIC;
GRANT USAGE ON SCHEMA opt_out_page TO acme_admin;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA opt_out_page TO acme_admin;
GRANT SELECT ON ALL TABLES IN SCHEMA opt_out_page TO acme_admin;
