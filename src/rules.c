/*
 * rules.c
 *		Rules for tables to come: optout.guard_schema(), optout.unguard_schema(),
 *		and the event trigger that guards what others create.
 *
 * A rule says what a guard of any table in a schema should read.  It is kept by
 * the schema's name, so it holds for a schema that is dropped and created again, or
 * renamed into place.  guard_schema() looks at the tables that are there; the event
 * trigger, at the end of a command, at those that the command has created, moved
 * into the schema, or given other columns.
 *
 * That no table is missed between the two rests on locks:
 *
 * 1. A transaction that creates a table, or moves one, locks the schema in
 *	  pg_namespace until it ends, and so does guard_schema(), in a mode that
 *	  conflicts.  So guard_schema() waits for transactions that came first,
 *	  and then sees their tables.  Those that come later wait, and then their
 *	  event trigger sees the rule.
 * 2. A transaction that changes a table's columns, attaches or detaches it,
 *	  has the table locked against everybody until it ends.  guard_schema()
 *	  opens each table of the schema, whatever its columns, and keeps that
 *	  lock.  So again one of the two waits, and then sees what the other has
 *	  done.
 * 3. A transaction that renames a schema locks it the same way; where the
 *	  server does not do so, as in some minor releases, the event trigger
 *	  does.  So nobody creates a table under the old name that the event
 *	  trigger would not see.  And guard_schema() for the schema that had the
 *	  new name before waits for that transaction, or makes it wait.
 *
 * Rules are read under the latest snapshot, whatever that of the transaction.
 *
 * A rule's guard has no list of columns (guard_create_by_rule()), so nothing keeps
 * anybody from dropping, renaming, or altering them.  The event trigger then makes
 * the guard anew, also where there is no rule any more.  If it was not there, and a
 * column is gone, the guard raises an error rather than let all events pass.
 *
 * The event trigger must not fail commands of people who know nothing of it:
 * what cannot be guarded is a WARNING, and optout.unguarded shows it.
 * Otherwise it is silent.  There is one exception.  CREATE TABLE AS stores
 * rows before there is a guard; those of opted-out users are deleted
 * afterwards.  Where that fails, as on a server that does not know who is
 * opted out, so does the command, as an INSERT into a guarded table would.
 *
 * A role that may create a table need not be allowed to create a trigger on
 * it with our function; neither need the owner of the extension.  So triggers
 * are created as the bootstrap superuser.  What functions of theirs the server
 * evaluates for that, those in partition keys, run as the table's owner before:
 * see guard_open_partitioned().
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/catalog.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "commands/extension.h"
#include "executor/executor.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "nodes/parsenodes.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "tcop/deparse_utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "event.h"
#include "guard.h"
#include "guards.h"
#include "subxact.h"
#include "tables.h"

/* columns of optout.guard_rule */
#define Anum_rule_schema 1
#define Anum_rule_user_ids 2
#define Anum_rule_organization 3
#define Anum_rule_occurred_at 4
#define Anum_rule_payload 5
#define Anum_rule_time_zone 6
#define Anum_rule_fixed_organization 7
#define Natts_rule 7

/* a column of pg_event_trigger_ddl_commands() */
#define Anum_ddl_commands_command 9

PG_FUNCTION_INFO_V1(optout_guard_schema);
PG_FUNCTION_INFO_V1(optout_unguard_schema);
PG_FUNCTION_INFO_V1(optout_apply_rules);

/* why a table is looked at */
typedef struct RulesReason
{
	bool		sweep;			/* guard_schema() asks, rather than an event */
	const char *old_name;		/* a column that has been renamed; or NULL */
	const char *new_name;
} RulesReason;

/* what a command has left to do; lists of OIDs */
typedef struct RulesWork
{
	List	   *relids;			/* tables to look at */
	List	   *stored;			/* of these, those that hold rows already */
	List	   *owned;			/* tables that have another owner now */
	Oid			schema;			/* that has another name now */
	RulesReason reason;
} RulesWork;

/* to be taken within a subtransaction */
typedef void (*RulesAction) (Oid oid, const RulesReason *reason);

