-- Opt out users for the first time, and link an alias that is as new as they are,
-- before or after that.
\set o random(0, 1)
\set linked_first random(0, 1)
\set ms random(0, 10)
SELECT soak.newcomer() AS newcomer \gset
SELECT optout.enroll('n:newcomer', 'org' || :o);
\sleep :ms ms
\if :linked_first
SELECT * FROM soak.intend_link('org' || :o, '{m:newcomer}', 'n:newcomer') \gset
SELECT optout.link('n:newcomer', '{m:newcomer}'::text[], 'org' || :o);
SELECT soak.acknowledge(:action);
\endif
SELECT * FROM soak.intend(true, 'org' || :o, ARRAY['n:newcomer']) \gset
SELECT optout.opt_out('n:newcomer', 'org' || :o);
SELECT soak.acknowledge(:action);
\if :linked_first = 0
SELECT * FROM soak.intend_link('org' || :o, '{m:newcomer}', 'n:newcomer') \gset
SELECT optout.link('n:newcomer', '{m:newcomer}'::text[], 'org' || :o);
SELECT soak.acknowledge(:action);
\endif
\sleep :ms ms
