/*
 * guard.c
 *		The guard of an event table: optout.guard(), optout.unguard(),
 *		optout.repair(), and the trigger that discards events of opted-out users.
 *
 * The trigger is
 *
 *		CREATE TRIGGER optout_guard BEFORE INSERT OR UPDATE OF uid, at ON event
 *			FOR EACH ROW EXECUTE FUNCTION
 *			optout.discard_opted_out('user_id', 'occurred_at')
 *
 * and fires ALWAYS.  Its arguments say what the columns of its UPDATE OF list
 * are, in the same order, and what else to read (event.c).
 *
 * BEFORE triggers fire in order of their names, and each sees the row as the
 * one before left it.  What a trigger with a later name writes into the
 * columns is not checked; optout.guard() warns of such triggers.
 *
 * A rule for tables to come (rules.c) makes guards as well, by other names and
 * without the list: see guard_create_by_rule().  guard() replaces one of those.
 *
 * An UPDATE that moves a row to another partition fires the INSERT trigger
 * there, which cannot tell it from an event that arrives.  So a stored event of
 * a user who is opted out by now is discarded when it is moved.
 *
 * Whatever fires the function of the guard is a guard, under whichever name:
 * the view optout.guarded, unguard() and repair() go by the function.
 *
 * COPY FROM writes many rows at a time only into tables without any BEFORE ROW
 * trigger, even a disabled one, and only its WHERE could drop rows there
 * instead.  To add the filter to the WHERE behind the writer's back and hide the
 * trigger from COPY was tried: it means altering the relation cache, needs
 * SELECT on the columns, which writers may lack, and does nothing for
 * partitions.  So a guard costs COPY up to half of its speed.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_event_trigger.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/tablecmds.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "compat.h"
#include "event.h"
#include "fkey.h"
#include "guard.h"
#include "ident.h"
#include "moment.h"
#include "tables.h"

#define GUARD_TRIGGER "optout_guard"
#define GUARD_RULE_TRIGGER "optout_guard_rule"

PG_FUNCTION_INFO_V1(optout_guard);
PG_FUNCTION_INFO_V1(optout_guard_array);
PG_FUNCTION_INFO_V1(optout_guard_columns);
PG_FUNCTION_INFO_V1(optout_unguard);
PG_FUNCTION_INFO_V1(optout_repair);
PG_FUNCTION_INFO_V1(optout_discard_opted_out);
PG_FUNCTION_INFO_V1(optout_discard_event);

/* the trigger to be made */
typedef struct GuardTrigger
{
	bool		by_rule;
	List	   *columns;		/* of its UPDATE OF list */
	List	   *arguments;
	bool		uses_payload;
} GuardTrigger;

static Guards guard_find_all(Relation rel, Oid function, char fires);
static bool guard_is_by_rule(const char *name);
static Trigger *guard_namesake(Relation rel, const char *name);
static bool guard_has_any(Oid relid, Oid function);
static void warn_of_gaps(Relation rel);
static void guard_warn_of_children(Relation rel);
static bool guard_other_organizations(void);
static void guard_create(Relation rel, const GuardRequest *request);
static void guard_check_relation(Relation rel);
static void guard_check_namesake(Relation rel, const char *name);
static GuardTrigger guard_describe(Relation rel, const GuardRequest *request, bool by_rule);
static void guard_add(GuardTrigger *trigger, Relation rel, const GuardRequest *request,
					  EventRole role, const char *source);
static void guard_add_constant(GuardTrigger *trigger, EventRole role, const char *value);
static bool guard_equals(const GuardTrigger *described, const Trigger *trigger);
static void guard_put(const char *relname, const char *name, const GuardTrigger *trigger);
static char *guard_list(List *strings, bool literals);
static List *guard_arguments(Relation pg_trigger, HeapTuple tuple);
static List *guard_parse_trigger(const Trigger *trigger);
static int64 guard_repair_own(const char *table, const char *function, char fires);
static int64 guard_repair_event_trigger(void);
static int64 guard_enable(Oid relid, Oid function, char fires);
static List *guard_relations_off(Oid function);
static char *guard_text_arg(FunctionCallInfo fcinfo, int arg);
static EventShape *guard_shape(FunctionCallInfo fcinfo);
static EventShape *guard_shape_by(Relation rel, const Trigger *trigger);

/*
 * Open the relation given by the first argument, which must be a table that
 * the effective caller owns, with the lock that CREATE TRIGGER takes.
 */
