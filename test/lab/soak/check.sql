-- What a round of the leak hunt has proved; prints one line a path and one for
-- each rule that was broken.  Nobody else is to be connected any more.
--
-- A user is known to be opted out from the acknowledgement of an opt-out until
-- the first opt-in that may have come after it has begun, that is, one that was
-- not acknowledged before the opt-out was begun.  The same the other way round,
-- and for aliases: each is known to be a user's, or nobody's.
-- All that twice: what administrators had acknowledged, and with what could be
-- seen in views even before.

ANALYZE soak.action, soak.link_action, soak.deletion, soak.offered, soak.present, soak.event, soak.guarded, soak.guarded_by_time,
	soak.guarded_columns, soak.guarded_json, soak.guarded_jsonb, soak.guarded_updated, soak.loaded, soak.erased_event;

----------------------------------------------------------------------
-- What is known
----------------------------------------------------------------------

CREATE TEMP TABLE action AS
SELECT action = 0 AS witnessed, organization, user_id, opts_out, begun,
	   COALESCE(acknowledged, 'infinity') AS acknowledged
  FROM soak.action
UNION ALL
-- nobody is opted out to begin with
SELECT DISTINCT false, organization, id, false, '-infinity'::timestamptz, '-infinity'::timestamptz
  FROM (SELECT organization, user_id FROM soak.offered
		UNION
		SELECT organization, other_id FROM soak.offered
		UNION
		SELECT organization, user_id FROM soak.signed_in
		UNION
		SELECT organization, user_id FROM soak.link_action) AS i (organization, id)
 WHERE id IS NOT NULL;
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

CREATE TEMP TABLE link_action AS
SELECT action = 0 AS witnessed, organization, alias, user_id, only_of, begun,
	   COALESCE(acknowledged, 'infinity') AS acknowledged
  FROM soak.link_action
UNION ALL
-- nobody's to begin with
SELECT DISTINCT false, organization, alias, NULL, NULL, '-infinity'::timestamptz, '-infinity'::timestamptz
  FROM soak.link_action;
CREATE INDEX ON link_action (organization, alias, acknowledged) WHERE NOT witnessed;
ANALYZE link_action;

-- Whose an id is; its own if it is no alias, and nobody's where user_id is NULL.
CREATE TEMP TABLE owned AS
SELECT views, organization, id, user_id, lower(span) AS since, upper(span) AS until
  FROM (SELECT views, a.organization, a.alias AS id, a.user_id,
			   unnest(range_agg(tstzrange(a.acknowledged, o.begun, '()'))) AS span
		  FROM link_action a
			   CROSS JOIN LATERAL (
				SELECT COALESCE(min(o.begun), 'infinity') AS begun
				  FROM link_action o
				 WHERE (o.organization, o.alias) = (a.organization, a.alias)
				   AND o.user_id IS DISTINCT FROM a.user_id AND (o.only_of IS NULL OR o.only_of = a.user_id)
				   AND o.acknowledged >= a.begun AND NOT o.witnessed) AS o
			   JOIN (VALUES (false), (true)) AS v (views) ON views OR NOT a.witnessed
		 WHERE a.only_of IS NULL AND a.acknowledged < o.begun
		 GROUP BY views, a.organization, a.alias, a.user_id) AS s
UNION ALL
SELECT views, organization, user_id, user_id, '-infinity', 'infinity'
  FROM (SELECT organization, user_id FROM action
		EXCEPT
		SELECT organization, alias FROM link_action) AS u,
	   (VALUES (false), (true)) AS v (views);
CREATE INDEX ON owned (views, organization, id, since);
ANALYZE owned;

----------------------------------------------------------------------
-- What was to happen
----------------------------------------------------------------------

-- The filter was asked after "sent" and before "decided": events of a batch are
-- looked at in order, so when the next one that was stored was stored.
CREATE TEMP TABLE event AS
SELECT o.*, s.event IS NOT NULL AS stored,
	   COALESCE(min(s.finished) OVER (PARTITION BY o.batch ORDER BY o.event DESC), 'infinity') AS decided
  FROM soak.offered o
	   LEFT JOIN soak.stored s USING (event);
