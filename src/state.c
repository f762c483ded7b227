/*
 * state.c
 *		Access to the extension's tables under the latest snapshot.
 *
 * Who is opted out is what has been committed by now, not what had been when
 * the statement or the transaction began.  So every look-up here takes a
 * snapshot of its own, at any isolation level; it sees the changes that the
 * transaction's earlier commands made, and no others that are not committed.
 *
 * Writers lock the rows they rely on before they take the snapshot to decide
 * by (state_lock_users(), then state_execute()).  A row so locked cannot change
 * until they commit, and the snapshot, being younger than the lock, shows its
 * latest version.  That is why there is no serialization failure even in a
 * REPEATABLE READ transaction, where the executor's own FOR UPDATE would raise
 * one for any row changed since the transaction began.
 *
 * Only two things act with other rights than the caller's: the look-ups, which
 * check no privilege at all, and state_execute(), which acts as the tables'
 * owner.  Callers check authority first.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "progress.h"
#include "state.h"

/* columns of the tables of users and of periods */
#define Anum_organization 1
#define Anum_user_id 2

/* what state_select_ids() finds, and where it is to be kept */
typedef struct SelectedIds
{
	MemoryContext context;
	UserIds		ids;
} SelectedIds;

static Oid	state_namespace(bool missing_ok);
static Oid	state_relid(const char *relname);
static Snapshot latest_snapshot(void);
static uint64 lock_rows(Relation rel, Oid index, int nkeys, const ScanKeyData *keys);
static ItemPointer find_rows(const char *query, text *organization, const UserIds *users,
							 Snapshot snapshot);
static void save_tids(void *arg);
static bool lock_row(Relation rel, ItemPointer tid, Snapshot snapshot, TupleTableSlot *slot);
static void save_count(void *arg);
static void save_ids(void *arg);
static uint64 execute(const char *command, int nargs, Oid *argtypes,
					  Datum *values, const char *nulls,
					  Snapshot snapshot, void (*rows) (void *arg), void *arg);

/*
 * The owner of the extension.
 */
Oid
state_owner(void)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			owner = InvalidOid;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber,
				F_NAMEEQ, CStringGetDatum("optout"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);

	if (!OidIsValid(owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"%s\" does not exist", "optout")));
	return owner;
}

/*
 * The extension's schema.  Somebody who renames it leaves its name to others,
 * whose tables must not be taken for the extension's.  So make sure that a schema
 * of this name is the extension's, once for each that is met.
 */
static Oid
state_namespace(bool missing_ok)
{
	static Oid	verified = InvalidOid;
	Oid			nspid = get_namespace_oid("optout", missing_ok);

	if (nspid != verified && OidIsValid(nspid))
	{
		Oid			extension = get_extension_oid("optout", true);

		if (OidIsValid(extension) &&
			getExtensionOfObject(NamespaceRelationId, nspid) == extension)
			verified = nspid;
		else if (missing_ok)
			return InvalidOid;
		else
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_SCHEMA),
					 errmsg("schema \"%s\" is not that of the extension", "optout")));
	}
	return nspid;
}

static Oid
state_relid(const char *relname)
{
	Oid			nspid = state_namespace(false);
	Oid			relid = get_relname_relid(relname, nspid);

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s.%s\" does not exist", "optout", relname)));
	return relid;
}

/*
 * Open one of the extension's tables.
 */
Relation
state_open(const char *table, LOCKMODE lockmode)
{
	Relation	rel;

	/* whoever had it locked may have dropped it, and made another */
	while ((rel = try_table_open(state_relid(table), lockmode)) == NULL)
		CHECK_FOR_INTERRUPTS();
	return rel;
}

/*
 * The same, but NULL where there is none.
 */
Relation
state_try_open(const char *table, LOCKMODE lockmode)
{
	Oid			nspid = state_namespace(true);
	Oid			relid = OidIsValid(nspid) ? get_relname_relid(table, nspid) : InvalidOid;

	return OidIsValid(relid) ? try_table_open(relid, lockmode) : NULL;
}