Relation
guard_open_own_table(FunctionCallInfo fcinfo)
{
	Oid			relid;
	Relation	rel;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("relation must not be null")));
	relid = PG_GETARG_OID(0);

	/* before locking, which a standby refuses with an error of its own */
	tables_prevent_if_read_only(fcinfo);

	/* before waiting for the lock, lest others wait for us */
	if (get_rel_name(relid) != NULL &&
		!object_ownercheck(RelationRelationId, relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, get_rel_name(relid));

	rel = try_relation_open(relid, ShareRowExclusiveLock);
	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	if (rel->rd_rel->relkind != RELKIND_RELATION &&
		rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE &&
		rel->rd_rel->relkind != RELKIND_FOREIGN_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table", RelationGetRelationName(rel))));
	return rel;
}

/*
 * The function whose triggers are guards.
 */
Oid
guard_function(void)
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
guard_find(Relation rel)
{
	return guard_find_all(rel, guard_function(), TRIGGER_FIRES_ALWAYS);
}

/*
 * The relation's triggers of the function, which are off unless they fire always
 * or as "fires" says.  Copied, for what the relation cache has of them can be gone
 * after any look-up in a catalog.
 */
static Guards
guard_find_all(Relation rel, Oid function, char fires)
{
	Guards		result = {NIL};
	TriggerDesc *trigdesc = rel->trigdesc;

	for (int i = 0; trigdesc != NULL && i < trigdesc->numtriggers; i++)
	{
		Trigger    *trigger = &trigdesc->triggers[i];

		if (trigger->tgfoid != function)
			continue;
		if (trigger->tgisclone)
			result.inherited = true;
		else if (guard_is_by_rule(trigger->tgname))
			result.by_rule = lappend(result.by_rule, pstrdup(trigger->tgname));
		else
			result.by_hand = lappend(result.by_hand, pstrdup(trigger->tgname));
		if (trigger->tgenabled != TRIGGER_FIRES_ALWAYS && trigger->tgenabled != fires)
			result.off = lappend(result.off, pstrdup(trigger->tgname));
	}
	return result;
}

/*
 * Whether rules give their guards this name; so does the view optout.guarded.
 */
static bool
guard_is_by_rule(const char *name)
{
	size_t		len = strlen(GUARD_RULE_TRIGGER);

	return strncmp(name, GUARD_RULE_TRIGGER, len) == 0 &&
		(name[len] == '\0' ||
		 (name[len] == '_' && name[len + 1] != '\0' &&
		  strspn(name + len + 1, "0123456789") == strlen(name + len + 1)));
}

/*
 * The relation's trigger of this name; NULL where there is none.
 */
static Trigger *
guard_namesake(Relation rel, const char *name)
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
static bool
guard_has_any(Oid relid, Oid function)
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
 * Warn of what could get past the guard or get in its way later.
 */
static void
warn_of_gaps(Relation rel)
{
	Oid			discard = guard_function();
	Oid			owner = rel->rd_rel->relowner;
	bool		has_children = rel->rd_rel->relkind == RELKIND_RELATION &&
		find_inheritance_children(RelationGetRelid(rel), NoLock) != NIL;
	TriggerDesc *trigdesc = rel->trigdesc;

	for (int i = 0; trigdesc != NULL && i < trigdesc->numtriggers; i++)
	{
		Trigger    *trigger = &trigdesc->triggers[i];

		if (trigger->tgfoid == discard)
			continue;
		if (TRIGGER_FOR_BEFORE(trigger->tgtype) &&
			TRIGGER_FOR_ROW(trigger->tgtype) &&
			(TRIGGER_FOR_INSERT(trigger->tgtype) || TRIGGER_FOR_UPDATE(trigger->tgtype)) &&
			strcmp(trigger->tgname, GUARD_TRIGGER) > 0)
			ereport(WARNING,
					(errmsg("trigger \"%s\" of relation \"%s\" fires after the guard",
							trigger->tgname, RelationGetRelationName(rel)),
					 errdetail("What it writes into the guarded columns is not checked."),
					 errhint("If it does so, give it a name that sorts before \"%s\".",
							 GUARD_TRIGGER)));
		if (has_children &&
			TRIGGER_FOR_BEFORE(trigger->tgtype) &&
			TRIGGER_FOR_ROW(trigger->tgtype) &&
			TRIGGER_FOR_INSERT(trigger->tgtype) &&
			strcmp(trigger->tgname, GUARD_TRIGGER) < 0)
			ereport(WARNING,
					(errmsg("trigger \"%s\" of relation \"%s\" fires before the guard",
							trigger->tgname, RelationGetRelationName(rel)),
					 errdetail("Rows that it stores in another table instead do not reach the guard."),
					 errhint("If it does so, guard that table, too.")));
	}
	if (has_children)
		guard_warn_of_children(rel);

	if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE &&
		object_aclcheck(ProcedureRelationId, discard, owner,
						ACL_EXECUTE) != ACLCHECK_OK)
	{
		const char *owner_name = GetUserNameFromId(owner, false);

		ereport(WARNING,
				(errmsg("owner \"%s\" of relation \"%s\" cannot add partitions while it is guarded",
						owner_name, RelationGetRelationName(rel)),
				 errhint("GRANT EXECUTE ON FUNCTION optout.discard_opted_out() TO %s;",
						 quote_identifier(owner_name))));
	}
}

