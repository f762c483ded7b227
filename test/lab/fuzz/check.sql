-- Whether the extension's state is consistent, when nobody else is connected: one
-- row for each check, whether it holds and what it is.

SET search_path = pg_catalog;
SET client_min_messages = error;

-- a session that the filter has not answered yet, and one that asks the table only
SELECT optout.accepts('u1') IS NOT NULL AND shared_filter = 'ready' AND optout.verify() = 0, 'the filter misses nobody' FROM optout.status;

----------------------------------------------------------------------
-- Tables
----------------------------------------------------------------------

SELECT count(*) = 0, 'no periods of a user overlap'
  FROM (SELECT opted_out_at, lag(COALESCE(opted_in_at, 'infinity')) OVER (PARTITION BY organization, user_id ORDER BY opted_out_at) AS before
		  FROM optout.opt_out_period) AS p
 WHERE before > opted_out_at;
SELECT bool_and((opted_in_at IS NULL OR opted_in_at > opted_out_at) AND isfinite(opted_out_at) AND opted_out_at <= clock_timestamp()
		AND (opted_in_at IS NULL OR isfinite(opted_in_at) AND opted_in_at <= clock_timestamp()) AND (opted_in_at IS NULL) = (opted_in_by IS NULL)),
	   'every period has an end after its start, and neither is in the future'
  FROM optout.opt_out_period;
SELECT bool_and(octet_length(organization) BETWEEN 1 AND 1024 AND octet_length(user_id) BETWEEN 1 AND 1024 AND organization <> '*'),
	   'no period or user has an impossible name'
  FROM (SELECT organization, user_id FROM optout.opt_out_period UNION ALL SELECT organization, user_id FROM optout.product_user) AS u;
SELECT count(*) = 0, 'every period names roles that there are'
  FROM (SELECT opted_out_by FROM optout.opt_out_period UNION SELECT opted_in_by FROM optout.opt_out_period WHERE opted_in_by IS NOT NULL) AS p (role)
 WHERE role NOT IN (SELECT rolname FROM pg_roles);
SELECT bool_and(discarded > 0 AND hour = date_trunc('hour', hour, 'UTC') AND hour <= clock_timestamp()), 'the ledger counts by hours'
  FROM optout.discard_ledger;
SELECT bool_and(has_function_privilege(proowner, oid, 'EXECUTE')), 'the owner may execute everything' FROM fuzz.routine;
SELECT bool_and(has_function_privilege(a.role, r.oid, 'EXECUTE')), 'whoever may administer may execute'
  FROM optout.authority a, fuzz.routine r
 WHERE a.privilege = 'administer' AND r.proname IN ('enroll', 'opt_out', 'opt_in', 'forget', 'sign_in', 'settle');
SELECT count(*) = 0, 'whoever may not has no EXECUTE'
  FROM fuzz.routine r CROSS JOIN LATERAL aclexplode(r.proacl) AS acl
 WHERE acl.grantee <> ALL ('{fuzz_owner,fuzz_admin,fuzz_stranger}'::regrole[]) AND r.proname NOT IN ('filter_statistics', 'load_progress', 'command_progress', 'settle_replicas', 'committed_lsn', 'guard_columns', 'stored_events', 'json_id')
   AND acl.grantee NOT IN (SELECT role FROM optout.authority WHERE privilege = 'administer');

-- what is written below the executor is in the indexes as well
SELECT count(*) > 0 AS amcheck FROM pg_available_extensions WHERE name = 'amcheck' \gset
\if :amcheck
CREATE EXTENSION amcheck SCHEMA fuzz;
SELECT count(fuzz.bt_index_check(oid, true)) >= 7, 'every row is in the indexes' FROM pg_class WHERE relnamespace = 'optout'::regnamespace AND relkind = 'i';
DROP EXTENSION amcheck;
\endif