static void rules_check_caller(void);
static void rules_check_request(const GuardRequest *request);
static bool rules_check_source(const GuardRequest *request, EventRole role, const char *source);
static void rules_check_schema(const char *schema, Oid nspid);
static void rules_lock_schema(Oid nspid);
static void rules_write(FunctionCallInfo fcinfo, const char *schema);
static void rules_note_missing(Oid nspid, const char *schema, const GuardRequest *request);
static bool rules_exist(void);
static bool rules_find(const char *schema, GuardRequest *rule);
static char *rules_get_text(Relation rel, HeapTuple tuple, int attnum);
static bool rules_may_matter(const Node *command);
static bool rules_alters(const AlterTableStmt *stmt);
static RulesWork rules_collect(void);
static void rules_collect_simple(RulesWork *work, const CollectedCommand *command);
static void rules_collect_altered(RulesWork *work, const CollectedCommand *command);
static void rules_add_partition(RulesWork *work, Oid relid, const char *relname);
static void rules_add_with_heirs(RulesWork *work, Oid relid);
static List *rules_tables_with(AttrNumber attnum, Oid value);
static void rules_look_at_schema(Oid nspid, const RulesReason *reason);
static void rules_look_at_renamed(Oid nspid, const RulesReason *reason);
static void rules_look(Oid relid, const RulesReason *reason);
static void rules_look_at_owner(Oid relid, const RulesReason *reason);
static void rules_apply(Oid relid, const RulesReason *reason);
static bool rules_concern(Relation rel);
static bool rules_fit(Relation rel, const GuardRequest *rule, GuardRequest *request);
static bool rules_has_column(Relation rel, const char *column);
static GuardRequest rules_of_guard(Relation rel, const char *name, const RulesReason *reason);
static void rules_rename(char **column, const RulesReason *reason);
static ErrorData *rules_try(RulesAction action, Oid oid, const RulesReason *reason);
static void rules_warn(const char *what, const char *name, const ErrorData *error);
static void rules_drop(Oid relid, const RulesReason *reason);
static void rules_grant(Oid relid, const RulesReason *reason);
static void rules_discard_stored(Oid relid);

/*
 * optout.guard_schema(schema, user_ids, organization, occurred_at, payload,
 * time_zone, fixed_organization)
 */
Datum
optout_guard_schema(PG_FUNCTION_ARGS)
{
	RulesReason reason = {.sweep = true};
	GuardRequest request;
	Oid			nspid;
	char	   *schema;

	rules_check_caller();
	tables_prevent_if_read_only(fcinfo);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("schema must not be null")));
	nspid = PG_GETARG_OID(0);
	schema = get_namespace_name(nspid);
	rules_check_schema(schema, nspid);
	request = guard_request_from_args(fcinfo);
	rules_check_request(&request);

	rules_lock_schema(nspid);
	if (get_namespace_name(nspid) == NULL || strcmp(get_namespace_name(nspid), schema) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_SCHEMA),
				 errmsg("schema \"%s\" has been dropped or renamed meanwhile", schema)));

	guard_note_organizations(&request, "rule for schema", schema);
	rules_write(fcinfo, schema);
	rules_look_at_schema(nspid, &reason);
	rules_note_missing(nspid, schema, &request);
	PG_RETURN_VOID();
}

/*
 * optout.unguard_schema(schema)
 */
Datum
optout_unguard_schema(PG_FUNCTION_ARGS)
{
	Oid			argtypes[1] = {NAMEOID};
	Datum		values[1];

	rules_check_caller();
	tables_prevent_if_read_only(fcinfo);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("schema must not be null")));

	values[0] = PG_GETARG_DATUM(0);
	if (tables_execute("DELETE FROM optout.guard_rule WHERE schema = $1", 1, argtypes, values, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no rule for schema \"%s\"", NameStr(*PG_GETARG_NAME(0))),
				 errhint("See the view optout.guard_rules.")));
	PG_RETURN_VOID();
}

static void
rules_check_caller(void)
{
	if (!has_privs_of_role(GetUserId(), tables_owner()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser or owner of extension \"%s\" to make rules for tables to come",
						"optout")));
}

/*
 * Raise an error for what could not be right for any table.
 */
static void
rules_check_request(const GuardRequest *request)
{
	List	   *seen = NIL;
	bool		uses_payload = false;
	ListCell   *cell;

	guard_check_request(request);
	foreach(cell, request->user_ids)
	{
		char	   *source = lfirst(cell);

		uses_payload |= rules_check_source(request, EVENT_USER_ID, source);
		if (list_member(seen, makeString(source)))
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_COLUMN),
					 errmsg("column \"%s\" specified more than once", source)));
		seen = lappend(seen, makeString(source));
	}
	uses_payload |= rules_check_source(request, EVENT_ORGANIZATION, request->organization);
	uses_payload |= rules_check_source(request, EVENT_OCCURRED_AT, request->occurred_at);
	if (request->payload != NULL && !uses_payload)
		guard_payload_unused(request->payload);
}