/*
 * Warn of inheritance children that have no guard: rows stored in them do not
 * reach the parent's.
 */
static void
guard_warn_of_children(Relation rel)
{
	Oid			function = guard_function();
	List	   *children = find_all_inheritors(RelationGetRelid(rel), NoLock, NULL);
	char	   *first = NULL;
	int			count = 0;
	ListCell   *cell;

	foreach(cell, children)
	{
		Oid			child = lfirst_oid(cell);

		if (child == RelationGetRelid(rel) || guard_has_any(child, function))
			continue;
		if (first == NULL)
			first = get_rel_name(child);
		if (first != NULL)
			count++;
	}
	if (count > 0)
		ereport(WARNING,
				(errmsg("inheritance children of relation \"%s\" are not guarded",
						RelationGetRelationName(rel)),
				 errdetail_plural("There is %d: \"%s\".",
								  "There are %d, among them \"%s\".",
								  count, count, first),
				 errhint("Call optout.guard() for each.")));
}

/*
 * Whether the directory holds other organizations than the one that the setting
 * names, as far as the caller may know.
 */
static bool
guard_other_organizations(void)
{
	Oid			argtypes[1] = {TEXTOID};
	Datum		values[1];

	values[0] = PointerGetDatum(organization_setting_text);
	return guard_run("SELECT WHERE pg_catalog.has_table_privilege('optout.user_list', 'SELECT')",
					 0, NULL, NULL) > 0 &&
		guard_run("SELECT WHERE EXISTS (SELECT FROM optout.user_list WHERE organization < $1)"
				  " OR EXISTS (SELECT FROM optout.user_list WHERE organization > $1)",
				  1, argtypes, values) > 0;
}

char *
guard_relation_name(Relation rel)
{
	return quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
									  RelationGetRelationName(rel));
}

/*
 * Run a utility command or a query as the effective user.  Returns how many rows
 * the query gave.
 */
uint64
guard_run(const char *command, int nargs, Oid *argtypes, Datum *values)
{
	uint64		count;
	int			rc;

	SPI_connect();
	rc = SPI_execute_with_args(command, nargs, argtypes, values, NULL, false, 0);
	if (rc != SPI_OK_UTILITY && rc != SPI_OK_SELECT)
		elog(ERROR, "SPI_execute_with_args failed: %s", SPI_result_code_string(rc));
	count = SPI_processed;
	SPI_finish();
	return count;
}

/*
 * optout.guard(relation, user_id, organization, occurred_at)
 */
Datum
optout_guard(PG_FUNCTION_ARGS)
{
	Relation	rel = guard_open_own_table(fcinfo);
	GuardRequest request = {NIL};

	guard_check_relation(rel);
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the user_id column must not be null")));
	request.user_ids = list_make1(NameStr(*PG_GETARG_NAME(1)));
	if (!PG_ARGISNULL(2))
		request.organization = NameStr(*PG_GETARG_NAME(2));
	if (!PG_ARGISNULL(3))
		request.occurred_at = NameStr(*PG_GETARG_NAME(3));
	guard_create(rel, &request);
	PG_RETURN_VOID();
}

/*
 * optout.guard(relation, user_ids, organization, occurred_at, payload, time_zone,
 * fixed_organization)
 */
Datum
optout_guard_array(PG_FUNCTION_ARGS)
{
	Relation	rel = guard_open_own_table(fcinfo);
	GuardRequest request;

	guard_check_relation(rel);
	request = guard_request_from_args(fcinfo);
	guard_create(rel, &request);
	PG_RETURN_VOID();
}

/*
 * What the arguments from the second on ask for.
 */
GuardRequest
guard_request_from_args(FunctionCallInfo fcinfo)
{
	GuardRequest request = {NIL};

	request.user_ids = guard_user_ids(PG_ARGISNULL(1) ? NULL : PG_GETARG_ARRAYTYPE_P(1));
	request.organization = guard_text_arg(fcinfo, 2);
	request.occurred_at = guard_text_arg(fcinfo, 3);
	request.payload = PG_ARGISNULL(4) ? NULL : NameStr(*PG_GETARG_NAME(4));
	request.time_zone = guard_text_arg(fcinfo, 5);
	request.fixed_organization = guard_text_arg(fcinfo, 6);
	request.has_paths = true;
	return request;
}

