-- Erasing a person.
CREATE EXTENSION optout;
SELECT optout.enroll(ARRAY['alice', 'bob', 'carol', 'dave']);
SELECT optout.enroll('alice', 'acme');
SELECT optout.opt_out(ARRAY['alice', 'bob', 'carol']), optout.opt_in('alice'), optout.opt_out('alice'), optout.opt_in('alice');

-- directory row and all periods, in this organization only
SELECT optout.forget('alice');
SELECT optout.forget('alice') AS again;
SELECT organization, user_id FROM optout.user_list WHERE user_id = 'alice';
SELECT count(*) FROM optout.opt_out_history WHERE user_id = 'alice';

-- refused while opted out
SELECT optout.forget('bob');
\echo :LAST_ERROR_SQLSTATE
SELECT optout.forget(ARRAY['dave', 'bob']);
SELECT count(*) FROM optout.user_list;
SELECT optout.forget('bob', force => true);
SELECT optout.accepts('bob');
SELECT user_id FROM optout.opt_out_list;

-- also for those who have left the directory
DELETE FROM optout.product_user WHERE user_id = 'carol';
SELECT optout.forget('carol');
SELECT optout.accepts('carol');
SELECT optout.opt_in('carol');
SELECT optout.forget('carol');
SELECT count(*) FROM optout.opt_out_history;

-- several, all or none; counted are those of whom there was something
SELECT optout.forget(ARRAY['dave', 'nobody', 'dave']);
SELECT optout.forget('{}'::text[]);
SELECT optout.enroll(ARRAY['x', 'y']), optout.opt_out('x');
SELECT optout.forget(ARRAY['x', 'y', 'z'], force => true);
SELECT organization, user_id FROM optout.user_list;
SELECT optout.forget(NULL::text);
SELECT optout.forget(ARRAY['x', NULL]);
SELECT optout.forget('x', '*');

-- undone with the transaction
BEGIN;
SELECT optout.forget('alice', 'acme');
ROLLBACK;
SELECT organization, user_id FROM optout.user_list;

DROP EXTENSION optout;
