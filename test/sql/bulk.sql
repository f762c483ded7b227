-- Many users by one call, whether they are most of the table's or a few, near each
-- other or far apart: exactly they are found.
CREATE EXTENSION optout;
SELECT optout.enroll(array_agg('u' || lpad(n::text, 5, '0')), o) FROM generate_series(1, 2000) n, unnest('{a,b,c}'::text[]) o GROUP BY o;
-- whom nobody is to touch
SELECT optout.opt_out(array_agg('u' || lpad(n::text, 5, '0')), 'c') FROM generate_series(1, 2000, 4) n;
CREATE TABLE pattern (nr int PRIMARY KEY, what text, includes text);
INSERT INTO pattern VALUES
	(1, 'all', 'true'), (2, 'every second', 'n % 2 = 0'), (3, 'every fifth', 'n % 5 = 0'), (4, 'every twelfth', 'n % 12 = 7'),
	(5, 'every hundredth', 'n % 100 = 0'), (6, 'the first', 'n < 600'), (7, 'the last', 'n > 1500'), (8, 'one', 'n = 1000'), (9, 'none', 'false'),
	(10, 'runs', 'n % 100 < 20'), (11, 'long runs', 'n % 700 < 300'), (12, 'dense, then sparse', 'n < 700 OR n % 50 = 0'),
	(13, 'sparse, then dense', 'n > 1300 OR n % 50 = 0'), (14, 'dense and sparse in turns', 'n % 400 < 200 OR n % 40 = 0'),
	(15, 'at random', 'hashint4(n) % 3 = 0'), (16, 'fewer, at random', 'hashint4(n) % 40 = 0');

CREATE FUNCTION check_pattern(includes text, OUT users int, OUT out_ok boolean, OUT linked_ok boolean, OUT in_ok boolean, OUT forgotten_ok boolean)
LANGUAGE plpgsql AS $$
DECLARE
	ids text[];
	others text[];
	n int;
	linked int;
BEGIN
	EXECUTE format($q$SELECT COALESCE(array_agg(u ORDER BY u) FILTER (WHERE x), '{}'), COALESCE(array_agg(u ORDER BY u) FILTER (WHERE x IS NOT TRUE), '{}')
		FROM (SELECT 'u' || lpad(n::text, 5, '0') AS u, %s AS x FROM generate_series(1, 2000) n) s$q$, includes) INTO ids, others;
	users := cardinality(ids);
	-- half of them out before they are linked, in another order
	n := optout.opt_out(ARRAY(SELECT u FROM unnest(ids) u WHERE right(u, 1) < '5' ORDER BY md5(u)), 'a');
	linked := optout.link(ids || ids, ARRAY(SELECT 'v' || u FROM unnest(ids) u) || ARRAY(SELECT 't' || u FROM unnest(ids) u), 'a')
		+ optout.link(ids, ARRAY(SELECT 't' || u FROM unnest(ids) u), 'a');
	n := n + optout.opt_out(ids, 'a');
	out_ok := n = users AND ids = ARRAY(SELECT user_id FROM optout.opt_out_period WHERE organization = 'a' AND opted_in_at IS NULL AND alias_of IS NULL ORDER BY user_id);
	linked_ok := linked = 2 * users AND ARRAY(SELECT u FROM unnest(ids) u UNION ALL SELECT u FROM unnest(ids) u ORDER BY 1)
		= ARRAY(SELECT alias_of FROM optout.opt_out_period WHERE opted_in_at IS NULL AND alias_of = right(user_id, -1) ORDER BY 1);
	n := optout.opt_in(ids, 'a');
	linked := optout.unlink(ARRAY(SELECT 'v' || u FROM unnest(ids || others) u), 'a');
	in_ok := n = users AND linked = users AND NOT EXISTS (SELECT FROM optout.opt_out_period WHERE organization = 'a' AND opted_in_at IS NULL)
		AND (SELECT count(*) = users FROM optout.user_alias);
	n := optout.forget(ids, 'a');
	forgotten_ok := n = users AND others = ARRAY(SELECT user_id FROM optout.product_user WHERE organization = 'a' ORDER BY user_id)
		AND NOT EXISTS (SELECT FROM optout.opt_out_period WHERE organization = 'a') AND NOT EXISTS (SELECT FROM optout.user_alias);
	PERFORM optout.enroll(ids, 'a');
END $$;
CREATE TABLE result (LIKE pattern, users int, out_ok boolean, linked_ok boolean, in_ok boolean, forgotten_ok boolean);
DO $$
DECLARE
	nr CONSTANT int[] := ARRAY(SELECT p.nr FROM pattern p ORDER BY p.nr);
BEGIN
	FOR i IN 1 .. cardinality(nr) LOOP
		INSERT INTO result SELECT p.*, c.* FROM pattern p CROSS JOIN LATERAL check_pattern(p.includes) c WHERE p.nr = i;
		COMMIT;
	END LOOP;
END $$;
SELECT what, users, out_ok, linked_ok, in_ok, forgotten_ok FROM result ORDER BY nr;
SELECT organization, count(*), count(*) FILTER (WHERE opted_out) AS out FROM optout.user_list GROUP BY 1 ORDER BY 1;
SELECT optout.verify();

-- The first that is not there is named, wherever it is, and nothing changes.
CREATE FUNCTION failure(ids text[]) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN optout.opt_out(ids, 'a');
EXCEPTION WHEN undefined_object THEN
	RETURN SQLERRM;
END $$;
SELECT x, failure(array_agg('u' || lpad(n::text, 5, '0')) || ARRAY[x, 'u07000'])
  FROM generate_series(1, 2000) n, unnest('{a,u00000,u00001x,u01000x,u01999x,u02001,z}'::text[]) x GROUP BY x ORDER BY x;
SELECT x, failure(array_agg('u' || lpad(n::text, 5, '0')) || ARRAY[x, 'u07000'])
  FROM generate_series(1, 2000, 40) n, unnest('{a,u00000,u00001x,u01000x,u01999x,u02001,z}'::text[]) x GROUP BY x ORDER BY x;
SELECT count(*) FROM optout.opt_out_list WHERE organization = 'a';

DROP TABLE pattern, result;
DROP FUNCTION check_pattern, failure;
DROP EXTENSION optout;