static char *
guard_text_arg(FunctionCallInfo fcinfo, int arg)
{
	return PG_ARGISNULL(arg) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(arg));
}

/*
 * The elements of the array, in their order.
 */
List *
guard_user_ids(ArrayType *array)
{
	List	   *result = NIL;
	Datum	   *elements;
	bool	   *nulls;
	int			count;

	if (array == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("user_ids must not be null")));
	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("user_ids must be one-dimensional"),
				 errdetail("The array has %d dimensions.", ARR_NDIM(array))));

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("user_ids must not contain null")));
		result = lappend(result, TextDatumGetCString(elements[i]));
	}
	if (result == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("user_ids must not be empty"),
				 errhint("Pass the columns that hold ids of the event's user.")));
	return result;
}

/*
 * Refuse relations that cannot have a guard of their own.
 */
static void
guard_check_relation(Relation rel)
{
	/* they hold no events, and what it discarded there would be missed */
	if (RelationGetNamespace(rel) == get_namespace_oid("optout", true))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot guard \"%s\", a table of the extension itself",
						RelationGetRelationName(rel))));
	guard_check_namesake(rel, GUARD_TRIGGER);
	if (guard_find(rel).inherited)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("partition \"%s\" is guarded through its partitioned table",
						RelationGetRelationName(rel)),
				 errhint("Call optout.guard() for the partitioned table.")));
}

/*
 * Do not replace what is somebody else's.
 */
static void
guard_check_namesake(Relation rel, const char *name)
{
	Oid			discard = guard_function();
	Trigger    *namesake = guard_namesake(rel, name);

	if (namesake != NULL && namesake->tgfoid != discard)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("trigger \"%s\" of relation \"%s\" is not a guard",
						name, RelationGetRelationName(rel)),
				 errhint("Rename or drop it.")));
}

/*
 * Create the trigger, and close the relation.
 */
static void
guard_create(Relation rel, const GuardRequest *request)
{
	Oid			relid = RelationGetRelid(rel);
	GuardTrigger trigger = guard_describe(rel, request, false);
	char	   *relname;

	warn_of_gaps(rel);
	guard_note_organizations(request, "guard of relation", RelationGetRelationName(rel));

	/* close it, for ALTER TABLE wants no other user of it; the lock remains */
	relname = guard_relation_name(rel);
	relation_close(rel, NoLock);
	guard_put(relname, GUARD_TRIGGER, &trigger);
	guard_drop_by_rule(relid, false);
}

/*
 * Tell the caller, if they may know, of organizations that the request does not
 * speak of.
 */
void
guard_note_organizations(const GuardRequest *request, const char *what, const char *name)
{
	if (request->organization == NULL && request->fixed_organization == NULL &&
		guard_other_organizations())
		ereport(NOTICE,
				(errmsg("%s \"%s\" goes by the setting optout.organization of whoever writes",
						what, name),
				 errdetail("It names \"%s\" here, and the directory holds other organizations.",
						   ident_for_message(organization_setting_text)),
				 errhint("If the events are of several organizations, name the column that says which. If all are one's, pass it as fixed_organization.")));
}

/*
 * Create or renew the guard that a rule asks for, and close the relation, whose
 * guards are neither inherited nor made by hand.  Nothing is done where it is there.
 *
 * It has no UPDATE OF list, so that nothing depends on it, and its name is another
 * than that of guard()'s.  ATTACH PARTITION creates the partitioned table's guard
 * for the partition under the same name, and fails if there is a trigger of that
 * name already.  So the guard of a partitioned table has a name that no other
 * table's has: it ends with a number, the table's, which a dump and restore keeps.
 */
void
guard_create_by_rule(Relation rel, const GuardRequest *request)
{
	Oid			relid = RelationGetRelid(rel);
	bool		partitioned = rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;
	Guards		guards = guard_find(rel);
	GuardTrigger trigger = guard_describe(rel, request, true);
	char	   *name;
	char	   *relname;

	Assert(!guards.inherited && guards.by_hand == NIL);
	if (guards.by_rule != NIL)
		name = linitial(guards.by_rule);
	else
		name = partitioned ? psprintf(GUARD_RULE_TRIGGER "_%u", relid) : GUARD_RULE_TRIGGER;
	guard_check_namesake(rel, name);
	if (guards.by_rule != NIL && guard_equals(&trigger, guard_namesake(rel, name)))
	{
		relation_close(rel, NoLock);
		return;
	}

	relname = guard_relation_name(rel);
	relation_close(rel, NoLock);
	guard_put(relname, name, &trigger);
	if (partitioned)
		guard_drop_by_rule(relid, true);
}

