/*
 * guard.c
 *		The guard of an event table: optout.guard(), optout.unguard(), and how
 *		rules make and drop guards.  guards.c finds the guards that a table has,
 *		discard.c has their trigger function.
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
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/partcache.h"
#include "utils/rel.h"

#include "compat.h"
#include "event.h"
#include "guard.h"
#include "guards.h"
#include "ident.h"
#include "moment.h"
#include "tables.h"

PG_FUNCTION_INFO_V1(optout_guard);
PG_FUNCTION_INFO_V1(optout_guard_array);
PG_FUNCTION_INFO_V1(optout_unguard);

/* the trigger to be made */
typedef struct GuardTrigger
{
	bool		by_rule;
	List	   *columns;		/* of its UPDATE OF list */
	List	   *arguments;
	bool		uses_payload;
} GuardTrigger;

static void guard_warn_of_gaps(Relation rel);
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
static void guard_put(Oid relid, const char *relname, const char *name, const GuardTrigger *trigger);
static List *guard_open_partitioned(Oid relid);
static char *guard_list(List *strings, bool literals);
static char *guard_text_arg(FunctionCallInfo fcinfo, int arg);

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

	/* before waiting for the lock, so that others need not wait for us */
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
				 errmsg("\"%s\" is not a table", RelationGetRelationName(rel)),
				 rel->rd_rel->relkind == RELKIND_VIEW ?
				 errhint("Pass the table that the view reads.") : 0));
	return rel;
}

/*
 * Warn of what could get past the guard or get in its way later.
 */
static void
guard_warn_of_gaps(Relation rel)
{
	Oid			discard = guards_function();
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
	Oid			function = guards_function();
	List	   *children = find_all_inheritors(RelationGetRelid(rel), NoLock, NULL);
	char	   *first = NULL;
	int			count = 0;
	ListCell   *cell;

	foreach(cell, children)
	{
		Oid			child = lfirst_oid(cell);

		if (child == RelationGetRelid(rel) || guards_has_any(child, function))
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
	if (guards_find(rel).inherited)
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
	Oid			discard = guards_function();
	Trigger    *namesake = guards_namesake(rel, name);

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

	guard_warn_of_gaps(rel);
	guard_note_organizations(request, "guard of relation", RelationGetRelationName(rel));

	/* close it, for ALTER TABLE wants no other user of it; the lock remains */
	relname = tables_relation_name(rel);
	relation_close(rel, NoLock);
	guard_put(relid, relname, GUARD_TRIGGER, &trigger);
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
				(errmsg("%s \"%s\" uses the setting optout.organization of the session that writes",
						what, name),
				 errdetail("It is \"%s\" in this session, but the directory holds other organizations.",
						   ident_for_message(organization_setting_text)),
				 errhint("If the events are of several organizations, name the column that holds the organization. If all are of one organization, pass it as fixed_organization.")));
}

/*
 * Create or renew the guard that a rule asks for, and close the relation, which no
 * other guard covers.  Nothing is done where it is there.
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
	Guards		guards = guards_find(rel);
	GuardTrigger trigger = guard_describe(rel, request, true);
	char	   *name;
	char	   *relname;

	Assert(!guards.covered);
	if (guards.by_rule != NIL)
		name = linitial(guards.by_rule);
	else
		name = partitioned ? psprintf(GUARD_RULE_TRIGGER "_%u", relid) : GUARD_RULE_TRIGGER;
	guard_check_namesake(rel, name);
	if (guards.by_rule != NIL && guard_equals(&trigger, guards_namesake(rel, name)))
	{
		relation_close(rel, NoLock);
		return;
	}

	relname = tables_relation_name(rel);
	relation_close(rel, NoLock);
	guard_put(relid, relname, name, &trigger);
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
	foreach(cell, guards_parse(guards_namesake(rel, name)))
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
		names = guards_find(rel).by_rule;
		relname = tables_relation_name(rel);
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
	Oid			discard = guards_function();
	Oid			owner = rel->rd_rel->relowner;
	TriggerDesc *trigdesc = rel->trigdesc;
	bool		by_rule = false;

	for (int i = 0; trigdesc != NULL && i < trigdesc->numtriggers; i++)
		by_rule |= trigdesc->triggers[i].tgfoid == discard && guards_is_by_rule(trigdesc->triggers[i].tgname);
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
					 errmsg("organization and fixed_organization cannot be used together"),
					 errdetail("The former names the column or path that holds the organization, the latter the organization of all events.")));
	}
	if (request->time_zone != NULL && moment_time_zone(request->time_zone) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" not recognized", request->time_zone),
				 errhint("See the view pg_timezone_names.")));
}

/*
 * The trigger that reads of the relation's rows what the request asks for.
 */
static GuardTrigger
guard_describe(Relation rel, const GuardRequest *request, bool by_rule)
{
	GuardTrigger trigger = {.by_rule = by_rule};
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
				 errhint("Pass the time zone of times that do not name one as time_zone.")));
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

	if (described->columns != NIL || trigger->tgnattr != 0 || guards_gap_of(trigger) != NULL ||
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
guard_put(Oid relid, const char *relname, const char *name, const GuardTrigger *trigger)
{
	List	   *partitioned = guard_open_partitioned(relid);
	ListCell   *cell;

	guard_run(psprintf("CREATE OR REPLACE TRIGGER %s BEFORE INSERT OR UPDATE%s%s ON %s FOR EACH ROW"
					   " EXECUTE FUNCTION optout.discard_opted_out(%s)",
					   name, trigger->columns != NIL ? " OF " : "", guard_list(trigger->columns, false),
					   relname, guard_list(trigger->arguments, true)), 0, NULL, NULL);
	if (partitioned == NIL)
	{
		/* what extensions add to this command, as TimescaleDB, counts */
		guard_run(psprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s", relname, name), 0, NULL, NULL);
		return;
	}
	/* it would refuse tables that are open */
	EnableDisableTrigger(linitial(partitioned), name, InvalidOid, TRIGGER_FIRES_ALWAYS,
						 false, true, ShareRowExclusiveLock);
	CommandCounterIncrement();
	foreach(cell, partitioned)
		relation_close(lfirst(cell), NoLock);
}

/*
 * Open a partitioned table and those of its partitions that are partitioned again,
 * so that triggers can be created on them with more rights than their owners have.
 *
 * To do that, the server looks for the partitions by the partition key, and evaluates
 * functions in it that have constant arguments.  The owner has chosen them.  So let it
 * do so as the owner, in a security-restricted operation: while a table is open, the
 * relation cache keeps its key.
 */
static List *
guard_open_partitioned(Oid relid)
{
	List	   *result = NIL;
	ListCell   *cell;

	if (get_rel_relkind(relid) != RELKIND_PARTITIONED_TABLE)
		return NIL;
	foreach(cell, find_all_inheritors(relid, ShareRowExclusiveLock, NULL))
	{
		Relation	rel;
		TablesCaller caller;

		if (get_rel_relkind(lfirst_oid(cell)) != RELKIND_PARTITIONED_TABLE)
			continue;
		rel = relation_open(lfirst_oid(cell), NoLock);
		caller = tables_become_owner(rel->rd_rel->relowner, 0);
		(void) RelationGetPartitionKey(rel);
		tables_become_caller(&caller);
		result = lappend(result, rel);
	}
	return result;
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
 * optout.unguard(relation)
 */
Datum
optout_unguard(PG_FUNCTION_ARGS)
{
	Relation	rel = guard_open_own_table(fcinfo);
	Guards		guards = guards_find(rel);
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

	relname = tables_relation_name(rel);
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
