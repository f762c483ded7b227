-- The opt-out page at a glance, for psql: who can be opted out, who is, what has been
-- discarded and purged of the organizations that you may see, and what is not guarded.
-- "By" is the role and, after a colon, on whose behalf.
--
--     \i `pg_config --sharedir`/extension/optout-page.sql
--
--     \set optout_organization acme       only this one
--     \set optout_day 2026-05-14          as if it were this day
--
-- Reads the views, changes nothing, and leaves psql's settings as they are.

\if :{?optout_organization}
	\set optout_page_mine 'organization = ' :'optout_organization'
\else
	\set optout_page_mine true
\endif
\if :{?optout_day}
	\set optout_page_day 'date ' :'optout_day'
\else
	\set optout_page_day current_date
\endif

\qecho == Users who can be opted out ==
SELECT left(organization, 15) AS organization, left(user_id, 24) AS user_id,
	   left(display_name, 24) AS name, signed_in_at::date AS signed_in,
	   left(array_to_string(aliases, ' '), 20) AS aliases
  FROM optout.user_list
 WHERE NOT opted_out AND :optout_page_mine
 ORDER BY display_name NULLS LAST, user_id
 LIMIT 20;
SELECT CASE WHEN count(*) > 20 THEN 'and ' || count(*) - 20 || ' more' ELSE '' END AS optout_page_more
  FROM optout.user_list
 WHERE NOT opted_out AND :optout_page_mine \gset
\qecho :optout_page_more

\qecho == Opted out ==
SELECT left(organization, 15) AS organization, left(user_id, 20) AS user_id, opted_out_at::date AS since,
	   left(concat_ws(': ', opted_out_by, open_periods.opted_out_actor), 20) AS by, left(reason, 14) AS reason,
	   CASE WHEN client_may_still_track THEN 'yes' ELSE '' END AS sending,
	   left(array_to_string(aliases, ' '), 20) AS aliases
  FROM optout.opt_out_list
	   JOIN (SELECT organization, user_id, opted_out_actor
			   FROM optout.opt_out_history WHERE opted_in_at IS NULL) AS open_periods USING (organization, user_id)
 WHERE :optout_page_mine
 ORDER BY opted_out_at DESC, user_id
 LIMIT 20;
SELECT CASE WHEN count(*) > 20 THEN 'and ' || count(*) - 20 || ' more, opted out before' ELSE '' END AS optout_page_more
  FROM optout.opt_out_list
 WHERE :optout_page_mine \gset
\qecho :optout_page_more

\qecho == Last opted in ==
SELECT left(organization, 15) AS organization, left(user_id, 20) AS user_id, opted_out_at::date AS opted_out,
	   opted_in_at::date AS opted_in, left(concat_ws(': ', opted_in_by, opted_in_actor), 20) AS by,
	   left(opted_in_reason, 14) AS reason
  FROM optout.opt_out_history
 WHERE opted_in_at IS NOT NULL AND :optout_page_mine
 ORDER BY opted_in_at DESC, user_id
 LIMIT 5;

\qecho == Discarded events, the last 14 days ==
SELECT day::date, discarded, repeat('#', ceil(40 * discarded / NULLIF(max(discarded) OVER (), 0))::integer) AS plot
  FROM (SELECT day, COALESCE(sum(d.discarded), 0) AS discarded
		  FROM generate_series(:optout_page_day - 13, :optout_page_day, interval '1 day') AS day
			   LEFT JOIN optout.discards d
			   ON date_trunc('day', d.hour) = day AND :optout_page_mine
		 GROUP BY day) AS discards
 ORDER BY day;

\qecho == Last purges ==
SELECT left(organization, 15) AS organization, purged_at::date AS purged, left(purged_by, 20) AS by,
	   sum(deleted) AS deleted, count(*) FILTER (WHERE deleted > 0) AS of_tables
  FROM optout.purges
 WHERE :optout_page_mine
 GROUP BY purges.organization, purged_at, purged_by
 ORDER BY purged_at DESC, purges.organization
 LIMIT 5;

\qecho == Not guarded ==
SELECT relation, left(reason, 60) AS reason, severity
  FROM optout.unguarded
 ORDER BY severity, relation::text, reason
 LIMIT 10;
SELECT CASE WHEN count(*) > 10 THEN 'and ' || count(*) - 10 || ' more' ELSE '' END AS optout_page_more
  FROM optout.unguarded \gset
\qecho :optout_page_more

\unset optout_page_mine
\unset optout_page_day
\unset optout_page_more
