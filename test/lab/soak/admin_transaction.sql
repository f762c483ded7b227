-- Opt out and in several users in a transaction that takes a while, rolls back to
-- a savepoint, and ends in each of the ways there are.  Its own events follow
-- its own changes.
\set o random(0, 1)
\set n :users / :admins
\set i random(0, :n - 1)
\set first :i * :admins + :client_id
\set undone (:i + 1) % :n * :admins + :client_id
\set second (:i + 2) % :n * :admins + :client_id
\set first_out random(0, 1)
\set second_out random(0, 1)
\set repeatable random(0, 1)
\set end random(0, 9)
\set ms random(0, 30)
SELECT action AS first_action, call AS first_call
  FROM soak.intend(:first_out = 1, 'org' || :o, ARRAY['u' || :first]) \gset
SELECT action AS second_action, call AS second_call
  FROM soak.intend(:second_out = 1, 'org' || :o, ARRAY['u' || :second]) \gset
\if :repeatable
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT soak.ingest();
\else
BEGIN;
\endif
SELECT optout.:first_call('u' || :first, 'org' || :o);
SELECT soak.ingest_own('org' || :o, 'u' || :first, :first_out = 0);
SAVEPOINT s;
SELECT optout.opt_out('u' || :undone, 'org' || :o);
SELECT soak.ingest_own('org' || :o, 'u' || :undone, false);
SELECT optout.opt_in(ARRAY['u' || :undone, 'u' || :first], 'org' || :o);
SELECT soak.ingest_own('org' || :o, 'u' || :undone, true);
\sleep :ms ms
ROLLBACK TO s;
SELECT soak.ingest_own('org' || :o, 'u' || :first, :first_out = 0);
SAVEPOINT t;
SELECT optout.:second_call(ARRAY['u' || :second], 'org' || :o);
RELEASE t;
SELECT soak.ingest_own('org' || :o, 'u' || :second, :second_out = 0);
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
SELECT soak.take_back(:first_action), soak.take_back(:second_action);
\else
SELECT soak.acknowledge(:first_action), soak.acknowledge(:second_action);
\endif