/*
 * Whether there are aliases and actors, which came with 1.2: until ALTER EXTENSION
 * UPDATE the SQL objects are an older version's.
 */
bool
state_has_aliases(void)
{
	return OidIsValid(get_relname_relid("user_alias", get_namespace_oid("optout", false)));
}

/*
 * Whether the relation is this one of the extension's tables.
 */
bool
state_is(Relation rel, const char *table)
{
	return strcmp(RelationGetRelationName(rel), table) == 0 &&
		RelationGetNamespace(rel) == state_namespace(true);
}

/*
 * One of the table's indexes.  The table is open, so the index stays.
 */
Oid
state_index(Relation rel, const char *index)
{
	Oid			indexid = state_relid(index);

	/* the schema may have been renamed since, and another have the name */
	if (IndexGetRelation(indexid, true) != RelationGetRelid(rel))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("\"%s\" is not an index of relation \"%s\"",
						index, RelationGetRelationName(rel))));
	return indexid;
}

/*
 * One of the extension's functions without arguments; InvalidOid where there is
 * none.  LookupFuncName() would ask for the caller's USAGE on the schema, and
 * whoever writes to a guarded table needs none.
 */
Oid
state_function(const char *function)
{
	Oid			nspid = state_namespace(true);

	return !OidIsValid(nspid) ? InvalidOid :
		GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
						CStringGetDatum(function),
						PointerGetDatum(buildoidvector(NULL, 0)),
						ObjectIdGetDatum(nspid));
}

/*
 * No newer snapshot than the query's can be taken in parallel mode.
 */
static Snapshot
latest_snapshot(void)
{
	return RegisterSnapshot(IsInParallelMode() ? GetActiveSnapshot() : GetLatestSnapshot());
}

/*
 * A key for state_beginscan() and state_lock_rows(): the table's column, of type
 * text, equals the value.
 */
void
state_key(ScanKey key, AttrNumber attnum, text *value)
{
	ScanKeyInit(key, attnum, BTEqualStrategyNumber, F_TEXTEQ, PointerGetDatum(value));
}

/*
 * Scan an index of the table for rows that equal the keys, under the latest
 * snapshot.  The keys come in the order of the index's columns.
 */
void
state_beginscan(StateScan *scan, Relation rel, Oid index,
				int nkeys, const ScanKeyData *keys)
{
	/* some versions of systable_beginscan() write into the keys */
	ScanKeyData copy[INDEX_MAX_KEYS];

	Assert(nkeys <= INDEX_MAX_KEYS);
	memcpy(copy, keys, nkeys * sizeof(ScanKeyData));

	scan->rel = rel;
	scan->snapshot = latest_snapshot();
	scan->scan = systable_beginscan(rel, index, true, scan->snapshot,
									nkeys, copy);
}

/* the next row, or NULL; valid until the next call */
HeapTuple
state_getnext(StateScan *scan)
{
	return systable_getnext(scan->scan);
}

void
state_endscan(StateScan *scan)
{
	systable_endscan(scan->scan);
	UnregisterSnapshot(scan->snapshot);
}

/*
 * Lock the rows that equal the keys until the transaction ends, as SELECT ...
 * FOR NO KEY UPDATE does, waiting for whoever is changing them.  Returns how many
 * there are once nobody is.
 */
