-- Opt out users for the first time.
\set o random(0, 1)
\set ms random(0, 10)
SELECT soak.newcomer() AS newcomer \gset
SELECT optout.enroll(':newcomer', 'org' || :o);
\sleep :ms ms
SELECT * FROM soak.intend(true, 'org' || :o, ARRAY[':newcomer']) \gset
SELECT optout.opt_out(':newcomer', 'org' || :o);
SELECT soak.acknowledge(:action);
\sleep :ms ms
