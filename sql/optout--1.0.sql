/*
 * optout 1.0: keeps individual users out of usage tracking.
 *
 * Read from top to bottom this is the specification: tables, administration,
 * client, filter, guard, authority, views, privileges.
 */
\echo Use "CREATE EXTENSION optout" to load this file. \quit

-- Fails where the schema exists already: whoever owns a schema can put
-- functions of their own into it, so it has to be this extension's alone.
CREATE SCHEMA optout;
REVOKE ALL ON SCHEMA optout FROM PUBLIC;
GRANT USAGE ON SCHEMA optout TO PUBLIC;
COMMENT ON SCHEMA optout IS
'Exclude users from product usage tracking: optout.opt_out() and optout.opt_in() administer, optout.accepts() and optout.guard() discard events while they are ingested, views such as optout.opt_out_list report.';

----------------------------------------------------------------------
-- Tables
----------------------------------------------------------------------

-- Identifiers are compared byte for byte, hence COLLATE "C".  1024 bytes each
-- keep every key well below what a B-tree entry can hold.  All tables are
-- heaps whatever default_table_access_method says, for the C code locks rows.

CREATE TABLE optout.product_user (
	organization text COLLATE pg_catalog."C" NOT NULL
		DEFAULT COALESCE(NULLIF(pg_catalog.current_setting('optout.organization', true), ''), 'default'),
	user_id text COLLATE pg_catalog."C" NOT NULL,
	display_name text,
	email text,
	enrolled_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	signed_in_at timestamptz,
	CONSTRAINT product_user_pkey PRIMARY KEY (organization, user_id),
	CONSTRAINT product_user_organization_check
		CHECK (organization NOT IN ('', '*') AND pg_catalog.octet_length(organization) <= 1024),
	CONSTRAINT product_user_user_id_check
		CHECK (user_id <> '' AND pg_catalog.octet_length(user_id) <= 1024)
) USING heap;
COMMENT ON TABLE optout.product_user IS
'Directory of all users of each organization. A plain table: fill it with optout.enroll(), optout.sign_in(), or from your own user table. Removing a user here does not opt them in.';
COMMENT ON COLUMN optout.product_user.organization IS 'Organization the user belongs to; the setting optout.organization where left out.';
COMMENT ON COLUMN optout.product_user.user_id IS 'The id that usage events carry, compared byte for byte.';
COMMENT ON COLUMN optout.product_user.display_name IS 'Name shown to administrators.';
COMMENT ON COLUMN optout.product_user.email IS 'Mail address shown to administrators.';
COMMENT ON COLUMN optout.product_user.enrolled_at IS 'When the user was added to the directory.';
COMMENT ON COLUMN optout.product_user.signed_in_at IS 'Latest sign-in, stamped by optout.sign_in(); NULL where none is known.';

CREATE TABLE optout.opt_out_period (
	organization text COLLATE pg_catalog."C" NOT NULL,
	user_id text COLLATE pg_catalog."C" NOT NULL,
	opted_out_at timestamptz NOT NULL,
	opted_in_at timestamptz,
	opted_out_by text NOT NULL,
	opted_in_by text,
	reason text,
	-- user_id first: the filter looks one user up, and within one organization
	-- nothing but the user_id decides.
	CONSTRAINT opt_out_period_pkey PRIMARY KEY (user_id, organization, opted_out_at),
	CONSTRAINT opt_out_period_organization_check
		CHECK (organization NOT IN ('', '*') AND pg_catalog.octet_length(organization) <= 1024),
	CONSTRAINT opt_out_period_user_id_check
		CHECK (user_id <> '' AND pg_catalog.octet_length(user_id) <= 1024),
	CONSTRAINT opt_out_period_order_check
		CHECK (opted_in_at > opted_out_at),
	CONSTRAINT opt_out_period_opted_in_by_check
		CHECK ((opted_in_at IS NULL) = (opted_in_by IS NULL))
) USING heap;
-- Never toasted, so that the shared filter can read them from any row version.
ALTER TABLE optout.opt_out_period
	ALTER COLUMN organization SET STORAGE PLAIN,
	ALTER COLUMN user_id SET STORAGE PLAIN;
