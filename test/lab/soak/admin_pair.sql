-- A user who is in no directory and has no periods, but an alias: there is nothing
-- of theirs to lock.  Several meet at the same moment, to opt them out and to take
-- the alias away or give it to somebody else.
\set o random(0, 1)
\set what random(0, 3)
\set ms random(0, 5)
SELECT soak.newcomer(10)::bigint + 1 AS pair \gset
SELECT soak.intend_link('org' || :o, ARRAY['q' || :pair], 'p' || :pair) AS action \gset
SELECT soak.attempt(format('SELECT soak.make_pair(%L, %L)', 'org' || :o, :pair)) AS done \gset
SELECT soak.finish(:action, ':done');
\if :what >= 2
SELECT * FROM soak.intend(true, 'org' || :o, ARRAY['p' || :pair]) \gset
\elif :what = 1
SELECT soak.intend_link('org' || :o, ARRAY['q' || :pair], 'c0') AS action \gset
\else
SELECT soak.intend_link('org' || :o, ARRAY['q' || :pair], NULL) AS action \gset
\endif
SELECT pg_sleep(:pair / 10.0 - extract(epoch FROM clock_timestamp()));
\if :what >= 2
\sleep :ms ms
SELECT soak.attempt(format('SELECT optout.enroll(%1$L, %2$L); SELECT optout.opt_out(%1$L, %2$L)', 'p' || :pair, 'org' || :o)) AS done \gset
\elif :what = 1
SELECT soak.attempt(format('SELECT optout.unlink(ARRAY[%1$L], %2$L); SELECT optout.link(%3$L, ARRAY[%1$L], %2$L); SELECT pg_sleep(0.01)',
						   'q' || :pair, 'org' || :o, 'c0')) AS done \gset
\else
SELECT soak.attempt(format('SELECT optout.unlink(ARRAY[%L], %L); SELECT pg_sleep(0.01)', 'q' || :pair, 'org' || :o)) AS done \gset
\endif
SELECT soak.finish(:action, ':done');