/*
 * The same for a column or path, if not NULL; returns whether it is a path.
 */
static bool
rules_check_source(const GuardRequest *request, EventRole role, const char *source)
{
	if (source == NULL)
		return false;
	if (source[0] == '$')
	{
		guard_check_path(request, role, source);
		return true;
	}
	if (source[0] == '\0' || strlen(source) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("no column can have the name \"%s\"", source)));
	return false;
}

static void
rules_check_schema(const char *schema, Oid nspid)
{
	if (schema == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_SCHEMA),
				 errmsg("schema with OID %u does not exist", nspid)));
	if (IsCatalogNamespace(nspid) || IsToastNamespace(nspid) || isAnyTempNamespace(nspid) ||
		strcmp(schema, "information_schema") == 0 || strcmp(schema, "optout") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot create a rule for schema \"%s\"", schema),
				 errdetail("It holds no tables of events.")));
}

/*
 * Wait for those who have created tables in the schema or moved them there, and keep
 * others from it.
 */
static void
rules_lock_schema(Oid nspid)
{
	LockDatabaseObject(NamespaceRelationId, nspid, 0, AccessExclusiveLock);
}

static void
rules_write(FunctionCallInfo fcinfo, const char *schema)
{
	Oid			argtypes[Natts_rule] = {NAMEOID, TEXTARRAYOID, TEXTOID, TEXTOID, NAMEOID, TEXTOID, TEXTOID};
	Datum		values[Natts_rule];
	char		nulls[Natts_rule];

	values[0] = DirectFunctionCall1(namein, CStringGetDatum(schema));
	nulls[0] = ' ';
	for (int i = 1; i < Natts_rule; i++)
	{
		values[i] = PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
	}
	tables_execute("INSERT INTO optout.guard_rule AS r"
				   " (schema, user_ids, organization, occurred_at, payload, time_zone, fixed_organization)"
				   " VALUES ($1, $2, $3, $4, $5, $6, $7)"
				   " ON CONFLICT ON CONSTRAINT guard_rule_pkey DO UPDATE SET"
				   " (user_ids, organization, occurred_at, payload, time_zone, fixed_organization)"
				   " = ROW (EXCLUDED.user_ids, EXCLUDED.organization, EXCLUDED.occurred_at,"
				   " EXCLUDED.payload, EXCLUDED.time_zone, EXCLUDED.fixed_organization)",
				   Natts_rule, argtypes, values, nulls);
}

/*
 * Say which columns none of the schema's tables has, since a misspelled one would
 * guard nothing, silently.  All of them may be yet to come, so it is no error.  (A
 * missing organization is another matter: such tables could not be guarded.)
 */
static void
rules_note_missing(Oid nspid, const char *schema, const GuardRequest *request)
{
	List	   *relids = rules_tables_with(Anum_pg_class_relnamespace, nspid);
	List	   *columns = list_copy(request->user_ids);
	ListCell   *column;

	if (relids == NIL)
		return;
	if (request->occurred_at != NULL)
		columns = lappend(columns, request->occurred_at);
	if (request->payload != NULL)
		columns = lappend(columns, request->payload);
	foreach(column, columns)
	{
		const char *name = lfirst(column);
		bool		found = name[0] == '$'; /* a path */
		ListCell   *relid;

		foreach(relid, relids)
			found = found || get_attnum(lfirst_oid(relid), name) > 0;
		if (!found)
			ereport(NOTICE,
					(errmsg("no table of schema \"%s\" has a column \"%s\"", schema, name),
					 errhint("Check the name, unless tables with this column are yet to come.")));
	}
}

/*
 * Whether there is any rule.
 */
static bool
rules_exist(void)
{
	Relation	rel = tables_try_open("guard_rule", AccessShareLock);
	Snapshot	snapshot;
	SysScanDesc scan;
	bool		result;

	/* the schema of the extension has been renamed */
	if (rel == NULL)
	{
		ereport(WARNING,
				(errmsg("rules for tables to come are not applied"),
				 errdetail("Schema \"%s\" is not that of the extension.", "optout")));
		return false;
	}
	snapshot = tables_snapshot();
	scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0, NULL);
	result = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return result;
}

/*
 * The rule for the schema; false where there is none.
 */
