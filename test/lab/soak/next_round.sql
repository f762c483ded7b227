-- Begin a round: everybody has to be known anew, the ledger goes on.
INSERT INTO soak.earlier
SELECT o.organization, count(*), count(s.event)
  FROM soak.offered o
	   LEFT JOIN soak.stored s USING (event)
 GROUP BY o.organization;
TRUNCATE soak.action, soak.offered, soak.event, soak.guarded, soak.guarded_by_time, soak.guarded_shape,
	soak.erased_event, soak.erasure, soak.round;

-- forgotten, and enrolled again but for the newcomers
SELECT optout.forget(array_agg(user_id), organization, force => true)
  FROM optout.product_user
 WHERE user_id <> 'out'
 GROUP BY organization;
SELECT optout.enroll(array_agg(user_id), organization)
  FROM soak.member, unnest('{org0,org1}'::text[]) AS organization
 GROUP BY organization;
INSERT INTO soak.action
SELECT nextval('soak.next_action'), organization, user_id, true, opted_out_at, clock_timestamp()
  FROM optout.opt_out_list;
INSERT INTO soak.round VALUES (clock_timestamp());
