-- Whoever sees a period in a view has it acknowledged, too, and earlier than the
-- administrator has.  Takes that down, row by row, and sends an event of the same
-- user each time.
WITH latest AS (
	SELECT DISTINCT ON (organization, user_id)
		   organization, user_id, opted_in_at IS NULL AS opts_out,
		   COALESCE(opted_in_at, opted_out_at) AS begun
	  FROM optout.opt_out_history
	 ORDER BY organization, user_id, opted_out_at DESC
), seen AS (
	INSERT INTO soak.action
	SELECT 0, organization, user_id, opts_out, begun, clock_timestamp()
	  FROM ((SELECT * FROM latest ORDER BY begun DESC LIMIT 4)
			UNION ALL
			SELECT 'org0', 'kept', false, '-infinity') AS s
	RETURNING *
), offer AS (
	INSERT INTO soak.offered (batch, path, by_time, organization, user_id, sent)
	SELECT (SELECT nextval('soak.next_event')), 'witness', false, organization, user_id, clock_timestamp()
	  FROM seen
	RETURNING *
)
INSERT INTO soak.event (event, organization, user_id, sent)
SELECT event, organization, user_id, sent FROM offer
 WHERE optout.accepts(user_id, organization);
