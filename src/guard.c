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
 * are, in the same order.  Only the list names the columns: the server keeps
 * it by number and thus follows renames, hands it down to partitions by name,
 * and dumps it by the names of the day; it keeps a column of the list from
 * being dropped or given another type.
 *
 * BEFORE triggers fire in order of their names, and each sees the row as the
 * one before left it.  What a trigger with a later name writes into the
 * columns is not checked; optout.guard() warns of such triggers.
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
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/tablecmds.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "accepts.h"
#include "compat.h"
#include "fkey.h"
#include "ident.h"
#include "tables.h"

#define GUARD_TRIGGER "optout_guard"

PG_FUNCTION_INFO_V1(optout_guard);
PG_FUNCTION_INFO_V1(optout_unguard);
PG_FUNCTION_INFO_V1(optout_repair);
PG_FUNCTION_INFO_V1(optout_discard_opted_out);

/* what a column can be to the guard; the trigger's arguments name these */
typedef enum GuardRole
{
	GUARD_USER_ID,
	GUARD_ORGANIZATION,
	GUARD_OCCURRED_AT,
	GUARD_ROLES
} GuardRole;

static const char *const role_names[GUARD_ROLES] = {
	"user_id", "organization", "occurred_at"
};

/* where a relation has these columns; kept from row to row */
typedef struct GuardColumns
{
	AttrNumber	attnum[GUARD_ROLES];	/* 0 where there is none */
	Oid			type[GUARD_ROLES];	/* base type */
} GuardColumns;

/* the guards of a relation */
typedef struct Guards
{
	List	   *own;			/* names of its own */
	List	   *off;			/* names of those that do not fire always */
	bool		inherited;		/* a partitioned table's guard is among them */
} Guards;

static Relation open_own_table(FunctionCallInfo fcinfo, bool may_be_foreign);
static Oid	discard_function(void);
static Guards guard_find(Relation rel, Oid function, char fires);
static Oid	guard_namesake(Relation rel);
static bool guard_has_any(Oid relid, Oid function);
static void check_column(Relation rel, GuardRole role, const char *colname);
static void warn_of_gaps(Relation rel);
static void guard_warn_of_children(Relation rel);
static bool guard_other_organizations(void);
static char *guard_relation_name(Relation rel);
static uint64 run(const char *command, int nargs, Oid *argtypes, Datum *values);
static int64 guard_repair_own(const char *table, const char *function, char fires);
static int64 guard_enable(Oid relid, Oid function, char fires);
static List *guard_relations_off(Oid function);
static GuardColumns *get_columns(FunctionCallInfo fcinfo);
static int	guard_changes(const GuardColumns *columns, TupleTableSlot *a, TupleTableSlot *b,
						  AttrNumber *changed);
static bool accepts_row(const GuardColumns *columns, TupleTableSlot *slot);

/*
 * Open the relation given by the first argument, which must be a table that
 * the effective caller owns, with the lock that CREATE TRIGGER takes.
 */
static Relation
open_own_table(FunctionCallInfo fcinfo, bool may_be_foreign)
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
		!(may_be_foreign && rel->rd_rel->relkind == RELKIND_FOREIGN_TABLE))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table", RelationGetRelationName(rel))));
	return rel;
}

static Oid
discard_function(void)
{
	Oid			function = tables_function("discard_opted_out");

	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function %s does not exist", "optout.discard_opted_out()")));
	return function;
}

/*
 * The relation's triggers of the function, which are off unless they fire always
 * or as "fires" says.  Copied, for what the relation cache has of them can be gone
 * after any look-up in a catalog.
 */
static Guards
guard_find(Relation rel, Oid function, char fires)
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
		else
			result.own = lappend(result.own, pstrdup(trigger->tgname));
		if (trigger->tgenabled != TRIGGER_FIRES_ALWAYS && trigger->tgenabled != fires)
			result.off = lappend(result.off, pstrdup(trigger->tgname));
	}
	return result;
}

/*
 * The function of the relation's trigger that has the name which guard() gives.
 */
