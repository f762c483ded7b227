/*
 * guards.c
 *		The guards that a table has: which triggers they are, what they read, and
 *		what gets past them.
 *
 * Every trigger that calls optout.discard_opted_out() is a guard, whatever its
 * name: the view optout.guarded, unguard(), repair() and purge() look for the
 * function.  One that somebody else has made may miss events: see guards_gap().
 *
 * A partition has a copy of its partitioned table's guard, which is what "inherited"
 * means here.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "compat.h"
#include "event.h"
#include "guards.h"
#include "tables.h"

PG_FUNCTION_INFO_V1(optout_guard_columns);

static const char *guards_gap(int16 type, bool has_condition, int ncolumns, List *arguments);
static List *guards_arguments(Relation pg_trigger, HeapTuple tuple);

/*
 * The function whose triggers are guards.
 */
Oid
guards_function(void)
{
	Oid			function = tables_function("discard_opted_out");

	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function %s does not exist", "optout.discard_opted_out()")));
	return function;
}

/*
 * The guards of a relation.
 */
Guards
guards_find(Relation rel)
{
	return guards_find_all(rel, guards_function(), TRIGGER_FIRES_ALWAYS);
}

/*
 * The relation's triggers of the function, which are off unless they fire always
 * or as "fires" says.  Copied, for what the relation cache has of them can be gone
 * after any look-up in a catalog.
 */
Guards
guards_find_all(Relation rel, Oid function, char fires)
{
	Guards		result = {NIL};
	TriggerDesc *trigdesc = rel->trigdesc;

	for (int i = 0; trigdesc != NULL && i < trigdesc->numtriggers; i++)
	{
		Trigger    *trigger = &trigdesc->triggers[i];

		if (trigger->tgfoid != function)
			continue;
		if (!trigger->tgisclone && guards_is_by_rule(trigger->tgname))
			result.by_rule = lappend(result.by_rule, pstrdup(trigger->tgname));
		else
		{
			if (trigger->tgisclone)
				result.inherited = true;
			else
				result.by_hand = lappend(result.by_hand, pstrdup(trigger->tgname));
			result.covered |= guards_gap_of(trigger) == NULL;
		}
		if (trigger->tgenabled != TRIGGER_FIRES_ALWAYS && trigger->tgenabled != fires)
			result.off = lappend(result.off, pstrdup(trigger->tgname));
	}
	return result;
}

/*
 * Whether rules give their guards this name; so does the view optout.guarded.
 */
bool
guards_is_by_rule(const char *name)
{
	size_t		len = strlen(GUARD_RULE_TRIGGER);

	return strncmp(name, GUARD_RULE_TRIGGER, len) == 0 &&
		(name[len] == '\0' ||
		 (name[len] == '_' && name[len + 1] != '\0' &&
		  strspn(name + len + 1, "0123456789") == strlen(name + len + 1)));
}

/*
 * What gets past a guard even while it fires always, to be read after its name;
 * NULL for nothing.  guard() and rules make no such guard, but whoever may execute
 * the trigger's function can.
 */
static const char *
guards_gap(int16 type, bool has_condition, int ncolumns, List *arguments)
{
	ListCell   *cell;

	/* every event is an error then */
	if (arguments == NIL)
		return "does not say which columns to read";
	if (!TRIGGER_FOR_BEFORE(type) || !TRIGGER_FOR_ROW(type))
		return "does not fire before each row";
	if (!TRIGGER_FOR_INSERT(type))
		return "does not fire on INSERT";
	if (!TRIGGER_FOR_UPDATE(type))
		return "does not fire on UPDATE";
	if (has_condition)
		return "has a WHEN condition";

	/* what it reads by name is no column of its UPDATE OF list */
	foreach(cell, arguments)
	{
		const EventArgument *argument = lfirst(cell);

		if (ncolumns > 0 && argument->column != NULL)
			return psprintf("does not fire on UPDATE of %s", quote_identifier(argument->column));
	}
	return NULL;
}

const char *
guards_gap_of(const Trigger *trigger)
{
	return guards_gap(trigger->tgtype, trigger->tgqual != NULL, trigger->tgnattr, guards_parse(trigger));
}

/*
 * Raise an error (55000) for a guard of the relation that something gets past even
 * while it fires always.
 */
void
guards_refuse_gaps(Relation rel)
{
	Oid			function = guards_function();
	TriggerDesc *trigdesc = CopyTriggerDesc(rel->trigdesc);

	for (int i = 0; trigdesc != NULL && i < trigdesc->numtriggers; i++)
	{
		const Trigger *trigger = &trigdesc->triggers[i];
		const char *gap = trigger->tgfoid == function ? guards_gap_of(trigger) : NULL;

		if (gap != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("guard \"%s\" of table %s %s", trigger->tgname, tables_relation_name(rel), gap),
					 errdetail("Events of opted-out users can get past it."),
					 errhint("Drop the trigger, and let optout.guard() create one.")));
	}
}

/*
 * The relation's trigger of this name; NULL where there is none.
 */
Trigger *
guards_namesake(Relation rel, const char *name)
{
	TriggerDesc *trigdesc = rel->trigdesc;

	for (int i = 0; trigdesc != NULL && i < trigdesc->numtriggers; i++)
	{
		if (strcmp(trigdesc->triggers[i].tgname, name) == 0)
			return &trigdesc->triggers[i];
	}
	return NULL;
}

/*
 * Whether a relation that we have not opened has a trigger of the function.
 */