/*
 * What the guard of that name reads, as a request for it.
 */
GuardRequest
guard_request_of(Relation rel, const char *name)
{
	GuardRequest request = {NIL};
	ListCell   *cell;

	request.has_paths = true;
	foreach(cell, guard_parse_trigger(guard_namesake(rel, name)))
	{
		EventArgument *argument = lfirst(cell);
		char	   *source = argument->attnum != InvalidAttrNumber ?
			get_attname(RelationGetRelid(rel), argument->attnum, false) :
			pstrdup(argument->column != NULL ? argument->column : argument->value);

		switch (argument->role)
		{
			case EVENT_USER_ID:
				request.user_ids = lappend(request.user_ids, source);
				break;
			case EVENT_ORGANIZATION:
				request.organization = source;
				break;
			case EVENT_OCCURRED_AT:
				request.occurred_at = source;
				break;
			case EVENT_PAYLOAD:
				request.payload = source;
				break;
			case EVENT_TIME_ZONE:
				request.time_zone = source;
				break;
			case EVENT_FIXED_ORGANIZATION:
				request.fixed_organization = source;
				break;
			case EVENT_ROLES:
				break;
		}
	}
	return request;
}

/*
 * Drop the guards of their own that rules have made for the relation, unless it is
 * left out, and for its partitions, which inherit its guard.  Those of partitions
 * that are not the caller's stay; they do no harm.
 */
void
guard_drop_by_rule(Oid relid, bool partitions_only)
{
	List	   *relids = get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE ?
		find_all_inheritors(relid, NoLock, NULL) : list_make1_oid(relid);
	ListCell   *cell;

	foreach(cell, relids)
	{
		Relation	rel;
		List	   *names;
		char	   *relname;
		ListCell   *name;

		if (partitions_only && lfirst_oid(cell) == relid)
			continue;
		rel = relation_open(lfirst_oid(cell), AccessShareLock);
		names = guard_find(rel).by_rule;
		relname = guard_relation_name(rel);
		relation_close(rel, NoLock);
		if (names == NIL || !object_ownercheck(RelationRelationId, lfirst_oid(cell), GetUserId()))
			continue;
		foreach(name, names)
			guard_run(psprintf("DROP TRIGGER %s ON %s", quote_identifier(lfirst(name)), relname), 0, NULL, NULL);
	}
}

/*
 * Let the owner of a partitioned table that a rule guards add partitions, which
 * takes EXECUTE on the trigger's function.
 */
void
guard_let_owner_add_partitions(Relation rel)
{
	Oid			discard = guard_function();
	Oid			owner = rel->rd_rel->relowner;
	TriggerDesc *trigdesc = rel->trigdesc;
	bool		by_rule = false;

	for (int i = 0; trigdesc != NULL && i < trigdesc->numtriggers; i++)
		by_rule |= trigdesc->triggers[i].tgfoid == discard && guard_is_by_rule(trigdesc->triggers[i].tgname);
	if (!by_rule || rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE ||
		object_aclcheck(ProcedureRelationId, discard, owner, ACL_EXECUTE) == ACLCHECK_OK)
		return;

	/*
	 * of two who grant at once the second would fail: "tuple concurrently
	 * updated"
	 */
	LockDatabaseObject(ProcedureRelationId, discard, 0, ShareUpdateExclusiveLock);
	if (object_aclcheck(ProcedureRelationId, discard, owner, ACL_EXECUTE) != ACLCHECK_OK)
		guard_run(psprintf("GRANT EXECUTE ON FUNCTION optout.discard_opted_out() TO %s",
						   quote_identifier(GetUserNameFromId(owner, false))), 0, NULL, NULL);
}

/*
 * Raise an error unless what is asked for makes sense, whatever the table.
 */
void
guard_check_request(const GuardRequest *request)
{
	if (request->fixed_organization != NULL)
	{
		organization_check(cstring_to_text(request->fixed_organization));
		if (request->organization != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("organization and fixed_organization exclude each other"),
					 errdetail("The former says where each event names its organization, the latter that all are of one.")));
	}
	if (request->time_zone != NULL && moment_time_zone(request->time_zone) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" not recognized", request->time_zone),
				 errhint("Names are those of the view pg_timezone_names.")));
}

/*
 * The trigger that reads of the relation's rows what the request asks for.
 */