static Oid
guard_namesake(Relation rel)
{
	TriggerDesc *trigdesc = rel->trigdesc;

	for (int i = 0; trigdesc != NULL && i < trigdesc->numtriggers; i++)
	{
		if (strcmp(trigdesc->triggers[i].tgname, GUARD_TRIGGER) == 0)
			return trigdesc->triggers[i].tgfoid;
	}
	return InvalidOid;
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
 * Raise an error unless the relation has such a column and the guard can read
 * from it what it needs.
 */
static void
check_column(Relation rel, GuardRole role, const char *colname)
{
	AttrNumber	attnum = get_attnum(RelationGetRelid(rel), colname);
	Form_pg_attribute att;
	Oid			type;

	if (attnum == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						colname, RelationGetRelationName(rel)),
				 errhint("Pass the name of the column that holds the event's %s.",
						 role_names[role])));
	if (attnum < 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot guard by system column \"%s\"", colname)));

	att = TupleDescAttr(RelationGetDescr(rel), attnum - 1);
	type = getBaseType(att->atttypid);
	if (role == GUARD_OCCURRED_AT && type != TIMESTAMPTZOID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of relation \"%s\" cannot hold an event's %s",
						colname, RelationGetRelationName(rel), role_names[role]),
				 errdetail("It is of type %s.", format_type_be(att->atttypid)),
				 errhint("Use a column of type %s.", format_type_be(TIMESTAMPTZOID))));
	if (role != GUARD_OCCURRED_AT && !ident_type_supported(type))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of relation \"%s\" cannot hold an event's %s",
						colname, RelationGetRelationName(rel), role_names[role]),
				 errdetail("It is of type %s.", format_type_be(att->atttypid)),
				 errhint("Use a column of type text, character varying, character, name, uuid, bigint, integer or smallint.")));
	if (att->attgenerated != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot guard by generated column \"%s\" of relation \"%s\"",
						colname, RelationGetRelationName(rel)),
				 errdetail("Generated columns are computed after BEFORE triggers have fired.")));
}

/*
 * Warn of what could get past the guard or get in its way later.
 */
static void
warn_of_gaps(Relation rel)
{
	Oid			discard = discard_function();
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
	Oid			function = discard_function();
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
	return run("SELECT WHERE pg_catalog.has_table_privilege('optout.user_list', 'SELECT')",
			   0, NULL, NULL) > 0 &&
		run("SELECT WHERE EXISTS (SELECT FROM optout.user_list WHERE organization < $1)"
			" OR EXISTS (SELECT FROM optout.user_list WHERE organization > $1)",
			1, argtypes, values) > 0;
}

static char *
guard_relation_name(Relation rel)
{
	return quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
									  RelationGetRelationName(rel));
}

/*
 * Run a utility command or a query as the effective user.  Returns how many rows
 * the query gave.
 */
