-- Opt out a user and erase what was stored of them, under their alias, too: by
-- purge(), or as it is done by hand.  Then opt them in again.
\set o random(0, 1)
\set e random(0, 1) * 2 + :client_id
\set by_hand random(0, 2) / 2
\set ms random(0, 100)
SELECT * FROM soak.intend(true, 'org' || :o, ARRAY['e' || :e]) \gset
SELECT optout.opt_out('e' || :e, 'org' || :o);
SELECT soak.acknowledge(:action);
\if :by_hand
CALL optout.settle();
SELECT soak.erase('soak.present', 'org' || :o, ARRAY['e' || :e, 'f' || :e]);
\else
CALL optout.purge(ARRAY['e' || :e], 'org' || :o);
-- which knows of guarded tables only
SELECT soak.erase('soak.event', 'org' || :o, ARRAY['e' || :e, 'f' || :e]);
\endif
SELECT soak.note_erasure('org' || :o, ARRAY['e' || :e, 'f' || :e]);
\sleep :ms ms
SELECT * FROM soak.intend(false, 'org' || :o, ARRAY['e' || :e]) \gset
SELECT optout.opt_in('e' || :e, 'org' || :o);
SELECT soak.acknowledge(:action);
\sleep :ms ms
