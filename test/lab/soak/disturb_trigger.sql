-- Opt out or in a user while the state table's trigger is disabled.
\set o random(0, 1)
\set opts_out random(0, 1)
\set t random(0, 3)
\set ms random(200, 1500)
SELECT * FROM soak.intend(:opts_out = 1, 'org' || :o, ARRAY['t' || :t]) \gset
BEGIN;
ALTER TABLE optout.opt_out_period DISABLE TRIGGER optout_filter;
SELECT optout.:call('t' || :t, 'org' || :o);
ALTER TABLE optout.opt_out_period ENABLE ALWAYS TRIGGER optout_filter;
COMMIT;
SELECT soak.acknowledge(:action);
\sleep :ms ms
