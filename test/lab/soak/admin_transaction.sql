-- Opt out and in several users, and link and unlink an alias of one, in a
-- transaction that takes a while, rolls back to a savepoint, and ends in each of
-- the ways there are.  Its own events follow its own changes.
\set o random(0, 1)
\set n :users / :admins
\set i random(0, :n - 1)
\set first :i * :admins + :client_id
\set undone (:i + 1) % :n * :admins + :client_id
\set second (:i + 2) % :n * :admins + :client_id
\set first_out random(0, 1)
\set second_out random(0, 1)
\set linked random(0, 1)
\set linked_first random(0, 1)
\set repeatable random(0, 1)
\set end random(0, 9)
\set ms random(0, 30)
SELECT action AS first_action, call AS first_call
  FROM soak.intend(:first_out = 1, 'org' || :o, ARRAY['u' || :first]) \gset
SELECT action AS second_action, call AS second_call
  FROM soak.intend(:second_out = 1, 'org' || :o, ARRAY['u' || :second]) \gset
SELECT soak.intend_link('org' || :o, ARRAY['x' || :second], CASE WHEN :linked = 1 THEN 'u' || :second END) AS link_action \gset
\if :repeatable
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT soak.ingest();
\else
BEGIN;
\endif
SELECT optout.:first_call('u' || :first, 'org' || :o);
SELECT soak.ingest_own('org' || :o, 'u' || :first, :first_out = 0);
SELECT soak.ingest_own('org' || :o, 'd' || :first, :first_out = 0);
SAVEPOINT s;
SELECT optout.opt_out('u' || :undone, 'org' || :o);
SELECT optout.link('u' || :undone, ARRAY['x' || :undone], 'org' || :o);
SELECT soak.ingest_own('org' || :o, alias, false) FROM unnest(ARRAY['u' || :undone, 'd' || :undone, 'x' || :undone]) AS alias;
SELECT optout.opt_in(ARRAY['u' || :undone, 'u' || :first], 'org' || :o);
SELECT soak.ingest_own('org' || :o, alias, true) FROM unnest(ARRAY['u' || :undone, 'x' || :undone, 'd' || :first]) AS alias;
SELECT optout.unlink(ARRAY['x' || :undone, 'x' || :second], 'org' || :o, true);
SELECT soak.ingest_own('org' || :o, 'x' || :second, true);
\sleep :ms ms
ROLLBACK TO s;
SELECT soak.ingest_own('org' || :o, 'u' || :first, :first_out = 0);
SELECT soak.ingest_own('org' || :o, 'd' || :first, :first_out = 0);
SAVEPOINT t;
\if :linked_first
SELECT CASE :linked WHEN 1 THEN optout.link('u' || :second, ARRAY['x' || :second], 'org' || :o)
	ELSE optout.unlink(ARRAY['x' || :second], 'org' || :o, true) END;
\endif
SELECT optout.:second_call(ARRAY['u' || :second], 'org' || :o);
\if :linked_first = 0
SELECT CASE :linked WHEN 1 THEN optout.link('u' || :second, ARRAY['x' || :second], 'org' || :o)
	ELSE optout.unlink(ARRAY['x' || :second], 'org' || :o, true) END;
\endif
RELEASE t;
SELECT soak.ingest_own('org' || :o, alias, :second_out = 0) FROM unnest(ARRAY['u' || :second, 'd' || :second]) AS alias;
SELECT soak.ingest_own('org' || :o, 'x' || :second, :second_out = 0 OR :linked = 0);
\sleep :ms ms
\if :end <= 3
COMMIT;
\elif :end <= 5
ROLLBACK;
\else
PREPARE TRANSACTION 'admin :client_id';
\sleep :ms ms
\if :end <= 8
COMMIT PREPARED 'admin :client_id';
\else
ROLLBACK PREPARED 'admin :client_id';
\endif
\endif
\if :end = 4 or :end = 5 or :end = 9
SELECT soak.take_back(:first_action), soak.take_back(:second_action), soak.take_back(:link_action);
\else
SELECT soak.acknowledge(:first_action), soak.acknowledge(:second_action), soak.acknowledge(:link_action);
\endif