-- At most one open period a user; also what lists one organization's users.
CREATE UNIQUE INDEX opt_out_period_open_key ON optout.opt_out_period (organization, user_id)
	WHERE opted_in_at IS NULL;
COMMENT ON TABLE optout.opt_out_period IS
'Who is and was opted out: state, history and audit trail in one. One row a period [opted_out_at, opted_in_at); opted_in_at IS NULL is the open one. Written by optout.opt_out(), optout.opt_in() and optout.forget() only.';
COMMENT ON COLUMN optout.opt_out_period.organization IS 'Organization whose administrator opted the user out.';
COMMENT ON COLUMN optout.opt_out_period.user_id IS 'The user opted out.';
COMMENT ON COLUMN optout.opt_out_period.opted_out_at IS 'Start of the period (inclusive), by the server''s clock.';
COMMENT ON COLUMN optout.opt_out_period.opted_in_at IS 'End of the period (exclusive), by the server''s clock; NULL while the user is opted out.';
COMMENT ON COLUMN optout.opt_out_period.opted_out_by IS 'Role that opted the user out.';
COMMENT ON COLUMN optout.opt_out_period.opted_in_by IS 'Role that opted the user in again; NULL while the user is opted out.';
COMMENT ON COLUMN optout.opt_out_period.reason IS 'Reason given with the opt-out, if any.';

-- Makes each row known to the shared filter before it can be seen, however it
-- comes, and makes all sessions forget what they remember; see src/filter.c.
CREATE FUNCTION optout.add_to_filter()
RETURNS trigger
AS 'MODULE_PATHNAME', 'optout_add_to_filter' LANGUAGE C;
COMMENT ON FUNCTION optout.add_to_filter() IS
'Trigger function of optout.opt_out_period that keeps the shared filter exact.';
CREATE TRIGGER optout_filter AFTER INSERT OR UPDATE OR DELETE ON optout.opt_out_period
	FOR EACH ROW EXECUTE FUNCTION optout.add_to_filter();
ALTER TABLE optout.opt_out_period ENABLE ALWAYS TRIGGER optout_filter;

CREATE TABLE optout.discard_ledger (
	organization text COLLATE pg_catalog."C" NOT NULL,
	hour timestamptz NOT NULL,
	slot integer NOT NULL,
	discarded bigint NOT NULL,
	CONSTRAINT discard_ledger_pkey PRIMARY KEY (organization, hour, slot),
	CONSTRAINT discard_ledger_discarded_check CHECK (discarded >= 0)
) USING heap;
COMMENT ON TABLE optout.discard_ledger IS
'How many events were discarded, per organization and hour. It never says whose they were.';
COMMENT ON COLUMN optout.discard_ledger.organization IS 'Organization whose events were discarded.';
COMMENT ON COLUMN optout.discard_ledger.hour IS 'Start of the hour in which the transactions that discarded them were committed or prepared.';
COMMENT ON COLUMN optout.discard_ledger.slot IS 'Which of several rows of the hour, so that ingesting sessions do not wait for each other; view optout.discards adds them up.';
COMMENT ON COLUMN optout.discard_ledger.discarded IS 'Number of events discarded.';

