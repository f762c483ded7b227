-- Link, unlink, opt out or in, forget or sign in users whom others do the same
-- with.
\set o random(0, 3) / 3
\set ms random(0, 4)
SELECT * FROM soak.choose('org' || :o) \gset
SELECT soak.attempt($command$:command$command$) AS done \gset
SELECT soak.finish(:action, ':done');
\sleep :ms ms