static uint64
lock_rows(Relation rel, Oid index, int nkeys, const ScanKeyData *keys)
{
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	uint64		found;
	bool		changed;

	do
	{
		StateScan	scan;
		HeapTuple	tuple;

		CHECK_FOR_INTERRUPTS();

		found = 0;
		changed = false;
		state_beginscan(&scan, rel, index, nkeys, keys);
		while (!changed && HeapTupleIsValid(tuple = state_getnext(&scan)))
		{
			ItemPointerData tid = tuple->t_self;
			TM_FailureData tmfd;
			TM_Result	result;

			result = table_tuple_lock(rel, &tid, scan.snapshot, slot,
									  GetCurrentCommandId(false),
									  LockTupleNoKeyExclusive, LockWaitBlock,
									  TUPLE_LOCK_FLAG_LOCK_UPDATE_IN_PROGRESS |
									  TUPLE_LOCK_FLAG_FIND_LAST_VERSION,
									  &tmfd);
			ExecClearTuple(slot);

			switch (result)
			{
				case TM_Ok:
					found++;
					changed = tmfd.traversed;
					break;
				case TM_Updated:
				case TM_Deleted:
					changed = true;
					break;
				case TM_SelfModified:
					ereport(ERROR,
							(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
							 errmsg("row of relation \"%s\" is being changed by the command that calls this function",
									RelationGetRelationName(rel)),
							 errhint("Call the function in a command of its own.")));
					break;
				default:
					elog(ERROR, "unexpected table_tuple_lock status: %u", result);
			}
		}
		state_endscan(&scan);

		/*
		 * Where somebody changed or deleted a row first, look again: what is
		 * there now may have other keys, or be a row inserted since.
		 */
	} while (changed);

	ExecDropSingleTupleTableSlot(slot);
	return found;
}

/*
 * Find the rows of many users by one query, which costs less than a look-up in
 * the index for each.  The query returns, as of the snapshot, the ctid of a row
 * and the number of its user, beginning with 1.
 */
static ItemPointer
find_rows(const char *query, text *organization, const UserIds *users, Snapshot snapshot)
{
	Oid			argtypes[2] = {TEXTOID, TEXTARRAYOID};
	Datum		values[2];
	ItemPointer tids = palloc_extended(users->count * sizeof(ItemPointerData),
									   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);

	values[0] = PointerGetDatum(organization);
	values[1] = PointerGetDatum(user_ids_to_array(users));
	execute(query, 2, argtypes, values, NULL, snapshot, save_tids, tids);
	return tids;
}

/* what to do with the rows of find_rows() */
static void
save_tids(void *arg)
{
	ItemPointer tids = arg;

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		Datum		tid = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);
		Datum		n = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &isnull);

		CHECK_FOR_INTERRUPTS();
		tids[DatumGetInt64(n) - 1] = *(ItemPointer) DatumGetPointer(tid);
	}
}

/*
 * Lock a row where it was as of the snapshot.  Returns false if it has changed
 * since.  As long as the snapshot is registered, no other row can be there.
 */
static bool
lock_row(Relation rel, ItemPointer tid, Snapshot snapshot, TupleTableSlot *slot)
{
	TM_FailureData tmfd;
	TM_Result	result;

	result = table_tuple_lock(rel, tid, snapshot, slot, GetCurrentCommandId(false),
							  LockTupleNoKeyExclusive, LockWaitBlock, 0, &tmfd);
	ExecClearTuple(slot);
	return result == TM_Ok;
}

/*
 * Lock the rows of those users who have any, one user after the other, and
 * return these users.  The index begins with organisation and user id, or with
 * user id and organisation.  The query is what find_rows() wants, or NULL.
 * Counts the rows, unless nrows is NULL.
 *
 * Whoever calls this for many users reports a command's progress.
 */
UserIds
state_lock_users(const char *table, const char *index, bool user_id_first,
				 const char *query, text *organization, const UserIds *users,
				 uint64 *nrows)
{
	Relation	rel = state_open(table, RowExclusiveLock);
	Oid			indexid = state_index(rel, index);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	Snapshot	snapshot = NULL;
	ItemPointer tids = NULL;
	UserIds		result;

	if (users->count >= MANY_USERS && query != NULL)
	{
		snapshot = latest_snapshot();
		tids = find_rows(query, organization, users, snapshot);
	}

	if (nrows != NULL)
		*nrows = 0;
	result.count = 0;
	result.ids = palloc(Max(users->count, 1) * sizeof(Datum));
	for (int i = 0; i < users->count; i++)
	{
		ScanKeyData keys[2];
		uint64		found;

		CHECK_FOR_INTERRUPTS();
		if (users->count >= MANY_USERS)
			progress_set(i);
		found = tids != NULL && ItemPointerIsValid(&tids[i]) &&
			lock_row(rel, &tids[i], snapshot, slot);
		if (found == 0)
		{
			state_key(&keys[user_id_first ? 1 : 0], Anum_organization, organization);
			state_key(&keys[user_id_first ? 0 : 1], Anum_user_id, DatumGetTextPP(users->ids[i]));
			found = lock_rows(rel, indexid, 2, keys);
		}
		if (found > 0)
			result.ids[result.count++] = users->ids[i];
		if (nrows != NULL)
			*nrows += found;
	}
	if (snapshot != NULL)
		UnregisterSnapshot(snapshot);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, NoLock);
	return result;
}

