/*
 * discard.c
 *		The guard's trigger function, which discards events of opted-out
 *		users.
 *
 * An UPDATE that moves a row to another partition fires the INSERT trigger
 * there, which cannot tell it from an event that arrives.  So a stored event of
 * a user who is opted out by now is discarded when it is moved.
 *
 * COPY FROM writes many rows at a time only into tables without any BEFORE
 * ROW trigger, even a disabled one, and only its WHERE could drop rows there
 * instead.  We tried to add the filter to the WHERE without the writer's
 * knowledge, and to hide the trigger from COPY: it means altering the
 * relation cache, needs SELECT on the columns, which writers may lack, and
 * does nothing for partitions.  So a guard costs COPY up to half of its
 * speed.
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"

#include "event.h"
#include "fkey.h"
#include "guards.h"

PG_FUNCTION_INFO_V1(optout_discard_opted_out);
PG_FUNCTION_INFO_V1(optout_discard_event);

static EventShape *discard_shape(FunctionCallInfo fcinfo);

/*
 * What the trigger is to read of this relation's rows; kept from row to row.
 */
static EventShape *
discard_shape(FunctionCallInfo fcinfo)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	MemoryContext oldcontext;

	if (fcinfo->flinfo->fn_extra != NULL)
		return fcinfo->flinfo->fn_extra;

	oldcontext = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	fcinfo->flinfo->fn_extra = guards_shape_by(trigdata->tg_relation, trigdata->tg_trigger);
	MemoryContextSwitchTo(oldcontext);
	return fcinfo->flinfo->fn_extra;
}

/*
 * optout.discard_opted_out() as it was before 1.2, and still is to databases
 * that have not been updated.
 */
Datum
optout_discard_opted_out(PG_FUNCTION_ARGS)
{
	return optout_discard_event(fcinfo);
}

/*
 * optout.discard_opted_out(), the trigger function.  Its symbol is new in 1.2, for
 * the library of 1.1 would take two columns of ids for one, the last: a session
 * that has still loaded it must fail instead.
 */
Datum
optout_discard_event(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	EventShape *shape;
	AttrNumber *changed;
	int			nchanged;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_BEFORE(trigdata->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) ||
		TRIGGER_FIRED_BY_DELETE(trigdata->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" must be fired before a row is inserted or updated",
						"optout.discard_opted_out"),
				 errhint("Let optout.guard() create the trigger.")));

	shape = discard_shape(fcinfo);

	if (TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
		return PointerGetDatum(event_is_accepted(shape, trigdata->tg_trigslot) ?
							   trigdata->tg_trigtuple : NULL);

	/*
	 * An update passes unless it re-attributes the event.  So does the change
	 * that a foreign key's action makes: it is not an event that arrives, and
	 * to skip it would leave a row that violates the key.
	 */
	changed = palloc(event_max_changes(shape) * sizeof(AttrNumber));
	nchanged = event_changes(shape, trigdata->tg_trigslot, trigdata->tg_newslot, changed);
	if (nchanged == 0 ||
		(InNoForceRLSOperation() &&
		 fkey_action_changes(trigdata->tg_relation, trigdata->tg_trigslot,
							 trigdata->tg_newslot, changed, nchanged)) ||
		event_update_is_accepted(shape, trigdata->tg_trigslot, trigdata->tg_newslot))
		return PointerGetDatum(trigdata->tg_newtuple);
	return PointerGetDatum(NULL);
}