static bool
rules_find(const char *schema, GuardRequest *rule)
{
	Relation	rel = tables_try_open("guard_rule", AccessShareLock);
	NameData	name;
	ScanKeyData key;
	TablesScan	scan;
	HeapTuple	tuple;
	bool		isnull;

	memset(rule, 0, sizeof(*rule));
	if (rel == NULL)
		return false;
	namestrcpy(&name, schema);
	ScanKeyInit(&key, Anum_rule_schema, BTEqualStrategyNumber, F_NAMEEQ, NameGetDatum(&name));
	tables_beginscan(&scan, rel, tables_index(rel, "guard_rule_pkey"), 1, &key);
	tuple = tables_getnext(&scan);
	if (HeapTupleIsValid(tuple))
	{
		rule->has_paths = true;
		rule->user_ids = guard_user_ids(DatumGetArrayTypePCopy(heap_getattr(tuple, Anum_rule_user_ids,
																			RelationGetDescr(rel), &isnull)));
		rule->organization = rules_get_text(rel, tuple, Anum_rule_organization);
		rule->occurred_at = rules_get_text(rel, tuple, Anum_rule_occurred_at);
		rule->time_zone = rules_get_text(rel, tuple, Anum_rule_time_zone);
		rule->fixed_organization = rules_get_text(rel, tuple, Anum_rule_fixed_organization);
		rule->payload = rules_get_text(rel, tuple, Anum_rule_payload);
	}
	tables_endscan(&scan);
	table_close(rel, AccessShareLock);
	return rule->has_paths;
}

static char *
rules_get_text(Relation rel, HeapTuple tuple, int attnum)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, attnum, RelationGetDescr(rel), &isnull);

	if (isnull)
		return NULL;
	return attnum == Anum_rule_payload ? pstrdup(NameStr(*DatumGetName(value))) : TextDatumGetCString(value);
}

/*
 * optout.apply_rules(), the event trigger's function
 */
Datum
optout_apply_rules(PG_FUNCTION_ARGS)
{
	RulesWork	work;
	ErrorData  *error;
	ListCell   *cell;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo) ||
		strcmp(((EventTriggerData *) fcinfo->context)->event, "ddl_command_end") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" must be fired at the end of a command",
						"optout.apply_rules")));

	if (!rules_may_matter(((EventTriggerData *) fcinfo->context)->parsetree))
		return PointerGetDatum(NULL);

	work = rules_collect();
	if (OidIsValid(work.schema) &&
		(error = rules_try(rules_look_at_renamed, work.schema, &work.reason)) != NULL)
		rules_warn("tables of schema \"%s\" could not be guarded", get_namespace_name(work.schema), error);
	foreach(cell, work.relids)
		rules_look(lfirst_oid(cell), &work.reason);
	foreach(cell, work.owned)
		rules_look_at_owner(lfirst_oid(cell), &work.reason);
	foreach(cell, work.stored)
		rules_discard_stored(lfirst_oid(cell));
	return PointerGetDatum(NULL);
}

/*
 * Whether we have to look at what the command has done, which most do not need.
 * Without any rule, what is new is not guarded; but there can be guards of rules
 * that have ended.
 */
static bool
rules_may_matter(const Node *command)
{
	switch (nodeTag(command))
	{
		case T_CreateStmt:
			return ((const CreateStmt *) command)->relation->relpersistence != RELPERSISTENCE_TEMP &&
				rules_exist();
		case T_CreateTableAsStmt:
			return ((const CreateTableAsStmt *) command)->into->rel->relpersistence != RELPERSISTENCE_TEMP &&
				rules_exist();
		case T_CreateForeignTableStmt:
		case T_ImportForeignSchemaStmt:
		case T_CreateSchemaStmt:
		case T_AlterObjectSchemaStmt:
			return rules_exist();
		case T_AlterTableStmt:
			return rules_alters((const AlterTableStmt *) command);
		case T_RenameStmt:
			switch (((const RenameStmt *) command)->renameType)
			{
				case OBJECT_TABLE:
				case OBJECT_FOREIGN_TABLE:
				case OBJECT_COLUMN:
				case OBJECT_ATTRIBUTE:
				case OBJECT_SCHEMA:
					return true;
				default:
					return false;
			}
		default:
			return false;
	}
}

/*
 * Whether ALTER TABLE gives tables other columns, takes a guard from them, or does
 * what needs one more privilege.  When a dump is restored, there are commands that
 * do none of this between the rules and the guards, which the dump brings as well:
 * to guard a table then would keep the dump's from being created.
 */
