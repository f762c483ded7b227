--
-- bulk.sql: :bulk users to be opted out by one call, and a table like the
-- extension's to insert the same rows into.
--
TRUNCATE optout.opt_out_period;
INSERT INTO optout.product_user (user_id) SELECT listed_user(n) FROM generate_series(1, :bulk) AS n;
VACUUM (FREEZE, ANALYZE) optout.product_user;

-- the same columns, constraints and indexes, but no trigger
CREATE TABLE plain_period (LIKE optout.opt_out_period INCLUDING ALL);

-- In order of their ids, which makes the plain INSERT fastest: it appends to
-- the indexes.  The function puts users in order anyhow.
CREATE TABLE bulk AS
SELECT array_agg(user_id ORDER BY user_id) AS user_ids FROM optout.product_user;
