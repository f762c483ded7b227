/*
 * bench_floor.c
 *		The floor that test/bench/run measures against: what calling any function
 *		for a row costs, and what having any BEFORE ROW trigger costs.
 *
 * Built by the benchmark, never installed.
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "fmgr.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(bench_accept_all);
PG_FUNCTION_INFO_V1(bench_keep_row);

/*
 * accept_all(text, text, timestamptz): true, whatever the arguments are
 */
Datum
bench_accept_all(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(true);
}

/*
 * keep_row(): a BEFORE INSERT trigger that returns its row
 */
Datum
bench_keep_row(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_BEFORE(trigdata->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) ||
		!TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
		elog(ERROR, "keep_row() must be fired before a row is inserted");
	return PointerGetDatum(trigdata->tg_trigtuple);
}