static bool
rules_alters(const AlterTableStmt *stmt)
{
	ListCell   *cell;

	foreach(cell, stmt->cmds)
	{
		switch (lfirst_node(AlterTableCmd, cell)->subtype)
		{
			case AT_AddColumn:
			case AT_DropColumn:
			case AT_AlterColumnType:
			case AT_DropExpression:
			case AT_AttachPartition:
			case AT_DetachPartition:
			case AT_DetachPartitionFinalize:
			case AT_ChangeOwner:
				return true;
			default:
				break;
		}
	}
	return false;
}

/*
 * What the command has left to do, by what the server has recorded of it.
 */
static RulesWork
rules_collect(void)
{
	RulesWork	work = {NIL};
	ReturnSetInfo result = {.type = T_ReturnSetInfo};
	TupleTableSlot *slot;
	FmgrInfo	flinfo;

	LOCAL_FCINFO(fcinfo, 0);

	/* as in a query's FROM, which would take longer than all else here */
	fmgr_info(F_PG_EVENT_TRIGGER_DDL_COMMANDS, &flinfo);
	InitFunctionCallInfoData(*fcinfo, &flinfo, 0, InvalidOid, NULL, (Node *) &result);
	result.econtext = CreateStandaloneExprContext();
	result.allowedModes = SFRM_Materialize;
	FunctionCallInvoke(fcinfo);

	slot = MakeSingleTupleTableSlot(result.setDesc, &TTSOpsMinimalTuple);
	while (tuplestore_gettupleslot(result.setResult, true, false, slot))
	{
		bool		isnull;

		/* it belongs to the server's list, which stays until the command ends */
		Datum		value = slot_getattr(slot, Anum_ddl_commands_command, &isnull);
		const CollectedCommand *command = (const CollectedCommand *) DatumGetPointer(value);

		if (command->type == SCT_Simple)
			rules_collect_simple(&work, command);
		else if (command->type == SCT_AlterTable && command->d.alterTable.classId == RelationRelationId &&
				 IsA(command->parsetree, AlterTableStmt))
			rules_collect_altered(&work, command);
	}
	ExecDropSingleTupleTableSlot(slot);
	tuplestore_end(result.setResult);
	FreeExprContext(result.econtext, true);
	return work;
}

static void
rules_collect_simple(RulesWork *work, const CollectedCommand *command)
{
	ObjectAddress address = command->d.simple.address;
	const RenameStmt *rename = (const RenameStmt *) command->parsetree;

	switch (nodeTag(command->parsetree))
	{
		case T_CreateStmt:
		case T_CreateForeignTableStmt:
		case T_AlterObjectSchemaStmt:
			if (address.classId == RelationRelationId)
				work->relids = lappend_oid(work->relids, address.objectId);
			break;
		case T_CreateTableAsStmt:
			work->relids = lappend_oid(work->relids, address.objectId);
			work->stored = lappend_oid(work->stored, address.objectId);
			break;
		case T_RenameStmt:
			if (address.classId == NamespaceRelationId)
				work->schema = address.objectId;
			if (address.classId != RelationRelationId)
				break;
			if (rename->renameType == OBJECT_COLUMN || rename->renameType == OBJECT_ATTRIBUTE)
			{
				work->reason.old_name = rename->subname;
				work->reason.new_name = rename->newname;
			}
			rules_add_with_heirs(work, address.objectId);
			break;
		default:
			break;
	}
}

static void
rules_collect_altered(RulesWork *work, const CollectedCommand *command)
{
	Oid			relid = command->d.alterTable.objectId;
	ListCell   *cell;

	/*
	 * by the command as it was written: what was recorded has been
	 * transformed
	 */
	foreach(cell, ((AlterTableStmt *) command->parsetree)->cmds)
	{
		switch (lfirst_node(AlterTableCmd, cell)->subtype)
		{
			case AT_AddColumn:
			case AT_DropColumn:
			case AT_AlterColumnType:
			case AT_DropExpression:
				rules_add_with_heirs(work, relid);
				break;
			case AT_ChangeOwner:
				work->owned = lappend_oid(work->owned, relid);
				break;
			default:
				break;
		}
	}
	foreach(cell, command->d.alterTable.subcmds)
	{
		const CollectedATSubcmd *subcmd = lfirst(cell);

		const AlterTableCmd *cmd = castNode(AlterTableCmd, subcmd->parsetree);

		switch (cmd->subtype)
		{
			case AT_AttachPartition:
			case AT_DetachPartition:
			case AT_DetachPartitionFinalize:
				rules_add_partition(work, subcmd->address.objectId, ((PartitionCmd *) cmd->def)->name->relname);
				break;
			default:
				break;
		}
	}
}

