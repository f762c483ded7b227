-- The state table's trigger is disabled for a while, in which users are opted out,
-- and one of them for the first time.
\set o random(0, 1)
\set ms random(20, 100)
\set rest random(200, 1500)
ALTER TABLE optout.opt_out_period DISABLE TRIGGER optout_filter;
SELECT soak.newcomer(1) AS newcomer \gset
SELECT optout.enroll('y:newcomer', 'org' || :o);
SELECT * FROM soak.intend(true, 'org' || :o, ARRAY['y:newcomer']) \gset
SELECT optout.opt_out('y:newcomer', 'org' || :o);
SELECT soak.acknowledge(:action);
\sleep :ms ms
ALTER TABLE optout.opt_out_period ENABLE ALWAYS TRIGGER optout_filter;
\sleep :rest ms