static GuardTrigger
guard_describe(Relation rel, const GuardRequest *request, bool by_rule)
{
	GuardTrigger trigger = {by_rule};
	ListCell   *cell;

	guard_check_request(request);
	foreach(cell, request->user_ids)
		guard_add(&trigger, rel, request, EVENT_USER_ID, lfirst(cell));
	guard_add(&trigger, rel, request, EVENT_ORGANIZATION, request->organization);
	guard_add(&trigger, rel, request, EVENT_OCCURRED_AT, request->occurred_at);
	if (request->payload != NULL && !trigger.uses_payload)
		guard_payload_unused(request->payload);
	guard_add(&trigger, rel, request, EVENT_PAYLOAD, request->payload);
	guard_add_constant(&trigger, EVENT_TIME_ZONE, request->time_zone);
	guard_add_constant(&trigger, EVENT_FIXED_ORGANIZATION, request->fixed_organization);
	return trigger;
}

/*
 * Have the trigger read this column or path, if not NULL.
 */
static void
guard_add(GuardTrigger *trigger, Relation rel, const GuardRequest *request,
		  EventRole role, const char *source)
{
	if (source == NULL)
		return;
	if (role != EVENT_PAYLOAD && request->has_paths && source[0] == '$')
	{
		guard_check_path(request, role, source);
		guard_add_constant(trigger, role, source);
		trigger->uses_payload = true;
		return;
	}

	event_check_column(rel, role, source, request->time_zone != NULL);
	if (trigger->by_rule)
	{
		guard_add_constant(trigger, role, source);
		return;
	}
	trigger->columns = lappend(trigger->columns, pstrdup(source));
	trigger->arguments = lappend(trigger->arguments, pstrdup(event_role_names[role]));
}

/*
 * Raise an error unless this can be a path of the request's.
 */
void
guard_check_path(const GuardRequest *request, EventRole role, const char *path)
{
	payload_parse_path(path);
	if (request->payload == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("path \"%s\" needs a payload", path),
				 errhint("Pass the json or jsonb column that it leads into as payload.")));
	if (role == EVENT_OCCURRED_AT && request->time_zone == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("path \"%s\" to the event's %s needs a time zone", path, event_role_names[role]),
				 errhint("Pass the time zone of times that do not name theirs as time_zone.")));
	/* the view optout.guarded shows these two as names */
	if (role != EVENT_USER_ID && strlen(path) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("path \"%s\" to the event's %s is too long", path, event_role_names[role]),
				 errdetail("It can have %d bytes.", NAMEDATALEN - 1)));
}

void
guard_payload_unused(const char *payload)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("no path leads into payload column \"%s\"", payload),
			 errhint("Pass a path such as $.user.id among the user_ids.")));
}

static void
guard_add_constant(GuardTrigger *trigger, EventRole role, const char *value)
{
	if (value != NULL)
		trigger->arguments = lappend(trigger->arguments, psprintf("%s=%s", event_role_names[role], value));
}

/*
 * Whether the trigger is the one that has been described.
 */
static bool
guard_equals(const GuardTrigger *described, const Trigger *trigger)
{
	ListCell   *cell;

	if (described->columns != NIL || trigger->tgnattr != 0 ||
		trigger->tgnargs != list_length(described->arguments))
		return false;
	foreach(cell, described->arguments)
	{
		if (strcmp(trigger->tgargs[foreach_current_index(cell)], lfirst(cell)) != 0)
			return false;
	}
	return true;
}

/*
 * Create or replace the trigger, which then fires always.
 */