static uint64
run(const char *command, int nargs, Oid *argtypes, Datum *values)
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
	Relation	rel = open_own_table(fcinfo, false);
	Oid			namesake = guard_namesake(rel);
	StringInfoData columns;
	StringInfoData roles;
	char	   *relname;

	/* they hold no events, and what it discarded there would be missed */
	if (RelationGetNamespace(rel) == get_namespace_oid("optout", true))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot guard \"%s\", a table of the extension itself",
						RelationGetRelationName(rel))));
	if (OidIsValid(namesake) && namesake != discard_function())
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("trigger \"%s\" of relation \"%s\" is not a guard",
						GUARD_TRIGGER, RelationGetRelationName(rel)),
				 errhint("Rename or drop it.")));
	if (guard_find(rel, discard_function(), TRIGGER_FIRES_ALWAYS).inherited)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("partition \"%s\" is guarded through its partitioned table",
						RelationGetRelationName(rel)),
				 errhint("Call optout.guard() for the partitioned table.")));
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the user_id column must not be null")));

	initStringInfo(&columns);
	initStringInfo(&roles);
	for (int role = 0; role < GUARD_ROLES; role++)
	{
		const char *colname;

		if (PG_ARGISNULL(role + 1))
			continue;
		colname = NameStr(*PG_GETARG_NAME(role + 1));
		check_column(rel, role, colname);
		appendStringInfo(&columns, "%s%s", columns.len > 0 ? ", " : "",
						 quote_identifier(colname));
		appendStringInfo(&roles, "%s'%s'", roles.len > 0 ? ", " : "",
						 role_names[role]);
	}
	warn_of_gaps(rel);
	if (PG_ARGISNULL(GUARD_ORGANIZATION + 1) && guard_other_organizations())
		ereport(NOTICE,
				(errmsg("guard of relation \"%s\" goes by the setting optout.organization of whoever writes",
						RelationGetRelationName(rel)),
				 errdetail("It names \"%s\" here, and the directory holds other organizations.",
						   ident_for_message(organization_setting_text)),
				 errhint("If the events are of several organizations, name the column that says which. If they are another's, set optout.organization for all who write.")));

	/* close it, for ALTER TABLE wants no other user of it; the lock remains */
	relname = guard_relation_name(rel);
	relation_close(rel, NoLock);

	run(psprintf("CREATE OR REPLACE TRIGGER " GUARD_TRIGGER
				 " BEFORE INSERT OR UPDATE OF %s ON %s FOR EACH ROW"
				 " EXECUTE FUNCTION optout.discard_opted_out(%s)",
				 columns.data, relname, roles.data), 0, NULL, NULL);
	run(psprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER " GUARD_TRIGGER, relname), 0, NULL, NULL);
	PG_RETURN_VOID();
}

/*
 * optout.unguard(relation)
 */
Datum
optout_unguard(PG_FUNCTION_ARGS)
{
	Relation	rel = open_own_table(fcinfo, true);
	Guards		guards = guard_find(rel, discard_function(), TRIGGER_FIRES_ALWAYS);
	char	   *relname;
	ListCell   *cell;

	if (guards.own == NIL && guards.inherited)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("partition \"%s\" is guarded through its partitioned table",
						RelationGetRelationName(rel)),
				 errhint("Call optout.unguard() for the partitioned table.")));
	if (guards.own == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("relation \"%s\" is not guarded",
						RelationGetRelationName(rel))));

	relname = guard_relation_name(rel);
	relation_close(rel, NoLock);

	foreach(cell, guards.own)
		run(psprintf("DROP TRIGGER %s ON %s", quote_identifier(lfirst(cell)), relname), 0, NULL, NULL);
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
	Oid			discard = discard_function();
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
	bool		off = guard_find(rel, funcid, fires).off != NIL;

	table_close(rel, AccessShareLock);
	return off ? guard_enable(relid, funcid, fires) : 0;
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
	off = RELATION_IS_OTHER_TEMP(rel) ? NIL : guard_find(rel, function, fires).off;
	if (off != NIL)
		CheckTableNotInUse(rel, "ALTER TABLE");
	foreach(cell, off)
		EnableDisableTrigger(rel, lfirst(cell), InvalidOid, fires,
							 false, false, ShareRowExclusiveLock);
	relation_close(rel, NoLock);
	return list_length(off);
}

/*
 * Which columns of this relation the trigger is to read.
 */
static GuardColumns *
get_columns(FunctionCallInfo fcinfo)
{
	GuardColumns *columns = fcinfo->flinfo->fn_extra;
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	Trigger    *trigger = trigdata->tg_trigger;
	TupleDesc	tupdesc = RelationGetDescr(trigdata->tg_relation);

	if (columns != NULL)
		return columns;

	columns = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(GuardColumns));
	for (int i = 0; i < Min(trigger->tgnargs, trigger->tgnattr); i++)
	{
		Form_pg_attribute att = TupleDescAttr(tupdesc, trigger->tgattr[i] - 1);

		for (int role = 0; role < GUARD_ROLES; role++)
		{
			if (strcmp(trigger->tgargs[i], role_names[role]) == 0)
			{
				/*
				 * guard() has done so, but of a partition attached later, or
				 * where it has not made the trigger, nobody has.
				 */
				check_column(trigdata->tg_relation, role, NameStr(att->attname));
				columns->attnum[role] = trigger->tgattr[i];
				columns->type[role] = getBaseType(att->atttypid);
			}
		}
	}
	if (columns->attnum[GUARD_USER_ID] == InvalidAttrNumber ||
		trigger->tgnargs != trigger->tgnattr)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" of relation \"%s\" does not say which columns to read",
						trigger->tgname,
						RelationGetRelationName(trigdata->tg_relation)),
				 errhint("Let optout.guard() create it.")));

	fcinfo->flinfo->fn_extra = columns;
	return columns;
}

