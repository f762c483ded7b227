-- Who it was: the setting optout.actor beside the role, and the reason of an opt-in.
CREATE EXTENSION optout;
SELECT optout.enroll(ARRAY['alice', 'bob']);
SHOW optout.actor;
CREATE VIEW history AS
SELECT user_id, reason, opted_out_actor, opted_in_at IS NULL AS open, opted_in_actor, opted_in_reason, opted_out_by = current_user AS by
  FROM optout.opt_out_history ORDER BY user_id, opted_out_at;

SET optout.actor = 'kim@example.org';
SELECT optout.opt_out('alice', reason => 'asked');
SET optout.actor = 'lee@example.org';
SELECT optout.opt_in('alice', reason => 'asked again');
SET optout.actor = '';
SELECT optout.opt_out(ARRAY['alice', 'bob']);
SELECT optout.opt_in(ARRAY['bob'], NULL, 'many');
SELECT * FROM history;
-- an alias's rows say the same
SELECT optout.link('alice', ARRAY['a1']);
SELECT user_id, reason, opted_out_actor, opted_in_actor, opted_in_reason FROM optout.opt_out_period WHERE alias_of IS NOT NULL ORDER BY opted_out_at;

-- every call form of 1.1
SELECT optout.opt_in('alice'), optout.opt_in('alice', 'default'), optout.opt_in(user_id => 'alice'),
	   optout.opt_in('alice', organization => NULL), optout.opt_in(ARRAY['alice']), optout.opt_in('{alice,bob}'::text[], 'default'),
	   optout.opt_in(user_ids => ARRAY['bob']), optout.opt_in(user_ids => ARRAY['bob'], organization => 'default');

-- anybody may claim to be anybody, within limits
SELECT set_config('optout.actor', repeat('x', 1024), false) IS NOT NULL;
SELECT optout.opt_out('bob');
SELECT length(opted_out_actor) FROM optout.opt_out_history WHERE opted_in_at IS NULL;
SELECT set_config('optout.actor', repeat('x', 1025), false);
\echo :LAST_ERROR_SQLSTATE
SELECT set_config('optout.actor', repeat('ü', 512), false) IS NOT NULL;
SELECT optout.opt_in('bob', reason => '');
SELECT opted_in_reason = '', length(opted_in_actor) FROM optout.opt_out_history WHERE user_id = 'bob' ORDER BY opted_out_at DESC LIMIT 1;
CREATE ROLE regress_nobody;
SET ROLE regress_nobody;
SET optout.actor = 'me';
RESET ROLE;

DROP ROLE regress_nobody;
DROP VIEW history;
DROP EXTENSION optout;
