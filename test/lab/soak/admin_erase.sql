-- Opt out a user and erase what was stored of them, under their alias, too, as
-- doc/recipes.md tells to; then opt them in again.
\set o random(0, 1)
\set e random(0, 1) * 2 + :client_id
\set ms random(0, 100)
SELECT * FROM soak.intend(true, 'org' || :o, ARRAY['e' || :e]) \gset
SELECT optout.opt_out('e' || :e, 'org' || :o);
SELECT soak.acknowledge(:action);
CALL optout.settle();
SELECT soak.erase('org' || :o, ARRAY['e' || :e, 'f' || :e]);
\sleep :ms ms
SELECT * FROM soak.intend(false, 'org' || :o, ARRAY['e' || :e]) \gset
SELECT optout.opt_in('e' || :e, 'org' || :o);
SELECT soak.acknowledge(:action);
\sleep :ms ms