-- (The filter misses nobody, above, says that aliases have their users' periods.)
SELECT count(*) = 0, 'nobody has an alias who is one, and no alias is enrolled as a user'
  FROM optout.user_alias a
 WHERE EXISTS (SELECT FROM optout.user_alias b WHERE b.organization = a.organization AND b.alias = a.user_id)
	OR EXISTS (SELECT FROM optout.product_user u WHERE u.organization = a.organization AND u.user_id = a.alias);

----------------------------------------------------------------------
-- Views
----------------------------------------------------------------------

SELECT count(*) = 0, 'the list is the open periods'
  FROM ((SELECT organization, user_id, opted_out_at, opted_out_by, reason FROM optout.opt_out_list
		 EXCEPT ALL SELECT organization, user_id, opted_out_at, opted_out_by, reason FROM optout.opt_out_period WHERE opted_in_at IS NULL AND alias_of IS NULL)
		UNION ALL
		(SELECT organization, user_id, opted_out_at, opted_out_by, reason FROM optout.opt_out_period WHERE opted_in_at IS NULL AND alias_of IS NULL
		 EXCEPT ALL SELECT organization, user_id, opted_out_at, opted_out_by, reason FROM optout.opt_out_list)) AS d;
SELECT (SELECT count(*) FROM optout.opt_out_list) = (SELECT count(DISTINCT (organization, user_id)) FROM optout.opt_out_list), 'nobody is in it twice';
SELECT (SELECT count(*) FROM optout.user_list) = (SELECT count(*) FROM optout.product_user)
   AND (SELECT count(*) FROM optout.opt_out_history) = (SELECT count(*) FROM optout.opt_out_period WHERE alias_of IS NULL)
   AND (SELECT count(*) FROM optout.aliases) = (SELECT count(*) FROM optout.user_alias)
   AND (SELECT COALESCE(sum(discarded), 0) FROM optout.discards) = (SELECT COALESCE(sum(discarded), 0) FROM optout.discard_ledger),
	   'the other views show everything';

----------------------------------------------------------------------
-- Answers
----------------------------------------------------------------------

-- of everybody there ever was, now and at the edges of all periods
CREATE TEMPORARY TABLE question AS
SELECT u.organization, u.user_id, t.at,
	   EXISTS (SELECT FROM optout.opt_out_period p
				WHERE p.organization = u.organization AND p.user_id = u.user_id
				  AND (p.opted_in_at IS NULL OR p.opted_out_at <= t.at AND t.at < p.opted_in_at)) AS opted_out
  FROM (SELECT organization, user_id FROM optout.opt_out_period UNION SELECT organization, user_id FROM optout.product_user
		UNION SELECT organization, user_id FROM fuzz.member) AS u
	   CROSS JOIN LATERAL (
		SELECT NULL::timestamptz AS at UNION SELECT '-infinity' UNION SELECT 'infinity'
		UNION
		SELECT edge + shift * interval '1 microsecond'
		  FROM optout.opt_out_period p, unnest(ARRAY[p.opted_out_at, p.opted_in_at]) AS edge, generate_series(-1, 1) AS shift
		 WHERE p.organization = u.organization AND p.user_id = u.user_id AND edge IS NOT NULL) AS t;
ANALYZE question;
SELECT count(*) > 0 AND bool_and(opted_out = optout.is_opted_out(user_id, organization, at) AND opted_out <> optout.accepts(user_id, organization, at)),
	   'the filter answers what the table says'
  FROM question;
SET optout.filter = off;
SELECT count(*) > 0 AND bool_and(opted_out = optout.is_opted_out(user_id, organization, at) AND opted_out <> optout.accepts(user_id, organization, at)),
	   'so it does without shared memory'
  FROM question;
RESET optout.filter;
SELECT count(*) > 0 AND bool_and(opted_out = optout.is_opted_out(user_id::bigint, organization, at) AND opted_out <> optout.accepts(user_id::bigint, organization, at)),
	   'so it does for integers'
  FROM question WHERE user_id ~ '^(0|-?[1-9][0-9]{0,17})$';
SELECT count(*) > 0 AND bool_and(opted_out = optout.is_opted_out(user_id::uuid, organization, at) AND opted_out <> optout.accepts(user_id::uuid, organization, at)),
	   'so it does for UUIDs'
  FROM question WHERE user_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$';

----------------------------------------------------------------------
-- Ingest
----------------------------------------------------------------------

CREATE TABLE fuzz.last (user_id text, organization text, at timestamptz, opted_out boolean);
SELECT optout.guard('fuzz.last', 'user_id', 'organization', 'at') \g /dev/null
CREATE TEMPORARY TABLE before AS SELECT COALESCE(sum(discarded), 0) AS discarded FROM optout.discards;
INSERT INTO fuzz.last SELECT user_id, organization, at, opted_out FROM question;
SELECT (SELECT count(*) FROM fuzz.last) = (SELECT count(*) FROM question WHERE NOT opted_out) AND NOT EXISTS (SELECT FROM fuzz.last WHERE opted_out),
	   'a guarded table stores whom the filter accepts, and nobody else';
SELECT (SELECT sum(d.discarded) - b.discarded FROM optout.discards d) = (SELECT count(*) FROM question WHERE opted_out), 'the ledger has counted the others'
  FROM before b GROUP BY b.discarded;
TRUNCATE fuzz.last;
COPY question TO :'file';
COPY fuzz.last (organization, user_id, at, opted_out) FROM :'file';
SELECT (SELECT count(*) FROM fuzz.last) = (SELECT count(*) FROM question WHERE NOT opted_out) AND NOT EXISTS (SELECT FROM fuzz.last WHERE opted_out),
	   'so it does for COPY';
SELECT optout.unguard('fuzz.last') \g /dev/null
TRUNCATE fuzz.last;
COPY fuzz.last (organization, user_id, at, opted_out) FROM :'file' WHERE optout.accepts(user_id, organization, at);
SELECT (SELECT count(*) FROM fuzz.last) = (SELECT count(*) FROM question WHERE NOT opted_out) AND NOT EXISTS (SELECT FROM fuzz.last WHERE opted_out),
	   'so does COPY with the filter';
DROP TABLE fuzz.last;

----------------------------------------------------------------------
-- Administration
----------------------------------------------------------------------

CALL optout.settle();
SELECT optout.enroll('last', 'acme'), optout.opt_out('last', 'acme') \g /dev/null
SELECT NOT optout.accepts('last', 'acme') AND NOT optout.opt_out('last', 'acme'), 'a user can be opted out';
SELECT optout.opt_in('last', 'acme') \g /dev/null
SELECT optout.accepts('last', 'acme') AND NOT optout.opt_in('last', 'acme'), 'and in';
SELECT optout.forget('last', 'acme') \g /dev/null
SELECT NOT EXISTS (SELECT FROM optout.opt_out_history WHERE user_id = 'last' UNION ALL SELECT FROM optout.user_list WHERE user_id = 'last'), 'and forgotten';
SELECT fuzz.restore() \g /dev/null
SELECT count(*) = 6 AND bool_and(fires = 'always'), 'guards fire always' FROM optout.guarded
 WHERE relation = ANY ('{fuzz.event,fuzz.event_doc,fuzz.event_uuid,fuzz.event_bigint,fuzz.event_unlogged,fuzz.event_part}'::regclass[]);
SELECT count(*) = 0, 'the extension''s own tables have none' FROM optout.guarded WHERE relation::text LIKE 'optout.%';