/*
 * Which of the guard's columns differ between two versions of a row, and how
 * many.
 */
static int
guard_changes(const GuardColumns *columns, TupleTableSlot *a, TupleTableSlot *b,
			  AttrNumber *changed)
{
	int			nchanged = 0;

	for (int role = 0; role < GUARD_ROLES; role++)
	{
		AttrNumber	attnum = columns->attnum[role];
		Form_pg_attribute att;
		Datum		x,
					y;
		bool		xnull,
					ynull;

		if (attnum == InvalidAttrNumber)
			continue;
		att = TupleDescAttr(a->tts_tupleDescriptor, attnum - 1);
		x = slot_getattr(a, attnum, &xnull);
		y = slot_getattr(b, attnum, &ynull);
		if (xnull != ynull ||
			(!xnull && !datum_image_eq(x, y, att->attbyval, att->attlen)))
			changed[nchanged++] = attnum;
	}
	return nchanged;
}

/*
 * Whether the row's event may be stored.
 */
static bool
accepts_row(const GuardColumns *columns, TupleTableSlot *slot)
{
	Datum		value[GUARD_ROLES];
	bool		isnull[GUARD_ROLES];
	text	   *organization = NULL;
	TimestampTz occurred_at = 0;

	for (int role = 0; role < GUARD_ROLES; role++)
	{
		isnull[role] = true;
		if (columns->attnum[role] != InvalidAttrNumber)
			value[role] = slot_getattr(slot, columns->attnum[role], &isnull[role]);
	}

	/* as in accepts.c */
	if (!isnull[GUARD_ORGANIZATION])
		organization = ident_from_datum(columns->type[GUARD_ORGANIZATION],
										value[GUARD_ORGANIZATION]);
	if (likely(!isnull[GUARD_USER_ID] &&
			   accepts_at_once(organization, columns->type[GUARD_USER_ID], value[GUARD_USER_ID])))
		return true;
	organization = organization_resolve(organization);
	if (isnull[GUARD_USER_ID])
		return true;
	if (!isnull[GUARD_OCCURRED_AT])
		occurred_at = DatumGetTimestampTz(value[GUARD_OCCURRED_AT]);

	return accepts_event(organization,
						 ident_from_datum(columns->type[GUARD_USER_ID],
										  value[GUARD_USER_ID]),
						 isnull[GUARD_OCCURRED_AT] ? NULL : &occurred_at);
}

/*
 * optout.discard_opted_out(), the trigger function
 */
Datum
optout_discard_opted_out(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	GuardColumns *columns;
	AttrNumber	changed[GUARD_ROLES];
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

	columns = get_columns(fcinfo);

	if (TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
		return PointerGetDatum(accepts_row(columns, trigdata->tg_trigslot) ?
							   trigdata->tg_trigtuple : NULL);

	/*
	 * An update passes unless it re-attributes the event.  So does the change
	 * that a foreign key's action makes: it is not an event that arrives, and
	 * to skip it would leave a row that violates the key.
	 */
	nchanged = guard_changes(columns, trigdata->tg_trigslot, trigdata->tg_newslot, changed);
	if (nchanged == 0 ||
		(InNoForceRLSOperation() &&
		 fkey_action_changes(trigdata->tg_relation, trigdata->tg_trigslot,
							 trigdata->tg_newslot, changed, nchanged)) ||
		accepts_row(columns, trigdata->tg_newslot))
		return PointerGetDatum(trigdata->tg_newtuple);
	return PointerGetDatum(NULL);
}
