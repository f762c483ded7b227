-- Whoever sees a period in a view has it acknowledged, too, and earlier than the
-- administrator has; so it is with a link.  Takes that down, row by row, and sends
-- an event of the same user or alias each time.
WITH latest AS (
	SELECT DISTINCT ON (organization, user_id)
		   organization, user_id, opted_in_at IS NULL AS opts_out,
		   COALESCE(opted_in_at, opted_out_at) AS begun
	  FROM optout.opt_out_history
	 ORDER BY organization, user_id, opted_out_at DESC
), seen AS MATERIALIZED (
	SELECT s.*, clock_timestamp() AS acknowledged
	  FROM ((SELECT organization, user_id, opts_out, begun, NULL AS alias, NULL::timestamptz AS linked_at
			   FROM latest
			  ORDER BY begun DESC LIMIT 4)
			UNION ALL
			(SELECT l.organization, l.user_id, l.opts_out, l.begun, a.alias, a.linked_at
			   FROM latest l JOIN optout.aliases a USING (organization, user_id)
			  ORDER BY GREATEST(a.linked_at, l.begun) DESC LIMIT 4)
			UNION ALL
			SELECT 'org0', 'kept', false, '-infinity', NULL, NULL) AS s
), action AS (
	INSERT INTO soak.action
	SELECT 0, organization, user_id, opts_out, begun, acknowledged
	  FROM seen
), link_action AS (
	INSERT INTO soak.link_action (action, organization, alias, user_id, begun, acknowledged)
	SELECT 0, organization, alias, user_id, linked_at, acknowledged
	  FROM seen
	 WHERE alias IS NOT NULL
), offer AS (
	INSERT INTO soak.offered (batch, path, organization, user_id, sent)
	SELECT (SELECT nextval('soak.next_event')), 'witness', organization, COALESCE(alias, user_id), clock_timestamp()
	  FROM seen
	RETURNING *
)
INSERT INTO soak.event (event, organization, user_id, sent)
SELECT event, organization, user_id, sent FROM offer
 WHERE optout.accepts(user_id, organization);