CREATE TABLE optout.authority (
	organization text COLLATE pg_catalog."C" NOT NULL,
	role regrole NOT NULL,
	privilege text COLLATE pg_catalog."C" NOT NULL,
	CONSTRAINT authority_pkey PRIMARY KEY (organization, role, privilege),
	CONSTRAINT authority_organization_check
		CHECK (organization <> '' AND pg_catalog.octet_length(organization) <= 1024),
	CONSTRAINT authority_privilege_check CHECK (privilege IN ('administer', 'read'))
) USING heap;
COMMENT ON TABLE optout.authority IS
'Who may administer or read which organization, beside superusers and the owner of the extension. Kept by optout.grant_authority() and optout.revoke_authority().';
COMMENT ON COLUMN optout.authority.organization IS 'Organization; ''*'' means every one.';
COMMENT ON COLUMN optout.authority.role IS 'Role that holds the privilege; so does every role that inherits it.';
COMMENT ON COLUMN optout.authority.privilege IS '''administer'' (change and read) or ''read''.';

-- Nothing that names anybody gets into the planner's statistics, for EXPLAIN
-- shows everybody who may read a view what they lead the planner to expect.
ALTER TABLE optout.product_user
	ALTER COLUMN organization SET STATISTICS 0, ALTER COLUMN user_id SET STATISTICS 0,
	ALTER COLUMN display_name SET STATISTICS 0, ALTER COLUMN email SET STATISTICS 0;
ALTER TABLE optout.opt_out_period
	ALTER COLUMN organization SET STATISTICS 0, ALTER COLUMN user_id SET STATISTICS 0,
	ALTER COLUMN opted_out_by SET STATISTICS 0, ALTER COLUMN opted_in_by SET STATISTICS 0,
	ALTER COLUMN reason SET STATISTICS 0;
ALTER TABLE optout.discard_ledger ALTER COLUMN organization SET STATISTICS 0;
ALTER TABLE optout.authority
	ALTER COLUMN organization SET STATISTICS 0, ALTER COLUMN role SET STATISTICS 0;

-- A dump and restore loses nothing.  An authority whose role has been dropped
-- is left out: its bare OID could be another role's where the dump is restored.
SELECT pg_catalog.pg_extension_config_dump('optout.product_user', '');
SELECT pg_catalog.pg_extension_config_dump('optout.opt_out_period', '');
SELECT pg_catalog.pg_extension_config_dump('optout.discard_ledger', '');
SELECT pg_catalog.pg_extension_config_dump('optout.authority',
	'WHERE role OPERATOR(pg_catalog.=) ANY (SELECT r.oid FROM pg_catalog.pg_roles r)');

----------------------------------------------------------------------
-- Administration
----------------------------------------------------------------------

-- They check that the effective caller may administer the organization and
-- then write as the tables' owner; hence the pinned search_path.

CREATE FUNCTION optout.enroll(user_id text, organization text DEFAULT NULL,
							  display_name text DEFAULT NULL, email text DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME', 'optout_enroll' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.enroll(text, text, text, text) IS
'Add a user to the directory, or update their display name and mail address (NULL leaves what is there).';

CREATE FUNCTION optout.enroll(user_ids text[], organization text DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME', 'optout_enroll_array' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.enroll(text[], text) IS
'Add users to the directory, all or none; those it holds already stay as they are.';

CREATE FUNCTION optout.opt_out(user_id text, organization text DEFAULT NULL, reason text DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'optout_opt_out' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.opt_out(text, text, text) IS
'Opt a user out of tracking. True where newly opted out, false where they already were (then nothing changes). Error 42704 for a user the directory does not hold.';

CREATE FUNCTION optout.opt_out(user_ids text[], organization text DEFAULT NULL, reason text DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'optout_opt_out_array' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.opt_out(text[], text, text) IS
'Opt users out of tracking, all or none. Returns how many were newly opted out. Error 42704 for a user the directory does not hold.';

CREATE FUNCTION optout.opt_in(user_id text, organization text DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'optout_opt_in' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.opt_in(text, text) IS
'Opt a user back into tracking. True where they were opted out, false where not. Error 42704 for a user who is neither opted out nor in the directory.';

CREATE FUNCTION optout.opt_in(user_ids text[], organization text DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'optout_opt_in_array' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.opt_in(text[], text) IS
'Opt users back into tracking, all or none. Returns how many were opted out before. Error 42704 for a user who is neither opted out nor in the directory.';

CREATE FUNCTION optout.forget(user_id text, organization text DEFAULT NULL, force boolean DEFAULT false)
RETURNS boolean
AS 'MODULE_PATHNAME', 'optout_forget' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.forget(text, text, boolean) IS
'Erase a person: their directory row and all their opt-out periods. True where there was something to erase. Error 55000 while the user is opted out, unless force => true, after which their events are accepted again.';

CREATE FUNCTION optout.forget(user_ids text[], organization text DEFAULT NULL, force boolean DEFAULT false)
RETURNS bigint
AS 'MODULE_PATHNAME', 'optout_forget_array' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.forget(text[], text, boolean) IS
'Erase persons, all or none: directory rows and opt-out periods. Returns how many had something to erase. Error 55000 while one is opted out, unless force => true, after which their events are accepted again.';

----------------------------------------------------------------------
-- Client side
----------------------------------------------------------------------

CREATE FUNCTION optout.sign_in(user_id text, organization text DEFAULT NULL,
							   display_name text DEFAULT NULL, email text DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'optout_sign_in' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.sign_in(text, text, text, text) IS
'Enroll a user who signs in, stamp the time, and return whether the client should track in this session (false where the user is opted out).';

----------------------------------------------------------------------
-- Filter
----------------------------------------------------------------------

-- STABLE, though the answer follows the latest committed state even within a
-- statement: a VOLATILE function in its WHERE takes COPY off its multi-row
-- path.  PARALLEL UNSAFE, for in parallel mode no snapshot newer than the
-- query's can be taken, and a later opt-out would be missed.  No search_path:
-- they look nothing up by name, and setting one would cost more than the answer.

CREATE FUNCTION optout.accepts_support(internal)
RETURNS internal
AS 'MODULE_PATHNAME', 'optout_accepts_support' LANGUAGE C STRICT;
COMMENT ON FUNCTION optout.accepts_support(internal) IS
'Planner support function of optout.accepts().';

CREATE FUNCTION optout.is_opted_out_support(internal)
RETURNS internal
AS 'MODULE_PATHNAME', 'optout_is_opted_out_support' LANGUAGE C STRICT;
COMMENT ON FUNCTION optout.is_opted_out_support(internal) IS
'Planner support function of optout.is_opted_out().';

CREATE FUNCTION optout.accepts(user_id text, organization text DEFAULT NULL, occurred_at timestamptz DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'optout_accepts_text' LANGUAGE C STABLE PARALLEL UNSAFE
SUPPORT optout.accepts_support;
COMMENT ON FUNCTION optout.accepts(text, text, timestamptz) IS
'The filter for ingest SQL, as in COPY ... WHERE optout.accepts(user_id). False where the user is opted out now, or was when the event occurred (if occurred_at is given); true otherwise, and for a NULL user_id.';

CREATE FUNCTION optout.accepts(user_id uuid, organization text DEFAULT NULL, occurred_at timestamptz DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'optout_accepts_uuid' LANGUAGE C STABLE PARALLEL UNSAFE
SUPPORT optout.accepts_support;
COMMENT ON FUNCTION optout.accepts(uuid, text, timestamptz) IS
'The filter for ingest SQL, for uuid ids; the same user as its text form in lower case.';

CREATE FUNCTION optout.accepts(user_id bigint, organization text DEFAULT NULL, occurred_at timestamptz DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'optout_accepts_bigint' LANGUAGE C STABLE PARALLEL UNSAFE
SUPPORT optout.accepts_support;
COMMENT ON FUNCTION optout.accepts(bigint, text, timestamptz) IS
'The filter for ingest SQL, for integer ids; the same user as its text form.';

CREATE FUNCTION optout.is_opted_out(user_id text, organization text DEFAULT NULL, at timestamptz DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'optout_is_opted_out_text' LANGUAGE C STABLE PARALLEL SAFE
SUPPORT optout.is_opted_out_support;
COMMENT ON FUNCTION optout.is_opted_out(text, text, timestamptz) IS
'For reports: true where the user is opted out now, or was at the given time. Discards nothing and counts nothing; works on a standby.';

CREATE FUNCTION optout.is_opted_out(user_id uuid, organization text DEFAULT NULL, at timestamptz DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'optout_is_opted_out_uuid' LANGUAGE C STABLE PARALLEL SAFE
SUPPORT optout.is_opted_out_support;
COMMENT ON FUNCTION optout.is_opted_out(uuid, text, timestamptz) IS
'For reports, for uuid ids: true where the user is opted out now, or was at the given time.';

CREATE FUNCTION optout.is_opted_out(user_id bigint, organization text DEFAULT NULL, at timestamptz DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'optout_is_opted_out_bigint' LANGUAGE C STABLE PARALLEL SAFE
SUPPORT optout.is_opted_out_support;
COMMENT ON FUNCTION optout.is_opted_out(bigint, text, timestamptz) IS
'For reports, for integer ids: true where the user is opted out now, or was at the given time.';

CREATE PROCEDURE optout.settle()
AS 'MODULE_PATHNAME', 'optout_settle' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON PROCEDURE optout.settle() IS
'Wait until every transaction that asked the filter before the call has ended. After it, no event that was let through before an earlier opt-out can still be committed. Nobody waits for it.';

----------------------------------------------------------------------
-- Guard
----------------------------------------------------------------------

CREATE FUNCTION optout.discard_opted_out()
RETURNS trigger
AS 'MODULE_PATHNAME', 'optout_discard_opted_out' LANGUAGE C;
COMMENT ON FUNCTION optout.discard_opted_out() IS
'Trigger function of optout_guard triggers; use optout.guard() to create one.';

CREATE FUNCTION optout.guard(relation regclass, user_id name DEFAULT 'user_id',
							 organization name DEFAULT NULL, occurred_at name DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME', 'optout_guard' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.guard(regclass, name, name, name) IS
'Guard an event table: a trigger named optout_guard discards events of opted-out users, whichever way they arrive. Give the columns by name; without an organization column the setting optout.organization of the writing session counts. Calling it again replaces the trigger. Needs ownership of the table.';

CREATE FUNCTION optout.unguard(relation regclass)
RETURNS void
AS 'MODULE_PATHNAME', 'optout_unguard' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.unguard(regclass) IS
'Take the guard off an event table. Error 42704 where there is none.';

----------------------------------------------------------------------
-- Authority
----------------------------------------------------------------------

CREATE FUNCTION optout.grant_authority(role regrole, organization text, privilege text)
RETURNS void
AS 'MODULE_PATHNAME', 'optout_grant_authority' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.grant_authority(regrole, text, text) IS
'Let a role ''administer'' (change and read) or ''read'' an organization; ''*'' means every organization. For superusers and the owner of the extension.';

CREATE FUNCTION optout.revoke_authority(role regrole, organization text, privilege text)
RETURNS void
AS 'MODULE_PATHNAME', 'optout_revoke_authority' LANGUAGE C
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION optout.revoke_authority(regrole, text, text) IS
'Take back what optout.grant_authority() gave. Warns where there was nothing to take back. For superusers and the owner of the extension.';

----------------------------------------------------------------------
-- Views
----------------------------------------------------------------------

-- Each shows the reader's organizations only.  current_user within a view is
-- the reader, so pg_has_role() asks for them; for a superuser it is always
-- true, which is why the owner's row stands for both.
--
-- EXPLAIN ANALYZE tells everybody how many rows a scan has visited and dropped.
-- So whoever may not read every organization must not get a condition of their
-- own into a scan that visits others' rows: OFFSET 0 keeps it out.  Whoever may
-- read every one can have any index used.

CREATE VIEW optout.readable_organization WITH (security_barrier) AS
SELECT '*'::text COLLATE pg_catalog."C" AS organization
  FROM pg_catalog.pg_extension e
 WHERE e.extname = 'optout' AND pg_catalog.pg_has_role(e.extowner, 'USAGE')
UNION
(SELECT a.organization
   FROM optout.authority a
  WHERE pg_catalog.pg_has_role(a.role, 'USAGE')
 OFFSET 0);
COMMENT ON VIEW optout.readable_organization IS
'Organizations whose users and opt-outs you may see; ''*'' means every one.';
COMMENT ON COLUMN optout.readable_organization.organization IS 'Organization, or ''*'' for every one.';

CREATE VIEW optout.user_list WITH (security_barrier) AS
SELECT u.organization, u.user_id, u.display_name, u.email, u.signed_in_at,
	   p.user_id IS NOT NULL AS opted_out
  FROM optout.product_user u
	   LEFT JOIN optout.opt_out_period p
	   ON p.organization = u.organization AND p.user_id = u.user_id AND p.opted_in_at IS NULL
 WHERE EXISTS (SELECT FROM optout.readable_organization r WHERE r.organization = '*')
UNION ALL
SELECT o.*
  FROM optout.readable_organization r
	   CROSS JOIN LATERAL
	   (SELECT u.organization, u.user_id, u.display_name, u.email, u.signed_in_at,
			   p.user_id IS NOT NULL AS opted_out
		  FROM optout.product_user u
			   LEFT JOIN optout.opt_out_period p
			   ON p.organization = u.organization AND p.user_id = u.user_id AND p.opted_in_at IS NULL
		 WHERE u.organization = r.organization
		OFFSET 0) o
 WHERE NOT EXISTS (SELECT FROM optout.readable_organization r WHERE r.organization = '*');
COMMENT ON VIEW optout.user_list IS
'All users of your organizations, with whether each is opted out: what the drop-down offers.';
COMMENT ON COLUMN optout.user_list.organization IS 'Organization the user belongs to.';
COMMENT ON COLUMN optout.user_list.user_id IS 'Id of the user.';
COMMENT ON COLUMN optout.user_list.display_name IS 'Name of the user.';
COMMENT ON COLUMN optout.user_list.email IS 'Mail address of the user.';
COMMENT ON COLUMN optout.user_list.signed_in_at IS 'Latest sign-in known.';
COMMENT ON COLUMN optout.user_list.opted_out IS 'Whether the user is opted out now.';

CREATE VIEW optout.opt_out_list WITH (security_barrier) AS
SELECT p.organization, p.user_id, u.display_name, u.email,
	   p.opted_out_at, p.opted_out_by, p.reason,
	   COALESCE(u.signed_in_at < p.opted_out_at, false) AS client_may_still_track
  FROM optout.opt_out_period p
	   LEFT JOIN optout.product_user u
	   ON u.organization = p.organization AND u.user_id = p.user_id
 WHERE p.opted_in_at IS NULL AND EXISTS (SELECT FROM optout.readable_organization r WHERE r.organization = '*')
UNION ALL
SELECT o.*
  FROM optout.readable_organization r
	   CROSS JOIN LATERAL
	   (SELECT p.organization, p.user_id, u.display_name, u.email,
			   p.opted_out_at, p.opted_out_by, p.reason,
			   COALESCE(u.signed_in_at < p.opted_out_at, false) AS client_may_still_track
		  FROM optout.opt_out_period p
			   LEFT JOIN optout.product_user u
			   ON u.organization = p.organization AND u.user_id = p.user_id
		 WHERE p.opted_in_at IS NULL AND p.organization = r.organization
		OFFSET 0) o
 WHERE NOT EXISTS (SELECT FROM optout.readable_organization r WHERE r.organization = '*');
COMMENT ON VIEW optout.opt_out_list IS
'Users of your organizations who are opted out now, in the directory or not.';
COMMENT ON COLUMN optout.opt_out_list.organization IS 'Organization the user was opted out of.';
COMMENT ON COLUMN optout.opt_out_list.user_id IS 'Id of the user.';
COMMENT ON COLUMN optout.opt_out_list.display_name IS 'Name of the user, where the directory holds them.';
COMMENT ON COLUMN optout.opt_out_list.email IS 'Mail address of the user, where the directory holds them.';
COMMENT ON COLUMN optout.opt_out_list.opted_out_at IS 'Since when.';
COMMENT ON COLUMN optout.opt_out_list.opted_out_by IS 'Role that opted the user out.';
COMMENT ON COLUMN optout.opt_out_list.reason IS 'Reason given, if any.';
COMMENT ON COLUMN optout.opt_out_list.client_may_still_track IS
'True while the user''s latest sign-in is older than the opt-out, so that their client may not know of it yet and may still be sending; false where no sign-in is known.';

CREATE VIEW optout.opt_out_history WITH (security_barrier) AS
SELECT p.organization, p.user_id, p.opted_out_at, p.opted_out_by, p.opted_in_at, p.opted_in_by, p.reason
  FROM optout.opt_out_period p
 WHERE EXISTS (SELECT FROM optout.readable_organization r WHERE r.organization = '*')
UNION ALL
SELECT o.*
  FROM optout.readable_organization r
	   CROSS JOIN LATERAL
	   (SELECT p.organization, p.user_id, p.opted_out_at, p.opted_out_by, p.opted_in_at, p.opted_in_by, p.reason
		  FROM optout.opt_out_period p
		 WHERE p.organization = r.organization
		OFFSET 0) o
 WHERE NOT EXISTS (SELECT FROM optout.readable_organization r WHERE r.organization = '*');
COMMENT ON VIEW optout.opt_out_history IS
'All opt-outs of your organizations, ended or not: who was opted out when, by whom, and why.';
COMMENT ON COLUMN optout.opt_out_history.organization IS 'Organization the user was opted out of.';
COMMENT ON COLUMN optout.opt_out_history.user_id IS 'Id of the user.';
COMMENT ON COLUMN optout.opt_out_history.opted_out_at IS 'Start of the period (inclusive).';
COMMENT ON COLUMN optout.opt_out_history.opted_out_by IS 'Role that opted the user out.';
COMMENT ON COLUMN optout.opt_out_history.opted_in_at IS 'End of the period (exclusive); NULL while the user is opted out.';
COMMENT ON COLUMN optout.opt_out_history.opted_in_by IS 'Role that opted the user in again.';
COMMENT ON COLUMN optout.opt_out_history.reason IS 'Reason given, if any.';

CREATE VIEW optout.discards WITH (security_barrier) AS
SELECT l.organization, l.hour, pg_catalog.sum(l.discarded)::bigint AS discarded
  FROM optout.discard_ledger l
 WHERE EXISTS (SELECT FROM optout.readable_organization r WHERE r.organization = '*')
 GROUP BY l.organization, l.hour
UNION ALL
SELECT o.*
  FROM optout.readable_organization r
	   CROSS JOIN LATERAL
	   (SELECT l.organization, l.hour, pg_catalog.sum(l.discarded)::bigint AS discarded
		  FROM optout.discard_ledger l
		 WHERE l.organization = r.organization
		 GROUP BY l.organization, l.hour
		OFFSET 0) o
 WHERE NOT EXISTS (SELECT FROM optout.readable_organization r WHERE r.organization = '*');
COMMENT ON VIEW optout.discards IS
'How many events of your organizations were discarded, per hour.';
COMMENT ON COLUMN optout.discards.organization IS 'Organization whose events were discarded.';
COMMENT ON COLUMN optout.discards.hour IS 'Start of the hour in which they were discarded.';
COMMENT ON COLUMN optout.discards.discarded IS 'Number of events discarded.';

-- The guard's arguments say what each column of its UPDATE OF list is; see
-- src/guard.c.  Triggers that a partitioned table hands down to its partitions
-- are listed only where somebody altered them.
CREATE VIEW optout.guarded WITH (security_barrier) AS
SELECT t.tgrelid::regclass AS relation,
	   (SELECT a.attname FROM pg_catalog.pg_attribute a
		 WHERE a.attrelid = t.tgrelid AND a.attnum = t.tgattr[pg_catalog.array_position(g.args, 'user_id') - 1]) AS user_id,
	   (SELECT a.attname FROM pg_catalog.pg_attribute a
		 WHERE a.attrelid = t.tgrelid AND a.attnum = t.tgattr[pg_catalog.array_position(g.args, 'organization') - 1]) AS organization,
	   (SELECT a.attname FROM pg_catalog.pg_attribute a
		 WHERE a.attrelid = t.tgrelid AND a.attnum = t.tgattr[pg_catalog.array_position(g.args, 'occurred_at') - 1]) AS occurred_at,
	   CASE t.tgenabled WHEN 'A' THEN 'always' WHEN 'O' THEN 'origin' WHEN 'R' THEN 'replica' ELSE 'never' END AS fires
  FROM pg_catalog.pg_trigger t
	   CROSS JOIN LATERAL (SELECT pg_catalog.string_to_array(pg_catalog.encode(t.tgargs, 'escape'), '\000') AS args) g
 WHERE t.tgfoid = 'optout.discard_opted_out()'::pg_catalog.regprocedure
   AND (t.tgparentid = 0 OR t.tgenabled <> 'A');
COMMENT ON VIEW optout.guarded IS
'Event tables under optout.guard(), and the columns the guard reads; also partitions whose guard somebody altered.';
COMMENT ON COLUMN optout.guarded.relation IS 'Guarded table.';
COMMENT ON COLUMN optout.guarded.user_id IS 'Column that holds the user''s id.';
COMMENT ON COLUMN optout.guarded.organization IS 'Column that holds the organization; NULL where the setting optout.organization counts.';
COMMENT ON COLUMN optout.guarded.occurred_at IS 'Column that holds the time of the event; NULL where it is not looked at.';
COMMENT ON COLUMN optout.guarded.fires IS '''always'', as optout.guard() leaves it; anything else means that somebody altered the trigger and events may get past it.';

