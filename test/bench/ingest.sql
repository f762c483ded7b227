--
-- ingest.sql: what events are ingested into, and from where.
--
--   :copied   number of events to ingest
--   :share    how many per cent of them are of users on the list
--   :offered  file to write them to
--   :kept     file for those without the ones that are to be discarded
--

-- The file :kept is for those who discard nothing, so that all store the same
-- rows.
COPY (SELECT * FROM event WHERE event_id <= :copied ORDER BY event_id) TO :'offered';
COPY (SELECT * FROM event WHERE event_id <= :copied AND NOT listed(event_id, :share) ORDER BY event_id) TO :'kept';
INSERT INTO expected
SELECT 'copied', count(*) FROM generate_series(1, :copied) AS i WHERE NOT listed(i, :share);

CREATE TABLE logged_plain (LIKE event, PRIMARY KEY (event_id));
CREATE TABLE logged_floor (LIKE logged_plain INCLUDING ALL);
CREATE TABLE logged_guard (LIKE logged_plain INCLUDING ALL);
CREATE TABLE logged_plpgsql (LIKE logged_plain INCLUDING ALL);
CREATE UNLOGGED TABLE unlogged_plain (LIKE logged_plain INCLUDING ALL);
CREATE UNLOGGED TABLE unlogged_guard (LIKE logged_plain INCLUDING ALL);
CREATE UNLOGGED TABLE unlogged_plpgsql (LIKE logged_plain INCLUDING ALL);

CREATE TRIGGER keep_row BEFORE INSERT ON logged_floor
	FOR EACH ROW EXECUTE FUNCTION keep_row();
SELECT optout.guard('logged_guard'), optout.guard('unlogged_guard');
CREATE TRIGGER discard BEFORE INSERT ON logged_plpgsql
	FOR EACH ROW EXECUTE FUNCTION plpgsql_discard();
CREATE TRIGGER discard BEFORE INSERT ON unlogged_plpgsql
	FOR EACH ROW EXECUTE FUNCTION plpgsql_discard();

-- Row level security hides rows from readers; it cannot discard events, for
-- an INSERT that violates a policy is an error.  So it is measured by reading.
CREATE ROLE bench_reader;
GRANT SELECT ON event, optout.opt_out_period TO bench_reader;
ALTER TABLE event ENABLE ROW LEVEL SECURITY;
CREATE POLICY not_opted_out ON event FOR SELECT TO bench_reader
	USING (NOT EXISTS (SELECT FROM optout.opt_out_period p
	                    WHERE p.organization = 'default' AND p.user_id = event.user_id AND p.opted_in_at IS NULL));

-- Users to be opted out while others ingest; no event is theirs.
CREATE SEQUENCE busy_user;
INSERT INTO optout.product_user (user_id) SELECT 'busy user ' || n FROM generate_series(1, 100000) AS n;
VACUUM (FREEZE, ANALYZE) optout.product_user;