bool
guards_has_any(Oid relid, Oid function)
{
	Relation	pg_trigger = table_open(TriggerRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	ScanKeyInit(&key, Anum_pg_trigger_tgrelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(pg_trigger, TriggerRelidNameIndexId, true, NULL, 1, &key);
	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
		found = ((Form_pg_trigger) GETSTRUCT(tuple))->tgfoid == function;
	systable_endscan(scan);
	table_close(pg_trigger, AccessShareLock);
	return found;
}

/*
 * optout.guard_columns(trigger), behind the views optout.guarded and
 * optout.unguarded: what a guard reads, columns by the names that they have now, and
 * what gets past it.
 */
Datum
optout_guard_columns(PG_FUNCTION_ARGS)
{
	enum
	{
		USER_ID, ORGANIZATION, OCCURRED_AT, USER_IDS, PAYLOAD, TIME_ZONE, FIXED_ORGANIZATION, GAP, RESULTS
	};
	TupleDesc	tupdesc;
	Datum		values[RESULTS] = {0};
	bool		nulls[RESULTS];
	Relation	pg_trigger = table_open(TriggerRelationId, AccessShareLock);
	ArrayBuildState *user_ids = initArrayResult(TEXTOID, CurrentMemoryContext, false);
	int			nuser_ids = 0;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	memset(nulls, true, sizeof(nulls));

	ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ, PG_GETARG_DATUM(0));
	scan = systable_beginscan(pg_trigger, TriggerOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		Form_pg_trigger trigger = (Form_pg_trigger) GETSTRUCT(tuple);
		List	   *arguments = guards_arguments(pg_trigger, tuple);
		const char *gap = guards_gap(trigger->tgtype, !heap_attisnull(tuple, Anum_pg_trigger_tgqual, RelationGetDescr(pg_trigger)),
									 trigger->tgattr.dim1, arguments);
		ListCell   *cell;

		nulls[GAP] = gap == NULL;
		values[GAP] = gap != NULL ? CStringGetTextDatum(gap) : (Datum) 0;
		foreach(cell, arguments)
		{
			EventArgument *argument = lfirst(cell);
			const char *value = argument->value;
			static const int results[EVENT_ROLES] = {
				USER_ID, ORGANIZATION, OCCURRED_AT, PAYLOAD, TIME_ZONE, FIXED_ORGANIZATION
			};
			int			result = results[argument->role];

			if (argument->attnum != InvalidAttrNumber)
				value = get_attname(trigger->tgrelid, argument->attnum, false);
			else if (argument->column != NULL)
				value = argument->column;
			nulls[result] = false;
			values[result] = result >= TIME_ZONE ? CStringGetTextDatum(value) :
				DirectFunctionCall1(namein, CStringGetDatum(value));
			if (result == USER_ID)
			{
				user_ids = accumArrayResult(user_ids, CStringGetTextDatum(value), false, TEXTOID, CurrentMemoryContext);
				nuser_ids++;
				/* nor if it would be one of several */
				nulls[USER_ID] = nuser_ids > 1 || argument->value != NULL;
			}
		}
		values[USER_IDS] = makeArrayResult(user_ids, CurrentMemoryContext);
		nulls[USER_IDS] = nuser_ids == 0;
	}
	systable_endscan(scan);
	table_close(pg_trigger, AccessShareLock);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}

/*
 * The arguments of a row of pg_trigger.
 */
static List *
guards_arguments(Relation pg_trigger, HeapTuple tuple)
{
	Form_pg_trigger trigger = (Form_pg_trigger) GETSTRUCT(tuple);
	bool		isnull;
	bytea	   *tgargs = DatumGetByteaPP(heap_getattr(tuple, Anum_pg_trigger_tgargs,
													  RelationGetDescr(pg_trigger), &isnull));
	char	   *p = VARDATA_ANY(tgargs);
	char	  **args = palloc0(trigger->tgnargs * sizeof(char *));

	/* each ends with a null byte */
	for (int i = 0; i < trigger->tgnargs; i++)
	{
		args[i] = p;
		p += strlen(p) + 1;
	}
	return event_parse_arguments(trigger->tgnargs, args,
								 trigger->tgattr.dim1, trigger->tgattr.values);
}

/*
 * The arguments of a trigger, copied from the relation cache.
 */
List *
guards_parse(const Trigger *trigger)
{
	char	  **args = palloc(trigger->tgnargs * sizeof(char *));

	for (int i = 0; i < trigger->tgnargs; i++)
		args[i] = pstrdup(trigger->tgargs[i]);
	return event_parse_arguments(trigger->tgnargs, args, trigger->tgnattr, trigger->tgattr);
}

/*
 * What a trigger of the relation is to read, or an error if it does not say so.
 */
EventShape *
guards_shape_by(Relation rel, const Trigger *trigger)
{
	List	   *arguments = guards_parse(trigger);

	if (arguments == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" of relation \"%s\" does not say which columns to read",
						trigger->tgname, RelationGetRelationName(rel)),
				 errhint("Let optout.guard() create it.")));
	return event_shape(rel, arguments);
}

/*
 * What the guards of a relation read of its rows, of each guard, inherited or not.
 */
List *
guards_shapes(Relation rel)
{
	Oid			function = guards_function();

	/* look-ups in catalogs can move what the relation cache has */
	TriggerDesc *trigdesc = CopyTriggerDesc(rel->trigdesc);
	List	   *result = NIL;

	for (int i = 0; trigdesc != NULL && i < trigdesc->numtriggers; i++)
	{
		if (trigdesc->triggers[i].tgfoid == function)
			result = lappend(result, guards_shape_by(rel, &trigdesc->triggers[i]));
	}
	return result;
}