-- Who discards adds to rows of the current hour only; hours are UTC's.
CREATE FUNCTION optout.compact_discards(before timestamptz DEFAULT NULL)
RETURNS bigint
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
	WITH removed AS (
		DELETE FROM optout.discard_ledger l
		 WHERE l.hour < date_trunc('hour', LEAST(before, clock_timestamp()), 'UTC')
		   AND EXISTS (SELECT FROM optout.discard_ledger other
						WHERE other.organization = l.organization AND other.hour = l.hour
						  AND other.slot <> l.slot)
		RETURNING l.organization, l.hour, l.slot, l.discarded
	), added AS (
		INSERT INTO optout.discard_ledger (organization, hour, slot, discarded)
		SELECT r.organization, r.hour, min(r.slot), sum(r.discarded)
		  FROM removed r
		 GROUP BY r.organization, r.hour
		RETURNING 1
	)
	SELECT (SELECT count(*) FROM removed) - (SELECT count(*) FROM added)
$$;
COMMENT ON FUNCTION optout.compact_discards(timestamptz) IS
'Merge the rows of optout.discard_ledger to one for each organization and hour, of hours that ended before the given time (NULL: all but the current hour). Returns how many rows fewer there are. For the owner of the extension and whom they grant EXECUTE.';

CREATE FUNCTION optout.filter_statistics(OUT shared_filter text, OUT memory bigint, OUT keys bigint,
										 OUT false_positive_rate double precision,
										 OUT lookups_filter bigint, OUT lookups_cache bigint, OUT lookups_memo bigint, OUT lookups_table bigint)
