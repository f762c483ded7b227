/*
 * status.c
 *		What an administrator can learn of the shared filter: optout.status and
 *		optout.verify().
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "coverage.h"
#include "filter.h"
#include "periods.h"
#include "state.h"

PG_FUNCTION_INFO_V1(optout_filter_statistics);
PG_FUNCTION_INFO_V1(optout_verify);

/*
 * optout.filter_statistics(), behind the view optout.status
 */
Datum
optout_filter_statistics(PG_FUNCTION_ARGS)
{
	TupleDesc	tupdesc;
	Datum		values[8];
	bool		nulls[8] = {false};
	FilterStatistics stats;
	const char *shared_filter = coverage_state();

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	values[0] = CStringGetTextDatum(shared_filter);
	if (filter_statistics(&stats))
	{
		values[1] = Int64GetDatum(stats.memory);
		values[2] = Int64GetDatum(stats.keys);
		values[3] = Float8GetDatum(stats.false_positive_rate);
		for (int kind = 0; kind < LOOKUP_KINDS; kind++)
			values[4 + kind] = Int64GetDatum((int64) stats.lookups[kind]);
	}
	else
	{
		for (int i = 1; i < (int) lengthof(nulls); i++)
			nulls[i] = true;
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}

/*
 * optout.verify()
 *
 * How many rows of the state table the shared filter would miss.
 */
Datum
optout_verify(PG_FUNCTION_ARGS)
{
	Relation	rel;
	Snapshot	snapshot;
	TableScanDesc scan;
	HeapTuple	tuple;
	int64		missed = 0;

	/* nobody trusts a filter that is not ready, so it misses nothing */
	if (coverage() != COVERAGE_FULL)
		PG_RETURN_INT64(0);

	rel = state_open("opt_out_period", AccessShareLock);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = table_beginscan(rel, snapshot, 0, NULL, SO_NONE);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		UserKey		key = periods_key(rel, tuple);

		CHECK_FOR_INTERRUPTS();
		if (!filter_maybe_contains(&key))
			missed++;
	}
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
	PG_RETURN_INT64(missed);
}
