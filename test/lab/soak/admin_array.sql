-- Opt out or in several users by one call, while others do the same with them.
\set o random(0, 1)
\set opts_out random(0, 1)
\set from random(0, 3)
\set to random(0, 3)
\set ms random(0, 4)
SELECT array_agg('c' || n)::text AS ids FROM generate_series(least(:from, :to), greatest(:from, :to)) n \gset
SELECT * FROM soak.intend(:opts_out = 1, 'org' || :o, ':ids') \gset
SELECT optout.:call(':ids'::text[], 'org' || :o);
SELECT soak.acknowledge(:action);
\sleep :ms ms
