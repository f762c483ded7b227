-- Opt out or in one user, by a call of its own.
\set o random(0, 1)
\set opts_out random(0, 1)
\set u random(0, :users / :admins - 1) * :admins + :client_id
\set ms random(0, 4)
SELECT * FROM soak.intend(:opts_out = 1, 'org' || :o, ARRAY['u' || :u]) \gset
SELECT optout.:call('u' || :u, 'org' || :o);
SELECT soak.acknowledge(:action);
\sleep :ms ms
