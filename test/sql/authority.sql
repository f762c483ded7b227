-- Who may do what.
CREATE EXTENSION optout;
CREATE ROLE regress_acme_admin LOGIN;
CREATE ROLE regress_acme_reader;
CREATE ROLE regress_all_admin;
CREATE ROLE regress_member IN ROLE regress_acme_admin;
CREATE ROLE regress_noinherit NOINHERIT IN ROLE regress_acme_admin;
CREATE ROLE "regress Ingest";
CREATE ROLE regress_nobody;
SELECT optout.enroll(ARRAY['alice', 'bob'], org) FROM unnest('{acme,globex,default}'::text[]) org;
SELECT optout.opt_out('alice', 'globex');

SELECT optout.grant_authority('regress_acme_admin', 'acme', 'administer');
SELECT optout.grant_authority('regress_acme_admin', 'acme', 'administer');  -- as often as you like
SELECT optout.grant_authority('regress_acme_reader', 'acme', 'read');
SELECT optout.grant_authority('regress_all_admin', '*', 'administer');
SELECT * FROM optout.authority ORDER BY organization, role::text;

-- What is refused
SELECT optout.grant_authority('regress_acme_admin', 'acme', 'write');
\echo :LAST_ERROR_SQLSTATE
SELECT optout.grant_authority('regress_acme_admin', 'acme', 'ADMINISTER');
SELECT optout.grant_authority('regress_acme_admin', '', 'read');
\echo :LAST_ERROR_SQLSTATE
SELECT optout.grant_authority(NULL, 'acme', 'read');
\echo :LAST_ERROR_SQLSTATE
SELECT optout.grant_authority('regress_acme_admin', 'acme', NULL);
SELECT optout.grant_authority('regress_unknown', 'acme', 'read');
SELECT optout.grant_authority('4294967295', 'acme', 'read');
\echo :LAST_ERROR_SQLSTATE
SELECT optout.revoke_authority('regress_nobody', 'acme', 'read');
SELECT optout.revoke_authority('regress_acme_admin', 'acme', 'read');

-- An administrator of one organization
SET ROLE regress_acme_admin;
SELECT optout.enroll('carol', 'acme');
SELECT optout.opt_out('alice', 'acme', 'asked for it'), optout.opt_in('alice', 'acme'), optout.opt_out(ARRAY['alice', 'bob'], 'acme');
SELECT optout.sign_in('carol', 'acme'), optout.forget('carol', 'acme');
-- any other: the same error for a user opted out, a user not, and no user at all
SELECT optout.opt_out('alice', 'globex');
\echo :LAST_ERROR_SQLSTATE
SELECT optout.opt_out('bob', 'globex');
SELECT optout.opt_out('nobody', 'globex');
SELECT optout.opt_out('alice', 'nonexistent');
SELECT optout.opt_out(ARRAY['alice', 'bob'], 'globex');
SELECT optout.opt_in('alice', 'globex');
SELECT optout.opt_in('bob', 'globex');
SELECT optout.opt_in(ARRAY['nobody'], 'globex');
SELECT optout.enroll('x', 'globex');
SELECT optout.enroll(ARRAY['x'], 'globex');
SELECT optout.forget('alice', 'globex');
SELECT optout.forget(ARRAY['alice'], 'globex', true);
SELECT optout.sign_in('alice', 'globex');
\echo :LAST_ERROR_SQLSTATE
SELECT optout.opt_out('alice');     -- the setting's organization
SELECT optout.opt_out('alice', '*');
SET optout.organization = 'acme';
SELECT optout.opt_in('alice');
RESET optout.organization;
-- no writing around the functions, no asking about anybody, no giving authority away
INSERT INTO optout.opt_out_period VALUES ('acme', 'bob', now(), NULL, 'somebody else');
UPDATE optout.opt_out_period SET opted_out_by = 'somebody else';
DELETE FROM optout.opt_out_period;
SELECT * FROM optout.opt_out_period;
SELECT * FROM optout.product_user;
SELECT * FROM optout.authority;
SELECT * FROM optout.discard_ledger;
SELECT optout.is_opted_out('alice', 'globex');
SELECT optout.accepts('alice', 'globex');
SELECT optout.grant_authority('regress_nobody', 'acme', 'read');
SELECT optout.revoke_authority('regress_all_admin', '*', 'administer');
RESET ROLE;

-- who did it is the effective caller
SELECT user_id, opted_out_by, opted_in_by FROM optout.opt_out_history WHERE organization = 'acme' ORDER BY user_id, opted_out_at;

-- readers change nothing
SET ROLE regress_acme_reader;
SELECT optout.opt_out('alice', 'acme');
SELECT optout.sign_in('alice', 'acme');
RESET ROLE;

-- not even if they administer elsewhere
SELECT optout.grant_authority('regress_acme_reader', 'globex', 'administer');
SET ROLE regress_acme_reader;
SELECT optout.opt_out('alice', 'acme');
SELECT optout.opt_out('alice', 'globex');
RESET ROLE;
SELECT optout.revoke_authority('regress_acme_reader', 'globex', 'administer');