static void
guard_put(const char *relname, const char *name, const GuardTrigger *trigger)
{
	guard_run(psprintf("CREATE OR REPLACE TRIGGER %s BEFORE INSERT OR UPDATE%s%s ON %s FOR EACH ROW"
					   " EXECUTE FUNCTION optout.discard_opted_out(%s)",
					   name, trigger->columns != NIL ? " OF " : "", guard_list(trigger->columns, false),
					   relname, guard_list(trigger->arguments, true)), 0, NULL, NULL);
	guard_run(psprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s", relname, name), 0, NULL, NULL);
}

/*
 * The strings, quoted as literals or else as identifiers, with commas between.
 */
static char *
guard_list(List *strings, bool literals)
{
	StringInfoData result;
	ListCell   *cell;

	initStringInfo(&result);
	foreach(cell, strings)
		appendStringInfo(&result, "%s%s", foreach_current_index(cell) > 0 ? ", " : "",
						 literals ? quote_literal_cstr(lfirst(cell)) : quote_identifier(lfirst(cell)));
	return result.data;
}

/*
 * optout.guard_columns(trigger), behind the view optout.guarded: what a guard reads,
 * columns by the names that they have now.
 */
Datum
optout_guard_columns(PG_FUNCTION_ARGS)
{
	enum
	{
		USER_ID, ORGANIZATION, OCCURRED_AT, USER_IDS, PAYLOAD, TIME_ZONE, FIXED_ORGANIZATION, RESULTS
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
		ListCell   *cell;

		foreach(cell, guard_arguments(pg_trigger, tuple))
		{
			EventArgument *argument = lfirst(cell);
			const char *value = argument->value;
			static const int results[EVENT_ROLES] = {
				USER_ID, ORGANIZATION, OCCURRED_AT, PAYLOAD, TIME_ZONE, FIXED_ORGANIZATION
			};
			int			result = results[argument->role];

			if (argument->attnum != InvalidAttrNumber)
				value = get_attname(((Form_pg_trigger) GETSTRUCT(tuple))->tgrelid, argument->attnum, false);
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
guard_arguments(Relation pg_trigger, HeapTuple tuple)
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
 * optout.unguard(relation)
 */
Datum
optout_unguard(PG_FUNCTION_ARGS)
{
	Relation	rel = guard_open_own_table(fcinfo);
	Guards		guards = guard_find(rel);
	List	   *own = list_concat_copy(guards.by_hand, guards.by_rule);
	Oid			argtypes[1] = {NAMEOID};
	Datum		schema[1];
	char	   *relname;
	ListCell   *cell;

	if (own == NIL && guards.inherited)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("partition \"%s\" is guarded through its partitioned table",
						RelationGetRelationName(rel)),
				 errhint("Call optout.unguard() for the partitioned table.")));
	if (own == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("relation \"%s\" is not guarded",
						RelationGetRelationName(rel))));

	relname = guard_relation_name(rel);
	schema[0] = DirectFunctionCall1(namein, CStringGetDatum(get_namespace_name(RelationGetNamespace(rel))));
	relation_close(rel, NoLock);

	foreach(cell, own)
		guard_run(psprintf("DROP TRIGGER %s ON %s", quote_identifier(lfirst(cell)), relname), 0, NULL, NULL);

	if (tables_has_aliases() &&
		tables_select_count("SELECT pg_catalog.count(*) FROM optout.guard_rule r WHERE r.schema = $1",
							1, argtypes, schema, NULL) > 0)
		ereport(NOTICE,
				(errmsg("a rule can guard relation %s again", relname),
				 errdetail("There is a rule for schema \"%s\", which looks at its tables when columns are altered.",
						   NameStr(*DatumGetName(schema[0]))),
				 errhint("End it with optout.unguard_schema().")));
	PG_RETURN_VOID();
}

/*
 * optout.repair()
 *
 * The state table comes first: while its trigger does not fire, ingest waits
 * for nobody, but whoever holds the lock of an event table and waits for that of
 * the state table can deadlock with those who ingest.
 */
Datum
optout_repair(PG_FUNCTION_ARGS)
{
	Oid			discard = guard_function();
	int64		count = 0;
	ListCell   *cell;

	if (!has_privs_of_role(GetUserId(), tables_owner()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser or owner of extension \"%s\" to repair guards",
						"optout")));
	tables_prevent_if_read_only(fcinfo);

	count += guard_repair_own("opt_out_period", "add_to_filter", TRIGGER_FIRES_ALWAYS);
	if (tables_has_aliases())
	{
		/* what replication brings has been through them where it was written */
		count += guard_repair_own("opt_out_period", "delete_alias_periods", TRIGGER_FIRES_ON_ORIGIN);
		count += guard_repair_own("product_user", "refuse_aliases", TRIGGER_FIRES_ON_ORIGIN);
		count += guard_repair_event_trigger();
	}
	foreach(cell, guard_relations_off(discard))
		count += guard_enable(lfirst_oid(cell), discard, TRIGGER_FIRES_ALWAYS);
	PG_RETURN_INT64(count);
}

/*
 * Let a trigger of one of the extension's tables fire again, if it does not.
 * Returns how many were off.  The table is locked only then.
 */
static int64
guard_repair_own(const char *table, const char *function, char fires)
{
	Relation	rel = tables_open(table, AccessShareLock);
	Oid			relid = RelationGetRelid(rel);
	Oid			funcid = tables_function(function);
	bool		off = guard_find_all(rel, funcid, fires).off != NIL;

	table_close(rel, AccessShareLock);
	return off ? guard_enable(relid, funcid, fires) : 0;
}

