-- Opt out a user and erase what was stored of them: the recipe of the README.
\set o random(0, 1)
\set u random(0, :users / :admins - 1) * :admins + :client_id
\set ms random(0, 4)
SELECT * FROM soak.intend(true, 'org' || :o, ARRAY['u' || :u]) \gset
SELECT optout.opt_out('u' || :u, 'org' || :o);
SELECT soak.acknowledge(:action);
CALL optout.settle();
SELECT soak.erase('org' || :o, 'u' || :u);
INSERT INTO soak.erasure VALUES ('org' || :o, 'u' || :u, clock_timestamp());
\sleep :ms ms
