/*
 * status.c
 *		What an administrator can learn: optout.status, optout.progress, and
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
#include "utils/tuplestore.h"

#include "compat.h"
#include "coverage.h"
#include "filter.h"
#include "periods.h"
#include "progress.h"
#include "shared.h"
#include "tables.h"

PG_FUNCTION_INFO_V1(optout_filter_statistics);
PG_FUNCTION_INFO_V1(optout_load_progress);
PG_FUNCTION_INFO_V1(optout_command_progress);
PG_FUNCTION_INFO_V1(optout_verify);

static void status_put_progress(ReturnSetInfo *result, const ProgressRow *row);

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
	if (shared_blocks[0] != NULL)
	{
		filter_statistics(&stats);
		values[1] = Int64GetDatum((int64) shared_memory());
		values[2] = Int64GetDatum(stats.keys);
		values[3] = Float8GetDatum(stats.false_positive_rate);
		for (int kind = 0; kind < LOOKUP_KINDS; kind++)
			values[4 + kind] = Int64GetDatum((int64) pg_atomic_read_u64(&shared->lookups[kind]));
	}
	else
	{
		for (int i = 1; i < (int) lengthof(nulls); i++)
			nulls[i] = true;
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}

/*
 * optout.load_progress(), behind the view optout.status: how far the adding of
 * this database's keys has come, from 0 to 1.
 */
Datum
optout_load_progress(PG_FUNCTION_ARGS)
{
	SharedDatabase load;

	if (!coverage_loading(&load))
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8((double) load.next / load.nblocks);
}

/*
 * optout.command_progress(), behind the view optout.progress
 */
Datum
optout_command_progress(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	SharedDatabase load;
	ListCell   *cell;

	InitMaterializedSRF(fcinfo, 0);
	if (coverage_loading(&load))
	{
		ProgressRow row;

		row.pid = load.pid;
		row.command = "add keys";
		row.phase = "reading the table";
		row.done = load.next;
		row.total = load.nblocks;
		status_put_progress(result, &row);
	}
	foreach(cell, progress_read())
		status_put_progress(result, lfirst(cell));
	return (Datum) 0;
}

static void
status_put_progress(ReturnSetInfo *result, const ProgressRow *row)
{
	Datum		values[5];
	bool		nulls[5] = {false};

	values[0] = Int32GetDatum(row->pid);
	values[1] = CStringGetTextDatum(row->command);
	values[2] = CStringGetTextDatum(row->phase);
	values[3] = Int64GetDatum(row->done);
	values[4] = Int64GetDatum(row->total);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
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
	if (coverage_now() != COVERAGE_FULL)
		PG_RETURN_INT64(0);

	rel = tables_open("opt_out_period", AccessShareLock);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = table_beginscan(rel, snapshot, 0, NULL, SO_NONE);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (!filter_maybe_contains(periods_key(tuple).low))
			missed++;
	}
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
	PG_RETURN_INT64(missed);
}
