/*
 * floor.c
 *		What the benchmark compares with: a filter function and a trigger that do
 *		nothing.
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "fmgr.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(floor_accepts);
PG_FUNCTION_INFO_V1(floor_trigger);

/* accepts everything */
Datum
floor_accepts(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(true);
}

/* returns its row */
Datum
floor_trigger(PG_FUNCTION_ARGS)
{
	return PointerGetDatum(((TriggerData *) fcinfo->context)->tg_trigtuple);
}
