-- What loaders send, as roles that own nothing of the extension: with a rule for their
-- schema no event of an opted-out user is stored, and none of their commands fails.
CREATE EXTENSION optout;
SELECT optout.enroll(ARRAY['alice', 'bob', '7', '8']), optout.opt_out(ARRAY['alice', '7', 'd-alice']::text[]) FROM (SELECT optout.enroll('d-alice')) e;
CREATE SCHEMA wh;
CREATE ROLE regress_loader;
GRANT USAGE, CREATE ON SCHEMA wh TO regress_loader;
SELECT optout.guard_schema('wh', ARRAY['user_id', 'anonymous_id']);
SET ROLE regress_loader;
SET search_path = wh;

-- pandas: to_sql(if_exists='replace'), twice
CREATE TABLE wh.frame ("index" BIGINT, user_id TEXT, what TEXT);
CREATE INDEX ix_wh_frame_index ON wh.frame ("index");
INSERT INTO wh.frame ("index", user_id, what) VALUES (0, 'alice', 'a'), (1, 'bob', 'b');
BEGIN;
DROP TABLE wh.frame;
CREATE TABLE wh.frame ("index" BIGINT, user_id BIGINT, what TEXT);
CREATE INDEX ix_wh_frame_index ON wh.frame ("index");
COPY wh.frame ("index", user_id, what) FROM STDIN;
0	7	a
1	8	b
\.
COMMIT;
SELECT * FROM wh.frame;

-- dbt: a model as a table is made beside the one that is there, and swapped
CREATE TABLE raw (user_id text, n int);
INSERT INTO raw VALUES ('alice', 1), ('bob', 2);
CREATE TABLE "wh"."model" AS (SELECT * FROM raw);
RESET ROLE;
ALTER TABLE raw DISABLE TRIGGER ALL;
SET ROLE regress_loader;
INSERT INTO raw VALUES ('alice', 3);
BEGIN;
CREATE TABLE "wh"."model__dbt_tmp" AS (SELECT * FROM raw);
ALTER TABLE "wh"."model" RENAME TO "model__dbt_backup";
ALTER TABLE "wh"."model__dbt_tmp" RENAME TO "model";
COMMIT;
DROP TABLE IF EXISTS "wh"."model__dbt_backup" CASCADE;
SELECT * FROM model;
INSERT INTO model VALUES ('alice', 4), ('bob', 4) RETURNING *;
-- an incremental one, by way of a temporary table
CREATE TEMPORARY TABLE "model__dbt_tmp" AS (SELECT 'alice' AS user_id, 5 AS n UNION ALL SELECT 'bob', 5);
DELETE FROM "wh"."model" USING "model__dbt_tmp" t WHERE t.n = model.n;
INSERT INTO "wh"."model" ("user_id", "n") (SELECT "user_id", "n" FROM "model__dbt_tmp");
SELECT * FROM wh.model ORDER BY n;

-- Rails: db:schema:load
DROP TABLE IF EXISTS "events" CASCADE;
CREATE TABLE "events" ("id" bigserial primary key, "user_id" bigint NOT NULL, "name" character varying, "created_at" timestamp(6) NOT NULL);
CREATE INDEX "index_events_on_user_id" ON "events" ("user_id");
CREATE TABLE "schema_migrations" ("version" character varying NOT NULL PRIMARY KEY);
INSERT INTO "events" ("user_id", "name", "created_at") VALUES (7, 'a', '2026-05-01'), (8, 'b', '2026-05-01') RETURNING "user_id";
ALTER TABLE "events" ADD "session_id" uuid;
ALTER TABLE "events" ADD CONSTRAINT "fk_rails_1" FOREIGN KEY ("id") REFERENCES "events" ("id");
ALTER TABLE "events" ALTER COLUMN "user_id" TYPE character varying;
DROP TABLE IF EXISTS "events" CASCADE;
CREATE TABLE "events" ("id" bigserial primary key, "user_id" bigint);
INSERT INTO "events" ("user_id") VALUES (7), (8) RETURNING "user_id";

-- Segment, RudderStack: a table for each name of an event, columns as they come
CREATE TABLE IF NOT EXISTS "wh"."order_completed" ("id" text);
ALTER TABLE "wh"."order_completed" ADD COLUMN IF NOT EXISTS "anonymous_id" text;
ALTER TABLE "wh"."order_completed" ADD COLUMN IF NOT EXISTS "user_id" text, ADD COLUMN IF NOT EXISTS "received_at" timestamptz;
CREATE TEMPORARY TABLE "order_completed_staging" (LIKE "wh"."order_completed") ON COMMIT PRESERVE ROWS;
COPY "order_completed_staging" FROM STDIN;
1	d-alice	\N	2026-05-01 10:00+00
2	d-bob	alice	2026-05-01 10:00+00
3	d-bob	\N	2026-05-01 10:00+00
3	d-bob	\N	2026-05-01 10:01+00
\.
DELETE FROM "wh"."order_completed" USING "order_completed_staging" s WHERE s.id = "wh"."order_completed".id;
INSERT INTO "wh"."order_completed" (id, anonymous_id, user_id, received_at)
SELECT id, anonymous_id, user_id, received_at FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY id ORDER BY received_at DESC) AS n FROM "order_completed_staging") s WHERE n = 1;
SELECT id, received_at AT TIME ZONE 'UTC' AS received FROM order_completed;

-- A table beside, filled and swapped; then other columns
CREATE TABLE tracks (user_id varchar(10), n int);
CREATE TABLE tracks_tmp (LIKE tracks INCLUDING DEFAULTS);
INSERT INTO tracks_tmp VALUES ('alice', 1), ('bob', 1);
DROP TABLE tracks;
ALTER TABLE tracks_tmp RENAME TO tracks;
ALTER TABLE tracks ALTER user_id TYPE text, ADD extra jsonb, DROP n;
INSERT INTO tracks VALUES ('alice'), ('bob') RETURNING user_id;
SELECT user_id FROM tracks;
ALTER TABLE tracks DROP user_id, ADD anonymous_id uuid;
ALTER TABLE tracks DROP anonymous_id;

-- What is guarded in the end
RESET search_path;
RESET ROLE;
SELECT relation, user_ids, fires, by_rule FROM optout.guarded ORDER BY relation::text;
SELECT * FROM optout.unguarded;

SET client_min_messages = warning;
DROP TABLE pg_temp.model__dbt_tmp, order_completed_staging;
DROP SCHEMA wh CASCADE;
DROP EXTENSION optout;
DROP ROLE regress_loader;