/*
 * Raise an error if the SQL function that was called cannot write now.  For
 * those that lock before they execute any command, which would raise it.
 */
void
state_prevent_if_read_only(FunctionCallInfo fcinfo)
{
	char	   *function = psprintf("optout.%s()", get_func_name(fcinfo->flinfo->fn_oid));

	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
}

/*
 * Execute a command as the owner of the tables, under a snapshot taken now.
 * Returns how many rows it changed.  The caller's search_path is in force, so
 * the SQL function must have pinned it.
 */
uint64
state_execute(const char *command, int nargs, Oid *argtypes,
			  Datum *values, const char *nulls)
{
	return execute(command, nargs, argtypes, values, nulls, NULL, NULL, NULL);
}

/*
 * The same for a query that returns one row with one bigint, which is returned.
 */
uint64
state_select_count(const char *query, int nargs, Oid *argtypes,
				   Datum *values, const char *nulls)
{
	uint64		count;

	execute(query, nargs, argtypes, values, nulls, NULL, save_count, &count);
	return count;
}

static void
save_count(void *arg)
{
	bool		isnull;

	*(uint64 *) arg = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
												  SPI_tuptable->tupdesc, 1, &isnull));
	Assert(!isnull);
}

/*
 * The same for a query that returns ids, which are returned in the order of the
 * query.
 */
UserIds
state_select_ids(const char *query, int nargs, Oid *argtypes, Datum *values)
{
	SelectedIds selected;

	selected.context = CurrentMemoryContext;
	execute(query, nargs, argtypes, values, NULL, NULL, save_ids, &selected);
	return selected.ids;
}

static void
save_ids(void *arg)
{
	SelectedIds *selected = arg;
	MemoryContext old_context = MemoryContextSwitchTo(selected->context);
	UserIds    *ids = &selected->ids;

	ids->count = 0;
	ids->ids = palloc_extended(Max(SPI_processed, 1) * sizeof(Datum), MCXT_ALLOC_HUGE);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		Datum		id = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);

		CHECK_FOR_INTERRUPTS();
		ids->ids[ids->count++] = PointerGetDatum(DatumGetTextPCopy(id));
	}
	MemoryContextSwitchTo(old_context);
}

/*
 * Under the given snapshot or, if it is NULL, one taken now.  What it returns is
 * for "rows" to look at.
 */
static uint64
execute(const char *command, int nargs, Oid *argtypes,
		Datum *values, const char *nulls,
		Snapshot snapshot, void (*rows) (void *arg), void *arg)
{
	Oid			save_userid;
	int			save_sec_context;
	SPIPlanPtr	plan;
	Snapshot	own_snapshot = NULL;
	int			rc;
	uint64		processed;

	/* an error resets this at the end of the (sub)transaction */
	GetUserIdAndSecContext(&save_userid, &save_sec_context);
	SetUserIdAndSecContext(state_owner(),
						   save_sec_context | SECURITY_LOCAL_USERID_CHANGE);

	SPI_connect();
	plan = SPI_prepare(command, nargs, argtypes);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));

	if (snapshot == NULL)
		snapshot = own_snapshot = latest_snapshot();
	rc = SPI_execute_snapshot(plan, values, nulls, snapshot, InvalidSnapshot,
							  false, true, 0);
	if (rc < 0)
		elog(ERROR, "SPI_execute_snapshot failed: %s", SPI_result_code_string(rc));
	if (own_snapshot != NULL)
		UnregisterSnapshot(own_snapshot);

	processed = SPI_processed;
	if (rows != NULL)
		rows(arg);

	SPI_finish();
	SetUserIdAndSecContext(save_userid, save_sec_context);
	return processed;
}
