--
-- database.sql: what each of the benchmark's databases has: the extension with
-- a list of :list opted-out users, and the functions to be measured against.
--
--   :list    number of users on the list
--   :module  path of bench_floor.so
--
CREATE EXTENSION optout;

-- The floor.  STABLE and of the same cost as the filter.
CREATE FUNCTION accept_all(user_id text, organization text DEFAULT NULL, occurred_at timestamptz DEFAULT NULL)
RETURNS boolean
AS :'module', 'bench_accept_all' LANGUAGE C STABLE;

CREATE FUNCTION keep_row() RETURNS trigger
AS :'module', 'bench_keep_row' LANGUAGE C;

-- What one would write by hand.  They ask the extension's own table, so they
-- have the same rows and the same indexes.
CREATE FUNCTION sql_accepts(uid text) RETURNS boolean
LANGUAGE sql STABLE
AS $$
	SELECT NOT EXISTS (SELECT FROM optout.opt_out_period p
	                    WHERE p.organization = 'default' AND p.user_id = uid AND p.opted_in_at IS NULL)
$$;

CREATE FUNCTION plpgsql_discard() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
	IF EXISTS (SELECT FROM optout.opt_out_period p
	            WHERE p.organization = 'default' AND p.user_id = NEW.user_id AND p.opted_in_at IS NULL) THEN
		RETURN NULL;
	END IF;
	RETURN NEW;
END
$$;

-- Who is on the list, and which events are theirs.
CREATE FUNCTION listed_user(n bigint) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN substr(md5('listed ' || n), 1, 24);

CREATE FUNCTION listed(event_id bigint, share numeric) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN (hashint8extended(event_id, 1) & 2147483647) % 10000 < share * 100;

CREATE TABLE expected (relation text PRIMARY KEY, kept bigint NOT NULL);

INSERT INTO optout.opt_out_period (organization, user_id, opted_out_at, opted_out_by)
SELECT 'default', listed_user(n), now(), current_user FROM generate_series(1, :list) AS n;
VACUUM (FREEZE, ANALYZE) optout.opt_out_period;
