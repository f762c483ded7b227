-- What a round of the leak hunt has proved; prints one line a path and one for
-- each rule that was broken.  Nobody else is to be connected any more.
--
-- A user is known to be opted out from the acknowledgement of an opt-out until
-- the first opt-in that may have come after it has begun, that is, one that was
-- not acknowledged before the opt-out was begun.  The same the other way round.
-- All that twice: what administrators had acknowledged, and with what could be
-- seen in views even before.

ANALYZE soak.action, soak.offered, soak.event, soak.guarded, soak.guarded_by_time, soak.guarded_shape, soak.erased_event;

CREATE TEMP TABLE action AS
SELECT action = 0 AS witnessed, organization, user_id, opts_out, begun,
	   COALESCE(acknowledged, 'infinity') AS acknowledged
  FROM soak.action
UNION ALL
-- nobody is opted out to begin with
SELECT DISTINCT false, organization, user_id, false, '-infinity'::timestamptz, '-infinity'::timestamptz
  FROM soak.offered;
CREATE INDEX ON action (organization, user_id, opts_out, acknowledged) WHERE NOT witnessed;
ANALYZE action;

CREATE TEMP TABLE known AS
SELECT views, organization, user_id, opts_out, lower(span) AS since, upper(span) AS until
  FROM (SELECT views, a.organization, a.user_id, a.opts_out,
			   unnest(range_agg(tstzrange(a.acknowledged, o.begun, '()'))) AS span
		  FROM action a
			   CROSS JOIN LATERAL (
				SELECT COALESCE(min(o.begun), 'infinity') AS begun
				  FROM action o
				 WHERE (o.organization, o.user_id) = (a.organization, a.user_id)
				   AND o.opts_out <> a.opts_out AND o.acknowledged >= a.begun
				   AND NOT o.witnessed) AS o
			   JOIN (VALUES (false), (true)) AS v (views) ON views OR NOT a.witnessed
		 WHERE a.acknowledged < o.begun
		 GROUP BY views, a.organization, a.user_id, a.opts_out) AS s;
CREATE INDEX ON known (views, organization, user_id, since);
ANALYZE known;

-- The filter was asked after "sent" and before "decided": events of a batch are
-- looked at in order, so when the next one that was stored was stored.
CREATE TEMP TABLE event AS
SELECT o.*, s.event IS NOT NULL AS stored,
	   COALESCE(min(s.finished) OVER (PARTITION BY o.batch ORDER BY o.event DESC), 'infinity') AS decided
  FROM soak.offered o
	   LEFT JOIN soak.stored s USING (event);

-- Where the filter is told the time, a user who was opted out then may have been
-- opted in since.
CREATE TEMP TABLE judged AS
SELECT v.views, e.*,
	   k.opts_out AND CASE WHEN e.by_time THEN e.sent ELSE e.decided END < k.until AS must_go,
	   NOT k.opts_out AND e.decided < k.until AS must_stay
  FROM event e
	   CROSS JOIN (VALUES (false), (true)) AS v (views)
	   LEFT JOIN LATERAL (
		SELECT * FROM known k
		 WHERE (k.views, k.organization, k.user_id) = (v.views, e.organization, e.user_id)
		   AND k.since < e.sent
		 ORDER BY k.since DESC
		 LIMIT 1) AS k ON true;

SELECT path, count(*) AS offered, count(*) FILTER (WHERE stored) AS stored,
	   count(*) FILTER (WHERE must_go) AS must_go, count(*) FILTER (WHERE must_stay) AS must_stay
  FROM judged
 WHERE NOT views
 GROUP BY path
 ORDER BY path;

SELECT count(*) FILTER (WHERE opts_out AND action <> 0) AS opt_outs,
	   count(*) FILTER (WHERE NOT opts_out AND action <> 0) AS opt_ins,
	   count(*) FILTER (WHERE action = 0) AS witnessed,
	   (SELECT count(*) FROM soak.erasure) AS erasures
  FROM soak.action;