/*
 * The partition that has been attached or detached.  PostgreSQL 15 has recorded
 * neither it nor the path that its name is to be looked up in.  But we have it locked.
 */
static void
rules_add_partition(RulesWork *work, Oid relid, const char *relname)
{
	Relation	pg_class;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (OidIsValid(relid))
	{
		rules_add_with_heirs(work, relid);
		return;
	}
	pg_class = table_open(RelationRelationId, AccessShareLock);
	ScanKeyInit(&key, Anum_pg_class_relname, BTEqualStrategyNumber, F_NAMEEQ, CStringGetDatum(relname));
	scan = systable_beginscan(pg_class, ClassNameNspIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		LOCKTAG		tag;

		relid = ((Form_pg_class) GETSTRUCT(tuple))->oid;
		SET_LOCKTAG_RELATION(tag, MyDatabaseId, relid);
		if (LockHeldByMe(&tag, AccessExclusiveLock, false))
			rules_add_with_heirs(work, relid);
	}
	systable_endscan(scan);
	table_close(pg_class, AccessShareLock);
}

/*
 * A table and its partitions or children, parents first; or the tables of a type.
 */
static void
rules_add_with_heirs(RulesWork *work, Oid relid)
{
	ListCell   *cell;

	switch (get_rel_relkind(relid))
	{
		case RELKIND_RELATION:
		case RELKIND_PARTITIONED_TABLE:
		case RELKIND_FOREIGN_TABLE:
			work->relids = list_concat_unique_oid(work->relids, find_all_inheritors(relid, NoLock, NULL));
			break;
		case RELKIND_COMPOSITE_TYPE:
			foreach(cell, rules_tables_with(Anum_pg_class_reloftype, get_rel_type_id(relid)))
				rules_add_with_heirs(work, lfirst_oid(cell));
			break;
		default:
			break;
	}
}

/*
 * The tables that have this value in a column of pg_class, partitioned ones first:
 * their guards are then there for the partitions.
 */
static List *
rules_tables_with(AttrNumber attnum, Oid value)
{
	Relation	pg_class = table_open(RelationRelationId, AccessShareLock);
	List	   *partitioned = NIL;
	List	   *others = NIL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, attnum, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(value));
	scan = systable_beginscan(pg_class, InvalidOid, false, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_class form = (Form_pg_class) GETSTRUCT(tuple);

		if (form->relkind == RELKIND_PARTITIONED_TABLE && !form->relispartition)
			partitioned = lappend_oid(partitioned, form->oid);
		else if (form->relkind == RELKIND_PARTITIONED_TABLE ||
				 form->relkind == RELKIND_RELATION || form->relkind == RELKIND_FOREIGN_TABLE)
			others = lappend_oid(others, form->oid);
	}
	systable_endscan(scan);
	table_close(pg_class, AccessShareLock);
	list_sort(partitioned, list_oid_cmp);
	list_sort(others, list_oid_cmp);
	return list_concat(partitioned, others);
}

/*
 * Look at all tables of a schema that is locked, so that no more can come.
 */
static void
rules_look_at_schema(Oid nspid, const RulesReason *reason)
{
	ListCell   *cell;

	foreach(cell, rules_tables_with(Anum_pg_class_relnamespace, nspid))
	{
		CHECK_FOR_INTERRUPTS();
		rules_look(lfirst_oid(cell), reason);
	}
}

/*
 * The same where a schema has got a name for which there may be a rule.
 */
static void
rules_look_at_renamed(Oid nspid, const RulesReason *reason)
{
	GuardRequest rule;

	rules_lock_schema(nspid);
	if (rules_find(get_namespace_name(nspid), &rule))
		rules_look_at_schema(nspid, reason);
}

/*
 * Look at a table, and guard it if the rule for its schema says so.
 */
static void
rules_look(Oid relid, const RulesReason *reason)
{
	ErrorData  *error = rules_try(rules_apply, relid, reason);

	if (error == NULL)
	{
		if (get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE)
			rules_look_at_owner(relid, reason);
		return;
	}
	rules_warn("relation \"%s\" could not be guarded", get_rel_name(relid), error);

	/* its former guard could not read the columns that there are now */
	if (error->sqlerrcode == ERRCODE_UNDEFINED_COLUMN ||
		error->sqlerrcode == ERRCODE_DATATYPE_MISMATCH ||
		error->sqlerrcode == ERRCODE_FEATURE_NOT_SUPPORTED)
		rules_try(rules_drop, relid, reason);
}

