-- Compiled expressions answer the same, where the server can compile them.
CREATE EXTENSION optout;
SELECT optout.enroll('{alice,bob,7,550e8400-e29b-41d4-a716-446655440000}'::text[]);
SELECT optout.opt_out('{alice,7,550e8400-e29b-41d4-a716-446655440000}'::text[]);
CREATE TABLE event (u text, n bigint, x uuid, org text, at timestamptz);
INSERT INTO event VALUES
	('alice', 7, '550e8400-e29b-41d4-a716-446655440000', 'default', 'infinity'),
	('bob', 8, '550e8400-e29b-41d4-a716-446655440001', 'default', 'infinity'),
	('alice', 7, '550e8400-e29b-41d4-a716-446655440000', 'acme', 'infinity'),
	('alice', 7, '550e8400-e29b-41d4-a716-446655440000', 'default', '2001-01-01'),
	(NULL, NULL, NULL, NULL, NULL);
CREATE TABLE guarded (LIKE event);
SELECT optout.guard('guarded', 'u', 'org', 'at');

SET jit = on;
SET jit_above_cost = 0;
SET jit_inline_above_cost = 0;
SET jit_optimize_above_cost = 0;

SELECT u, org, at > '2002-01-01' AS later,
	   optout.accepts(u) AS text, optout.accepts(n) AS bigint, optout.accepts(x) AS uuid,
	   optout.accepts(u, org) AS "with organization", optout.accepts(u, org, at) AS "and time",
	   optout.is_opted_out(u) AS "out: text", optout.is_opted_out(n) AS bigint, optout.is_opted_out(x, org, at) AS "uuid, and time"
  FROM event;
SELECT count(*) FROM event WHERE optout.accepts(u, org, at);
SELECT count(*) FROM event WHERE NOT optout.is_opted_out(n, org, at);
INSERT INTO guarded SELECT * FROM event;
SELECT u, org, at > '2002-01-01' AS later FROM guarded;

-- what is compiled once goes by the latest state
PREPARE kept AS SELECT count(*) FROM event WHERE optout.accepts(u);
SET plan_cache_mode = force_generic_plan;
EXECUTE kept;
SELECT optout.opt_in('alice');
EXECUTE kept;
SELECT optout.opt_out('{alice,bob}'::text[]);
EXECUTE kept;

DROP TABLE event, guarded;
DROP EXTENSION optout;