/*
 * Let the event trigger of rules.c fire always again; returns whether it did not.
 * ALTER EVENT TRIGGER would take ownership of it, which the extension's owner need
 * not have: it is a superuser's.
 */
static int64
guard_repair_event_trigger(void)
{
	Relation	rel = table_open(EventTriggerRelationId, RowExclusiveLock);
	Oid			function = tables_function("apply_rules");
	int64		count = 0;
	SysScanDesc scan;
	HeapTuple	tuple;

	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_event_trigger form = (Form_pg_event_trigger) GETSTRUCT(tuple);

		if (form->evtfoid != function || form->evtenabled == TRIGGER_FIRES_ALWAYS)
			continue;
		tuple = heap_copytuple(tuple);
		((Form_pg_event_trigger) GETSTRUCT(tuple))->evtenabled = TRIGGER_FIRES_ALWAYS;
		CatalogTupleUpdate(rel, &tuple->t_self, tuple);
		count++;
	}
	systable_endscan(scan);
	table_close(rel, NoLock);
	return count;
}

/*
 * The relations on which triggers of the function do not fire always, in the
 * order of their OIDs.
 */
static List *
guard_relations_off(Oid function)
{
	Relation	pg_trigger = table_open(TriggerRelationId, AccessShareLock);
	List	   *result = NIL;
	SysScanDesc scan;
	HeapTuple	tuple;

	scan = systable_beginscan(pg_trigger, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_trigger trigger = (Form_pg_trigger) GETSTRUCT(tuple);

		if (trigger->tgfoid == function && trigger->tgenabled != TRIGGER_FIRES_ALWAYS)
			result = lappend_oid(result, trigger->tgrelid);
	}
	systable_endscan(scan);
	table_close(pg_trigger, AccessShareLock);

	list_sort(result, list_oid_cmp);
	list_deduplicate_oid(result);
	return result;
}

/*
 * Let the relation's triggers of the function that are off fire as "fires" says;
 * returns how many there were.  ALTER TABLE would ask for rights on the table and
 * its schema, which the caller need not have, nor always has the table's owner;
 * and TimescaleDB would refuse it for a chunk.
 */
static int64
guard_enable(Oid relid, Oid function, char fires)
{
	Relation	rel = try_relation_open(relid, ShareRowExclusiveLock);
	List	   *off;
	ListCell   *cell;

	if (rel == NULL)
		return 0;
	/* another session's temporary table cannot be altered */
	off = RELATION_IS_OTHER_TEMP(rel) ? NIL : guard_find_all(rel, function, fires).off;
	if (off != NIL)
		CheckTableNotInUse(rel, "ALTER TABLE");
	foreach(cell, off)
		EnableDisableTrigger(rel, lfirst(cell), InvalidOid, fires,
							 false, false, ShareRowExclusiveLock);
	relation_close(rel, NoLock);
	return list_length(off);
}

/*
 * The arguments of a trigger, copied from the relation cache.
 */
static List *
guard_parse_trigger(const Trigger *trigger)
{
	char	  **args = palloc(trigger->tgnargs * sizeof(char *));

	for (int i = 0; i < trigger->tgnargs; i++)
		args[i] = pstrdup(trigger->tgargs[i]);
	return event_parse_arguments(trigger->tgnargs, args, trigger->tgnattr, trigger->tgattr);
}

/*
 * What the trigger is to read of this relation's rows; kept from row to row.
 */
static EventShape *
guard_shape(FunctionCallInfo fcinfo)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	MemoryContext oldcontext;

	if (fcinfo->flinfo->fn_extra != NULL)
		return fcinfo->flinfo->fn_extra;

	oldcontext = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	fcinfo->flinfo->fn_extra = guard_shape_by(trigdata->tg_relation, trigdata->tg_trigger);
	MemoryContextSwitchTo(oldcontext);
	return fcinfo->flinfo->fn_extra;
}

/*
 * What a trigger of the relation is to read, or an error if it does not say so.
 */
static EventShape *
guard_shape_by(Relation rel, const Trigger *trigger)
{
	List	   *arguments = guard_parse_trigger(trigger);

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
guard_shapes(Relation rel)
{
	Oid			function = guard_function();

	/* look-ups in catalogs can move what the relation cache has */
	TriggerDesc *trigdesc = CopyTriggerDesc(rel->trigdesc);
	List	   *result = NIL;

	for (int i = 0; trigdesc != NULL && i < trigdesc->numtriggers; i++)
	{
		if (trigdesc->triggers[i].tgfoid == function)
			result = lappend(result, guard_shape_by(rel, &trigdesc->triggers[i]));
	}
	return result;
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

	shape = guard_shape(fcinfo);

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