-- inheriting members have it, others only by SET ROLE
SET ROLE regress_member;
SELECT optout.opt_out('alice', 'acme');
RESET ROLE;
SET ROLE regress_noinherit;
SELECT optout.opt_in('alice', 'acme');
SET ROLE regress_acme_admin;
SELECT optout.opt_in('alice', 'acme');
RESET ROLE;
SELECT opted_out_by, opted_in_by FROM optout.opt_out_history WHERE user_id = 'alice' AND organization = 'acme' ORDER BY opted_out_at DESC LIMIT 1;

-- every organization
SET ROLE regress_all_admin;
SELECT optout.opt_in('alice', 'globex'), optout.opt_out('bob');
SELECT optout.opt_out('bob', '*');
RESET ROLE;

-- SECURITY DEFINER wrappers act as their owner
CREATE FUNCTION leave_tracking(who text) RETURNS boolean LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$ SELECT optout.opt_out(who, 'acme') $$;
ALTER FUNCTION leave_tracking OWNER TO regress_acme_admin;
GRANT EXECUTE ON FUNCTION leave_tracking TO regress_nobody;
SET ROLE regress_nobody;
SELECT leave_tracking('alice');
SELECT optout.opt_out('alice', 'acme');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM optout.opt_out_list;
RESET ROLE;
SELECT opted_out_by FROM optout.opt_out_list WHERE organization = 'acme' AND user_id = 'alice';
-- and an unprivileged definer takes the caller's authority away
CREATE FUNCTION powerless(who text) RETURNS boolean LANGUAGE sql SECURITY DEFINER AS $$ SELECT optout.opt_in(who, 'acme') $$;
ALTER FUNCTION powerless OWNER TO regress_acme_reader;
SELECT powerless('alice');

-- EXECUTE, given by hand but without authority, is not enough
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA optout TO regress_nobody;
SET ROLE regress_nobody;
SELECT optout.opt_out('alice', 'acme');
SELECT optout.opt_in('alice', 'acme');
SELECT optout.enroll('alice', 'acme');
SELECT optout.forget('alice', 'acme');
SELECT optout.sign_in('alice', 'acme');
SELECT optout.grant_authority('regress_nobody', '*', 'administer');
SELECT optout.revoke_authority('regress_all_admin', '*', 'administer');
-- the filter is given so
SELECT optout.accepts('alice', 'acme');
RESET ROLE;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA optout FROM regress_nobody;

-- Revoked
SELECT optout.grant_authority('regress_acme_admin', 'globex', 'administer');
SELECT optout.revoke_authority('regress_acme_admin', 'acme', 'administer');
SET ROLE regress_acme_admin;
SELECT optout.opt_in('alice', 'acme');
SELECT optout.opt_out('alice', 'globex');
RESET ROLE;
SELECT optout.revoke_authority('regress_acme_admin', 'globex', 'administer');
SET ROLE regress_acme_admin;
SELECT optout.opt_in('alice', 'globex');
RESET ROLE;

-- A role cannot be dropped while it administers.
DROP ROLE regress_all_admin;
SELECT optout.revoke_authority('regress_all_admin', '*', 'administer');
DROP ROLE regress_all_admin;
-- One that only reads can; what is left is of no use, and can be revoked by number.
SELECT optout.grant_authority('regress_nobody', 'acme', 'read');
SELECT 'regress_nobody'::regrole::oid AS gone \gset
DROP FUNCTION leave_tracking, powerless;
DROP ROLE regress_nobody;
SELECT role::text = :'gone' FROM optout.authority WHERE privilege = 'read' ORDER BY 1;
SET client_min_messages = error;
SELECT optout.revoke_authority(:'gone', 'acme', 'read');
RESET client_min_messages;
SELECT * FROM optout.authority;

DROP EXTENSION optout;

-- An owner of the extension who is no superuser (any more) has all authority.
CREATE ROLE "regress Owner" SUPERUSER;
SET ROLE "regress Owner";
CREATE EXTENSION optout;
RESET ROLE;
ALTER ROLE "regress Owner" NOSUPERUSER;
SET ROLE "regress Owner";
SELECT optout.enroll('dora', 'acme'), optout.opt_out('dora', 'acme'), optout.accepts('dora', 'acme');
SELECT organization, user_id, opted_out_by FROM optout.opt_out_list;
SELECT optout.grant_authority('regress_member', 'acme', 'administer');
SET ROLE regress_member;
SELECT optout.opt_in('dora', 'acme');
SET ROLE "regress Owner";
SELECT optout.revoke_authority('regress_member', 'acme', 'administer');
-- whatever is granted and revoked
SELECT optout.grant_authority('"regress Owner"', 'acme', 'administer'), optout.revoke_authority('"regress Owner"', 'acme', 'administer');
SELECT optout.opt_out('dora', 'acme');
RESET ROLE;
DROP EXTENSION optout;
DROP ROLE "regress Owner";

DROP ROLE regress_acme_admin, regress_acme_reader, regress_member, regress_noinherit, "regress Ingest";
