-- Begin a round: everybody has to be known anew, the ledger goes on.
INSERT INTO soak.earlier
SELECT o.organization, count(*), count(s.event)
  FROM soak.offered o
	   LEFT JOIN soak.stored s USING (event)
 GROUP BY o.organization;
TRUNCATE soak.action, soak.link_action, soak.deletion, soak.signed_in, soak.odd_alias,
	soak.offered, soak.present, soak.loaded, soak.erased_event, soak.erasure, soak.round;

-- forgotten, with all aliases, and enrolled again but for the newcomers
SELECT optout.forget(array_agg(user_id), organization, force => true)
  FROM (SELECT organization, user_id FROM optout.product_user
		UNION
		SELECT organization, user_id FROM optout.opt_out_history
		UNION
		SELECT organization, user_id FROM optout.aliases) AS u
 WHERE user_id <> 'out'
 GROUP BY organization;
SELECT optout.enroll(array_agg(user_id), organization)
  FROM soak.member, unnest('{org0,org1}'::text[]) AS organization
 GROUP BY organization;

WITH linked AS (
	SELECT organization, optout.link(array_agg(user_id), array_agg(alias), organization)
	  FROM soak.constant_alias, unnest('{org0,org1}'::text[]) AS organization
	 GROUP BY organization
)
INSERT INTO soak.link_action (action, organization, alias, user_id, begun, acknowledged)
SELECT nextval('soak.next_action'), organization, alias, user_id, clock_timestamp(), clock_timestamp()
  FROM linked, soak.constant_alias;
INSERT INTO soak.action
SELECT nextval('soak.next_action'), organization, user_id, true, opted_out_at, clock_timestamp()
  FROM optout.opt_out_list;
INSERT INTO soak.round VALUES (clock_timestamp());