AS 'MODULE_PATHNAME', 'optout_filter_statistics' LANGUAGE C;
COMMENT ON FUNCTION optout.filter_statistics() IS
'What the view optout.status shows.';

CREATE VIEW optout.status AS
SELECT s.shared_filter, s.memory, s.keys, s.false_positive_rate,
	   s.lookups_filter, s.lookups_cache, s.lookups_memo, s.lookups_table
  FROM optout.filter_statistics() s;
COMMENT ON VIEW optout.status IS
'The shared filter: whether it is there, and how well it works. One row.';
COMMENT ON COLUMN optout.status.shared_filter IS
'''ready''; ''loading'' while this database''s keys are being added; ''absent'' where there is no shared memory for it: optout.filter_memory is 0, or the library is not in shared_preload_libraries and the server is older than 17 or cannot spare it; ''off'' by the setting optout.filter; ''not used'' on a standby, or if the trigger optout_filter does not fire always. Answers are right in any case, but only ''ready'' is fast.';
COMMENT ON COLUMN optout.status.memory IS 'Size of filter and cache in bytes.';
COMMENT ON COLUMN optout.status.keys IS 'Estimated number of keys, of all databases.';
COMMENT ON COLUMN optout.status.false_positive_rate IS 'Estimated share of users never opted out for whom the memo or the table has to be asked.';
COMMENT ON COLUMN optout.status.lookups_filter IS 'Look-ups that the filter alone answered, by finished transactions of all databases.';
COMMENT ON COLUMN optout.status.lookups_cache IS 'Look-ups that the shared cache of verified users answered.';
COMMENT ON COLUMN optout.status.lookups_memo IS 'Look-ups that a session''s memo answered.';
COMMENT ON COLUMN optout.status.lookups_table IS 'Look-ups that the table answered.';

CREATE FUNCTION optout.verify()
RETURNS bigint
AS 'MODULE_PATHNAME', 'optout_verify' LANGUAGE C;
COMMENT ON FUNCTION optout.verify() IS
'How many rows of optout.opt_out_period the shared filter would miss; anything but 0 is a bug.';

----------------------------------------------------------------------
-- Privileges
----------------------------------------------------------------------

-- PUBLIC may read the views and nothing else (status reveals nobody).  Administrators receive EXECUTE
-- on what they need from optout.grant_authority(); EXECUTE on the filter and
-- the guard is granted by hand, since it is not limited to an organization.
REVOKE ALL ON ALL TABLES IN SCHEMA optout FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA optout FROM PUBLIC;
GRANT SELECT ON optout.readable_organization, optout.user_list, optout.opt_out_list,
	optout.opt_out_history, optout.discards, optout.guarded, optout.status TO PUBLIC;
-- the view's reader needs it
GRANT EXECUTE ON FUNCTION optout.filter_statistics() TO PUBLIC;
