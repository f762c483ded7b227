-- The opt-out page in psql: what a reader of one organization sees, and of all
CREATE EXTENSION optout;
SET timezone = 'UTC';
SET datestyle = 'ISO';
CREATE ROLE regress_reader;
SELECT optout.grant_authority('regress_reader', 'acme', 'read');
\getenv abs_srcdir PG_ABS_SRCDIR
\set page :abs_srcdir '/../sql/optout-page.sql'
\set optout_day 2026-05-14

-- nothing yet
SET ROLE regress_reader;
\set ECHO none
\i :page
\set ECHO all
RESET ROLE;

-- times are the server's clock's, so they are set here
SELECT optout.enroll('alice', 'acme', 'Alice Archer'), optout.enroll('bob', 'acme', 'Bob with a name that is longer than the page wants it'),
	   optout.enroll(ARRAY['carol', 'dave'], 'acme'), optout.enroll('zoe', 'globex', 'Zoe');
SELECT optout.enroll(array_agg('user' || lpad(n::text, 2, '0')), 'acme') FROM generate_series(1, 22) n;
UPDATE optout.product_user SET signed_in_at = '2026-05-01 10:00+00' WHERE user_id IN ('bob', 'carol');
SELECT optout.link('carol', ARRAY['carols-phone', 'c'], 'acme'), optout.link('bob', ARRAY['b'], 'acme');
SET optout.actor = 'kim';
SELECT optout.opt_out(ARRAY['carol', 'dave'], 'acme', 'works council');
RESET optout.actor;
SELECT optout.opt_out('zoe', 'globex');
SET optout.actor = 'somebody with a name that is long';
SELECT optout.opt_in('dave', 'acme', 'asked to be in again');
RESET optout.actor;
CREATE TABLE event (user_id text);
CREATE TABLE archive () INHERITS (event);
SET client_min_messages = error;
SELECT optout.guard('event');
RESET client_min_messages;
CREATE TABLE staging (user_id text);
INSERT INTO optout.purge_ledger VALUES
	('2026-05-03 10:00+00', 'admin', 'acme', 'public.event', 12), ('2026-05-03 10:00+00', 'admin', 'acme', 'public.empty', 0),
	('2026-05-04 10:00+00', 'admin', 'globex', 'public.event', 3);
UPDATE optout.opt_out_period SET opted_out_at = '2026-05-02 10:00+00', opted_in_at = '2026-05-03 10:00+00' WHERE opted_in_at IS NOT NULL;
UPDATE optout.opt_out_period SET opted_out_at = '2026-05-02 10:00+00', opted_out_by = 'admin' WHERE opted_in_at IS NULL;
UPDATE optout.opt_out_period SET opted_in_by = 'admin' WHERE opted_in_at IS NOT NULL;
INSERT INTO optout.discard_ledger VALUES
	('acme', '2026-04-30 23:00+00', 0, 1000), ('acme', '2026-05-01 00:00+00', 0, 1), ('acme', '2026-05-02 11:00+00', 0, 40),
	('acme', '2026-05-02 12:00+00', 0, 60), ('acme', '2026-05-14 23:00+00', 1, 200), ('globex', '2026-05-13 23:00+00', 1, 5),
	('acme', '2026-05-15 00:00+00', 0, 1000);
SET ROLE regress_reader;
\set ECHO none
\i :page
\set ECHO all
RESET ROLE;
-- both, then one of them; the name cannot break out
\set ECHO none
\i :page
\set ECHO all
\set optout_organization globex
\set ECHO none
\i :page
\set ECHO all
\set optout_organization 'o\'globex'
\set ECHO none
\i :page
\set ECHO all
-- nothing of it stays
\set optout_page_mine
\echo :{?optout_page_day} :{?optout_page_more}
\unset optout_organization
\unset optout_day

DROP TABLE event, archive, staging;
DROP EXTENSION optout;
DROP ROLE regress_reader;