-- Who signs in is told whether events are accepted.
INSERT INTO event (event, path, organization, user_id, sent, stored, decided)
SELECT - row_number() OVER (), 'sign_in', organization, user_id, begun, answer, finished
  FROM soak.signed_in;

-- Of each of an event's users.  Where the filter is told the time, a user who was
-- opted out then may have been opted in since, and what was so then may have been
-- deleted since.
CREATE TEMP TABLE judged_id AS
SELECT v.views, e.event, i.id, i.id <> o.user_id AS is_alias,
	   COALESCE(e.decided < o.until AND (k.opts_out AND e.decided < k.until OR t.opts_out AND NOT t.deleted), false) AS is_out,
	   COALESCE(e.decided < o.until AND NOT COALESCE(k.opts_out AND e.decided < k.until, false) AND t.opts_out, false) AS was_out,
	   COALESCE(e.decided < o.until AND
				(o.user_id IS NULL OR NOT k.opts_out AND e.decided < k.until AND (e.occurred IS NULL OR NOT t.opts_out)), false) AS is_in
  FROM event e
	   CROSS JOIN (VALUES (false), (true)) AS v (views)
	   CROSS JOIN LATERAL (VALUES (e.user_id), (e.other_id)) AS i (id)
	   LEFT JOIN LATERAL (
		SELECT * FROM owned o
		 WHERE (o.views, o.organization, o.id) = (v.views, e.organization, i.id)
		   AND o.since < e.sent
		 ORDER BY o.since DESC
		 LIMIT 1) AS o ON true
	   LEFT JOIN LATERAL (
		SELECT * FROM known k
		 WHERE (k.views, k.organization, k.user_id) = (v.views, e.organization, o.user_id)
		   AND k.since < e.sent
		 ORDER BY k.since DESC
		 LIMIT 1) AS k ON true
	   LEFT JOIN LATERAL (
		SELECT t.opts_out,
			   EXISTS (SELECT FROM soak.deletion d
						WHERE (d.organization, d.user_id) = (e.organization, o.user_id)
						  AND d.begun >= e.occurred AND d.begun < e.decided) AS deleted
		  FROM (SELECT * FROM known k
				 WHERE (k.views, k.organization, k.user_id) = (v.views, e.organization, o.user_id)
				   AND k.since < e.occurred
				 ORDER BY k.since DESC
				 LIMIT 1) AS t
		 WHERE e.occurred < t.until) AS t ON true
 WHERE i.id IS NOT NULL;
CREATE TEMP TABLE judged AS
SELECT j.views, e.*, j.must_go, j.must_stay, j.must_go_by_alias, j.must_go_by_past
  FROM event e
	   JOIN (SELECT views, event, bool_or(is_out) AS must_go, bool_and(is_in) AS must_stay,
					bool_or(is_out) AND bool_and(is_alias OR NOT is_out) AS must_go_by_alias,
					bool_or(is_out) AND bool_and(was_out OR NOT is_out) AS must_go_by_past
			   FROM judged_id
			  GROUP BY views, event) AS j USING (event);

SELECT path, count(*) AS offered, count(*) FILTER (WHERE stored) AS stored,
	   count(*) FILTER (WHERE must_go) AS must_go, count(*) FILTER (WHERE must_go_by_alias) AS by_alias,
	   count(*) FILTER (WHERE must_go_by_past) AS by_past, count(*) FILTER (WHERE must_stay) AS must_stay
  FROM judged
 WHERE NOT views
 GROUP BY path
 ORDER BY path;