/*
 * Look at the owner of a table.  Where granting fails, as by lock_timeout, the
 * table stays guarded.
 */
static void
rules_look_at_owner(Oid relid, const RulesReason *reason)
{
	ErrorData  *error = rules_try(rules_grant, relid, reason);

	if (error != NULL)
		rules_warn("owner of relation \"%s\" cannot add partitions while it is guarded",
				   get_rel_name(relid), error);
}

/*
 * Guard a table if the rule for its schema says so.  Errors are raised.
 */
static void
rules_apply(Oid relid, const RulesReason *reason)
{
	Relation	rel = try_relation_open(relid, AccessShareLock);
	GuardRequest rule;
	GuardRequest request;
	Guards		guards;

	if (rel == NULL)
		return;
	if (!rules_concern(rel))
	{
		relation_close(rel, NoLock);
		return;
	}

	guards = guards_find(rel);
	if (guards.covered)
	{
		relation_close(rel, NoLock);
		if (guards.by_rule != NIL)
			guard_drop_by_rule(relid, false);
	}
	else if (!rules_find(get_namespace_name(RelationGetNamespace(rel)), &rule) &&
			 guards.by_rule == NIL)
	{
		relation_close(rel, NoLock);
		return;
	}
	else
	{
		if (!rule.has_paths)
			rule = rules_of_guard(rel, linitial(guards.by_rule), reason);
		if (rules_fit(rel, &rule, &request))
			guard_create_by_rule(rel, &request);
		else
		{
			relation_close(rel, NoLock);
			if (guards.by_rule != NIL)
			{
				guard_drop_by_rule(relid, false);
				ereport(WARNING,
						(errmsg("relation \"%s\" is no longer guarded", get_rel_name(relid)),
						 errdetail("It has none of the columns that name the user of an event.")));
			}
		}
	}
}

/*
 * Whether rules are for such relations.
 */
static bool
rules_concern(Relation rel)
{
	char		relkind = rel->rd_rel->relkind;

	return (relkind == RELKIND_RELATION || relkind == RELKIND_PARTITIONED_TABLE ||
			relkind == RELKIND_FOREIGN_TABLE) &&
		rel->rd_rel->relpersistence != RELPERSISTENCE_TEMP &&
		!OidIsValid(getExtensionOfObject(RelationRelationId, RelationGetRelid(rel)));
}

/*
 * What of the rule goes for this relation, by the columns that it has.  False where
 * it has none that names users.  An organization is never left out: the events would
 * count as another one's.
 */
static bool
rules_fit(Relation rel, const GuardRequest *rule, GuardRequest *request)
{
	bool		has_payload = rule->payload != NULL && rules_has_column(rel, rule->payload);
	bool		uses_payload = rule->organization != NULL && rule->organization[0] == '$';
	ListCell   *cell;

	*request = *rule;
	request->user_ids = NIL;
	foreach(cell, rule->user_ids)
	{
		char	   *source = lfirst(cell);
		bool		is_path = source[0] == '$';

		if (is_path ? !has_payload : !rules_has_column(rel, source))
			continue;
		request->user_ids = lappend(request->user_ids, source);
		uses_payload |= is_path;
	}
	if (rule->occurred_at != NULL && rule->occurred_at[0] == '$')
	{
		if (has_payload)
			uses_payload = true;
		else
			request->occurred_at = NULL;
	}
	else if (rule->occurred_at != NULL && !rules_has_column(rel, rule->occurred_at))
		request->occurred_at = NULL;
	if (!uses_payload)
		request->payload = NULL;
	return request->user_ids != NIL;
}

static bool
rules_has_column(Relation rel, const char *column)
{
	return get_attnum(RelationGetRelid(rel), column) > 0;
}

/*
 * Where there is no rule any more, what the guard says is the rule, and follows its
 * columns' names.
 */
static GuardRequest
rules_of_guard(Relation rel, const char *name, const RulesReason *reason)
{
	GuardRequest rule = guard_request_of(rel, name);
	ListCell   *cell;

	foreach(cell, rule.user_ids)
		rules_rename((char **) &lfirst(cell), reason);
	rules_rename(&rule.organization, reason);
	rules_rename(&rule.occurred_at, reason);
	rules_rename(&rule.payload, reason);
	return rule;
}

