-- Look at all aliases under one snapshot: each has the periods of its user, or
-- none if it is nobody's, and it is no user.
\set o random(0, 1)
WITH picked AS MATERIALIZED (
	SELECT 'org' || :o AS organization, substr('aaaadxsmq', 1 + floor(random() * 9)::integer, 1) AS class,
		   floor(random() * :users)::integer AS n
), id AS MATERIALIZED (
	SELECT p.organization,
		   class || CASE class WHEN 'm' THEN soak.newcomer()::bigint - n WHEN 'q' THEN soak.newcomer(10)::bigint - n % 4 WHEN 'd' THEN n WHEN 'x' THEN n ELSE n % 4 END AS alias
	  FROM picked p
), found AS (
	SELECT i.organization, i.alias, p.opted_out_at, p.opted_in_at
	  FROM id i JOIN optout.opt_out_period p ON p.organization = i.organization AND p.user_id = i.alias
), expected AS (
	SELECT i.organization, i.alias, p.opted_out_at, p.opted_in_at
	  FROM id i JOIN optout.user_alias a USING (organization, alias)
		   JOIN optout.opt_out_period p ON p.organization = a.organization AND p.user_id = a.user_id
)
INSERT INTO soak.odd_alias
SELECT clock_timestamp(), organization, alias, what
  FROM (SELECT organization, alias, 'lacks a period' AS what FROM (TABLE expected EXCEPT ALL TABLE found) AS lacking
		UNION
		SELECT organization, alias, 'has a period too many' FROM (TABLE found EXCEPT ALL TABLE expected) AS excess
		UNION
		SELECT a.organization, a.alias, 'is a user'
		  FROM id i JOIN optout.user_alias a USING (organization, alias)
			   JOIN optout.product_user u ON u.organization = a.organization AND u.user_id = a.alias) AS odd;
\sleep 2 ms