SELECT count(*) FILTER (WHERE opts_out AND action <> 0) AS opt_outs,
	   count(*) FILTER (WHERE NOT opts_out AND action <> 0) AS opt_ins,
	   (SELECT count(*) FROM soak.link_action WHERE action <> 0 AND user_id IS NOT NULL) AS links,
	   (SELECT count(*) FROM soak.link_action WHERE action <> 0 AND user_id IS NULL AND only_of IS NULL) AS unlinks,
	   (SELECT count(*) FROM soak.deletion) AS deletions,
	   count(*) FILTER (WHERE action = 0) AS witnessed,
	   (SELECT count(*) FROM soak.erasure) AS erasures
  FROM soak.action;

----------------------------------------------------------------------
-- What did not
----------------------------------------------------------------------

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
-- the user is opted in again there is nothing but what was erased.
INSERT INTO broken
SELECT 'an event let through before settle() outlived erasure', NULL, count(*), min(x.done) - min(began)
  FROM soak.round, soak.erasure x
	   JOIN soak.present p ON p.organization = x.organization AND x.user_id IN (p.user_id, p.other_id)
 WHERE p.finished < (SELECT COALESCE(min(a.begun), 'infinity')
					   FROM soak.action a
					  WHERE (a.organization, a.user_id) = (x.organization, translate(x.user_id, 'f', 'e'))
						AND NOT a.opts_out AND a.action <> 0 AND a.begun > x.done)
HAVING count(*) > 0;

INSERT INTO broken
SELECT 'a loader''s table is left', relname, 1, NULL
  FROM pg_class WHERE relnamespace = 'soak_load'::regnamespace AND relkind IN ('r', 'p');

-- offered = stored + discarded
INSERT INTO broken
SELECT 'the ledger is wrong', format('%s: offered %s, stored %s, ledger %s', organization, offered, stored, discarded),
	   abs(offered - stored - discarded), NULL
  FROM (SELECT organization, sum(offered) AS offered, sum(stored) AS stored
		  FROM (SELECT organization, count(*), count(*) FILTER (WHERE stored) FROM event WHERE path <> 'sign_in' GROUP BY organization
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
SELECT 'the aliases are not what was acknowledged', format('%s of %s: %s', id, organization, user_id), 1, NULL
  FROM owned o
 WHERE NOT o.views AND o.until = 'infinity' AND o.user_id IS DISTINCT FROM o.id
   AND o.user_id IS DISTINCT FROM (SELECT a.user_id FROM optout.aliases a
									WHERE (a.organization, a.alias) = (o.organization, o.id));
INSERT INTO broken
SELECT 'an alias ' || what, format('%s of %s', alias, organization), count(*), min(seen) - began
  FROM soak.odd_alias, soak.round
 GROUP BY what, organization, alias, began;

INSERT INTO broken
SELECT 'optout.verify() finds rows that the filter would miss, or odd aliases', NULL, v, NULL
  FROM optout.verify() AS v
 WHERE v <> 0;

-- Nobody has failed in a way that nobody noticed.
INSERT INTO broken
SELECT 'a call was not acknowledged', NULL, count(*), min(begun) - began
  FROM (SELECT begun FROM soak.action WHERE acknowledged IS NULL
		UNION ALL
		SELECT begun FROM soak.link_action WHERE acknowledged IS NULL) AS a, soak.round
 GROUP BY began;
-- (Short rounds on a busy machine have few events for everything there is.)
INSERT INTO broken
SELECT 'the round has proved nothing', what, 1, NULL
  FROM (SELECT unnest(ARRAY['nobody had to be discarded', 'nobody had to be stored', 'nobody as an alias', 'nobody for the past']) AS what,
			   unnest(ARRAY[bool_or(must_go), bool_or(must_stay),
							bool_or(must_go_by_alias) OR count(*) < 10000, bool_or(must_go_by_past) OR count(*) < 10000]) AS proved
		  FROM judged
		 WHERE NOT views) AS p
 WHERE proved IS NOT TRUE;

\pset footer off
SELECT count(*) > 0 AS any_broken FROM broken \gset
\if :any_broken
SELECT * FROM broken ORDER BY rule, what;
\endif
SELECT COALESCE(sum(times), 0) AS broken FROM broken \gset
\echo broken: :broken
