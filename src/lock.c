/*
 * lock.c
 *		Locks on users' rows: those of the directory, and their periods.
 *
 * Writers lock the rows they rely on before they take the snapshot to decide
 * by (lock_users(), then tables_execute()).  A row so locked cannot change
 * until they commit, and the snapshot, being younger than the lock, shows its
 * latest version.  That is why there is no serialization failure even in a
 * REPEATABLE READ transaction, where the executor's own FOR UPDATE would raise
 * one for any row changed since the transaction began.
 *
 * Everybody locks rows in the order of their users' ids, so nobody waits for
 * somebody who waits for them.
 *
 * Whoever waits for a row holds no more than AccessShareLock on its table, unless
 * the transaction has done more before.  For purge() (purge.c) lets others wait for
 * rows of the state table while it waits itself for all who hold more on it, as
 * those do who have asked the filter (settle.c).
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "lock.h"
#include "progress.h"
#include "tables.h"

/* columns of the tables of users and of periods */
#define Anum_organization 1
#define Anum_user_id 2

static uint64 lock_all_rows(Relation rel, Oid index, int nkeys, const ScanKeyData *keys, LockTupleMode mode);
static ItemPointer lock_find_rows(const char *query, text *organization, const UserIds *users,
								  Snapshot snapshot);
static void lock_save_tids(void *arg);
static bool lock_row_at(Relation rel, ItemPointer tid, Snapshot snapshot, LockTupleMode mode,
						TupleTableSlot *slot);

/*
 * Lock the rows that equal the keys until the transaction ends, as SELECT ...
 * FOR does, waiting for whoever is changing them.  Returns how many there are once
 * nobody is.
 */
static uint64
lock_all_rows(Relation rel, Oid index, int nkeys, const ScanKeyData *keys, LockTupleMode mode)
{
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	uint64		found;
	bool		changed;

	do
	{
		TablesScan	scan;
		HeapTuple	tuple;

		CHECK_FOR_INTERRUPTS();

		found = 0;
		changed = false;
		tables_beginscan(&scan, rel, index, nkeys, keys);
		while (!changed && HeapTupleIsValid(tuple = tables_getnext(&scan)))
		{
			ItemPointerData tid = tuple->t_self;
			TM_FailureData tmfd;
			TM_Result	result;

			result = table_tuple_lock(rel, &tid, scan.snapshot, slot,
									  GetCurrentCommandId(false),
									  mode, LockWaitBlock,
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
		tables_endscan(&scan);

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
lock_find_rows(const char *query, text *organization, const UserIds *users, Snapshot snapshot)
{
	Oid			argtypes[2] = {TEXTOID, TEXTARRAYOID};
	Datum		values[2];
	ItemPointer tids = palloc_extended(users->count * sizeof(ItemPointerData),
									   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);

	values[0] = PointerGetDatum(organization);
	values[1] = PointerGetDatum(user_ids_to_array(users));
	tables_execute_under(query, 2, argtypes, values, NULL, snapshot, lock_save_tids, tids);
	return tids;
}

/* what to do with the rows of lock_find_rows() */
static void
lock_save_tids(void *arg)
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
lock_row_at(Relation rel, ItemPointer tid, Snapshot snapshot, LockTupleMode mode, TupleTableSlot *slot)
{
	TM_FailureData tmfd;
	TM_Result	result;

	result = table_tuple_lock(rel, tid, snapshot, slot, GetCurrentCommandId(false),
							  mode, LockWaitBlock, 0, &tmfd);
	ExecClearTuple(slot);
	return result == TM_Ok;
}

/*
 * Lock the rows of those users who have any, one user after the other, and
 * return these users.  The index begins with organisation and user id, or with
 * user id and organisation.  The query is what lock_find_rows() wants, or NULL.
 * Counts the rows, unless nrows is NULL.
 *
 * Whoever calls this for many users reports a command's progress.
 */
UserIds
lock_users(const char *table, const char *index, bool user_id_first,
		   const char *query, text *organization, const UserIds *users,
		   LockTupleMode mode, uint64 *nrows)
{
	Relation	rel = tables_open(table, AccessShareLock);
	Oid			indexid = tables_index(rel, index);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	Snapshot	snapshot = NULL;
	ItemPointer tids = NULL;
	UserIds		result;

	if (users->count >= MANY_USERS && query != NULL)
	{
		snapshot = tables_snapshot();
		tids = lock_find_rows(query, organization, users, snapshot);
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
			lock_row_at(rel, &tids[i], snapshot, mode, slot);
		if (found == 0)
		{
			tables_key(&keys[user_id_first ? 1 : 0], Anum_organization, organization);
			tables_key(&keys[user_id_first ? 0 : 1], Anum_user_id, DatumGetTextPP(users->ids[i]));
			found = lock_all_rows(rel, indexid, 2, keys, mode);
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