static void
rules_rename(char **column, const RulesReason *reason)
{
	if (*column != NULL && reason->old_name != NULL && strcmp(*column, reason->old_name) == 0)
		*column = pstrdup(reason->new_name);
}

/*
 * Take the action in a subtransaction, with all rights.  Returns the error, if
 * there was one but a cancel.  What guard_schema() asks for fails as well where
 * waiting is given up, or resources are used up, such as memory for locks: then the
 * tables to follow would fare no better.
 */
static ErrorData *
rules_try(RulesAction action, Oid oid, const RulesReason *reason)
{
	Subxact		subxact;
	ErrorData  *volatile error = NULL;
	Oid			save_userid;
	int			save_sec_context;

	GetUserIdAndSecContext(&save_userid, &save_sec_context);
	subxact = subxact_begin();
	MemoryContextSwitchTo(subxact.context);
	PG_TRY();
	{
		SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, save_sec_context | SECURITY_LOCAL_USERID_CHANGE);
		action(oid, reason);
		SetUserIdAndSecContext(save_userid, save_sec_context);
		subxact_end(&subxact, true);
	}
	PG_CATCH();
	{
		error = subxact_catch(&subxact);
	}
	PG_END_TRY();

	if (error != NULL &&
		(error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
		 (reason->sweep && (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
							error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED ||
							ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INSUFFICIENT_RESOURCES))))
		ReThrowError(error);
	return error;
}

static void
rules_warn(const char *what, const char *name, const ErrorData *error)
{
	if (name == NULL)
		return;
	ereport(WARNING,
			(errmsg_internal(what, name),
			 errdetail("The error was: %s%s%s", error->message,
					   error->detail != NULL ? ". " : "", error->detail != NULL ? error->detail : ""),
	/* where a column is missing, the hint is for callers of guard() */
			 error->hint != NULL && error->sqlerrcode != ERRCODE_UNDEFINED_COLUMN ?
			 errhint("%s", error->hint) : 0));
}

/*
 * Drop the guard that a rule has made.
 */
static void
rules_drop(Oid relid, const RulesReason *reason pg_attribute_unused())
{
	if (get_rel_name(relid) != NULL)
		guard_drop_by_rule(relid, false);
}

/*
 * Let the owner of a partitioned table add partitions, if a rule guards it.
 */
static void
rules_grant(Oid relid, const RulesReason *reason pg_attribute_unused())
{
	Relation	rel = try_relation_open(relid, AccessShareLock);

	if (rel == NULL)
		return;
	guard_let_owner_add_partitions(rel);
	relation_close(rel, NoLock);
}

/*
 * CREATE TABLE AS has filled the table before it got its guard: delete what the guard
 * would have discarded.  No trigger or rule of anybody's is fired by that, because it is
 * done below the executor, nor is there any function of theirs to call; the owner's
 * rights are enough.
 */
static void
rules_discard_stored(Oid relid)
{
	Relation	rel = try_table_open(relid, RowExclusiveLock);
	List	   *shapes = rel != NULL ? guards_shapes(rel) : NIL;
	MemoryContext context;
	MemoryContext old_context;
	Snapshot	snapshot;
	TupleTableSlot *slot;
	TableScanDesc scan;
	TablesCaller caller;

	if (shapes == NIL)
	{
		if (rel != NULL)
			table_close(rel, NoLock);
		return;
	}

	caller = tables_become_owner(rel->rd_rel->relowner, 0);
	context = AllocSetContextCreate(CurrentMemoryContext, "optout stored rows", ALLOCSET_DEFAULT_SIZES);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	slot = table_slot_create(rel, NULL);
	scan = table_beginscan(rel, snapshot, 0, NULL, SO_NONE);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool		accepted = true;
		ListCell   *cell;

		CHECK_FOR_INTERRUPTS();
		old_context = MemoryContextSwitchTo(context);
		foreach(cell, shapes)
			accepted = accepted && event_is_accepted(lfirst(cell), slot);
		MemoryContextSwitchTo(old_context);
		MemoryContextReset(context);
		if (!accepted)
			simple_table_tuple_delete(rel, &slot->tts_tid, snapshot);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	MemoryContextDelete(context);
	table_close(rel, NoLock);

	tables_become_caller(&caller);
	CommandCounterIncrement();
}
