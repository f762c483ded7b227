-- The same twice in a transaction that takes a while, and ends in each of the
-- ways there are.
\set o random(0, 3) / 3
\set end random(0, 9)
\set ms random(0, 20)
SELECT action AS first_action, command AS first_command FROM soak.choose('org' || :o) \gset
SELECT action AS second_action, command AS second_command FROM soak.choose('org' || :o) \gset
\if :end % 2 = 0
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT soak.ingest();
\else
BEGIN;
\endif
SELECT soak.attempt($command$:first_command$command$) AS first_done \gset
SAVEPOINT s;
SELECT soak.attempt($command$:second_command$command$);
\sleep :ms ms
ROLLBACK TO s;
SAVEPOINT t;
SELECT soak.attempt($command$:second_command$command$) AS second_done \gset
RELEASE t;
\sleep :ms ms
\if :end <= 4
COMMIT;
\elif :end <= 5
ROLLBACK;
\else
PREPARE TRANSACTION 'link :client_id';
\sleep :ms ms
\if :end <= 8
COMMIT PREPARED 'link :client_id';
\else
ROLLBACK PREPARED 'link :client_id';
\endif
\endif
\if :end = 5 or :end = 9
SELECT soak.take_back(:first_action), soak.take_back(:second_action);
\else
SELECT soak.finish(:first_action, ':first_done'), soak.finish(:second_action, ':second_done');
\endif
\sleep :ms ms