CREATE TEMP TABLE broken (rule text, what text, times bigint, after interval);

INSERT INTO broken
SELECT format('an event was %s after an opt-%s %s',
			  CASE WHEN stored THEN 'stored' ELSE 'discarded' END,
			  CASE WHEN stored THEN 'out' ELSE 'in' END,
			  CASE WHEN views THEN 'could be seen' ELSE 'was acknowledged' END),
	   path, count(*), min(sent) - began
  FROM (SELECT DISTINCT ON (event) *
		  FROM judged
		 WHERE CASE WHEN stored THEN must_go ELSE must_stay END
		 ORDER BY event, views) AS j, soak.round
 GROUP BY stored, views, path, began
UNION ALL
SELECT 'an event does not follow its own transaction''s change', path, count(*), min(sent) - began
  FROM event, soak.round
 WHERE stored <> expected
 GROUP BY path, began
UNION ALL
SELECT 'an event was stored that nobody had offered, or twice', NULL, count(*), min(s.sent) - began
  FROM (SELECT min(s.sent) AS sent
		  FROM soak.stored s
			   LEFT JOIN soak.offered o USING (event)
		 GROUP BY event
		HAVING count(*) > 1 OR count(o.batch) = 0) AS s, soak.round
 GROUP BY began;

-- What was let through before an opt-out cannot come after settle().  So until
-- the user's next opt-in nothing is left or comes.
INSERT INTO broken
SELECT 'an event let through before settle() outlived erasure', NULL, count(*), min(x.done) - min(began)
  FROM soak.round, soak.erasure x
	   JOIN soak.present p USING (organization, user_id)
 WHERE p.finished < (SELECT COALESCE(min(a.begun), 'infinity')
					   FROM soak.action a
					  WHERE (a.organization, a.user_id) = (x.organization, x.user_id)
						AND NOT a.opts_out AND a.action <> 0 AND a.begun > x.done)
HAVING count(*) > 0;

-- offered = stored + discarded
INSERT INTO broken
SELECT 'the ledger is wrong', format('%s: offered %s, stored %s, ledger %s', organization, offered, stored, discarded),
	   abs(offered - stored - discarded), NULL
  FROM (SELECT organization, sum(offered) AS offered, sum(stored) AS stored
		  FROM (SELECT organization, count(*), count(*) FILTER (WHERE stored) FROM event GROUP BY organization
				UNION ALL
				TABLE soak.earlier) AS s (organization, offered, stored)
		 GROUP BY organization) AS e
	   FULL JOIN
	   (SELECT organization, sum(discarded) AS discarded FROM optout.discards GROUP BY organization) AS d
	   USING (organization)
 WHERE offered IS DISTINCT FROM stored + COALESCE(discarded, 0);

INSERT INTO broken
SELECT 'the list is not what was acknowledged', format('%s of %s', user_id, organization), 1, NULL
  FROM known k
 WHERE NOT k.views AND k.until = 'infinity'
   AND k.opts_out <> EXISTS (SELECT FROM optout.opt_out_list l
							  WHERE (l.organization, l.user_id) = (k.organization, k.user_id));

INSERT INTO broken
SELECT 'optout.verify() finds rows that the filter would miss', NULL, v, NULL
  FROM optout.verify() AS v
 WHERE v <> 0;

-- Nobody has failed in a way that nobody noticed.
INSERT INTO broken
SELECT 'a call was not acknowledged', NULL, count(*), min(begun) - began
  FROM soak.action, soak.round
 WHERE acknowledged IS NULL
 GROUP BY began;
INSERT INTO broken
SELECT 'the round has proved nothing', NULL, 1, NULL
 WHERE NOT (SELECT bool_or(must_go) AND bool_or(must_stay) FROM judged WHERE NOT views);

\pset footer off
SELECT count(*) > 0 AS any_broken FROM broken \gset
\if :any_broken
SELECT * FROM broken ORDER BY rule, what;
\endif
SELECT COALESCE(sum(times), 0) AS broken FROM broken \gset
\echo broken: :broken
