--
-- events.sql: one table of events.
--
--   :table   what it is to be called
--   :events  number of rows
--   :share   how many per cent of them are of users on the list
--   :list    number of users on the list
--
-- User ids have 24 bytes.  Which events are to be discarded is as good as
-- random, and so is whose they are: one of :list users, or one of a million
-- others.  The same numbers always make the same rows, and the events that are
-- kept are the same ones whatever the list.
--

-- unlogged tables save time here, and are read like any others
CREATE UNLOGGED TABLE :table AS
SELECT i::bigint AS event_id,
       CASE WHEN listed(i, :share)
            THEN listed_user(1 + (hashint8extended(i, 2) & 2147483647) % :list)
            ELSE substr(md5('other ' || (hashint8extended(i, 3) & 2147483647) % 1000000), 1, 24)
       END AS user_id,
       '2026-01-01 00:00:00+00'::timestamptz + i * interval '10 ms' AS occurred_at,
       'page view' AS event
  FROM generate_series(1, :events) AS i;

-- frozen, so that nobody pays for the first visit; analyzed, for the planner
VACUUM (FREEZE, ANALYZE) :table;

-- how many events are to be stored, without asking any of those who are measured
INSERT INTO expected
SELECT :'table', count(*) FILTER (WHERE NOT listed(i, :share))
  FROM generate_series(1, :events) AS i;
