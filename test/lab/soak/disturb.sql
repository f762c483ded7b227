-- What makes life harder for those who ingest: a ledger that somebody else has
-- locked, invalidations in such numbers that they overflow, statistics, vacuum.
BEGIN;
SELECT FROM optout.discard_ledger FOR UPDATE;
\sleep 20 ms
COMMIT;
DO $$
BEGIN
	FOR i IN 1 .. 200 LOOP
		EXECUTE 'CREATE TEMP TABLE chaff (a int)';
		EXECUTE 'DROP TABLE chaff';
	END LOOP;
END $$;
VACUUM ANALYZE optout.opt_out_period;
VACUUM optout.discard_ledger;
SELECT optout.compact_discards();
-- the same rule again
SELECT optout.guard_schema('soak_load', ARRAY['user_id', 'other_id'], organization => 'organization');
\sleep 100 ms
