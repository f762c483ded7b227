/*
 * lock.c
 *		Locks on users' rows: those of the directory, and their periods.
 *
 * Writers lock the rows that they rely on before they take the snapshot by
 * which they decide (lock_users(), then tables_execute()).  A row so locked
 * cannot change until they commit, and the snapshot, being younger than the
 * lock, shows its latest version.  That is why there is no serialization
 * failure even in a REPEATABLE READ transaction, where the executor's own FOR
 * UPDATE would raise one for any row changed since the transaction began.
 *
 * Everybody locks rows in the order of their users' ids, so nobody waits for
 * somebody who waits for them.
 *
 * A backend that waits for a row holds no more than AccessShareLock on its
 * table, unless its transaction has done more before.  Otherwise it could
 * deadlock with purge() (purge.c), which makes others wait for rows of the
 * state table while it waits for all transactions that hold a stronger lock
 * on it, such as those that have asked the filter (settle.c).
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "miscadmin.h"

#include "compat.h"
#include "lock.h"
#include "progress.h"
#include "tables.h"

static uint64 lock_all_rows(Relation rel, Oid index, int nkeys, const ScanKeyData *keys, LockTupleMode mode);
static bool lock_row_at_once(TablesWalk *walk, HeapTuple tuple, LockTupleMode mode, TupleTableSlot *slot);

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
 * Lock a row if that takes no waiting and it has not changed since the snapshot.
 */
static bool
lock_row_at_once(TablesWalk *walk, HeapTuple tuple, LockTupleMode mode, TupleTableSlot *slot)
{
	ItemPointerData tid = tuple->t_self;
	TM_FailureData tmfd;
	TM_Result	result;

	result = table_tuple_lock(walk->rel, &tid, walk->snapshot, slot, GetCurrentCommandId(false),
							  mode, LockWaitSkip, 0, &tmfd);
	ExecClearTuple(slot);
	return result == TM_Ok;
}

/*
 * Lock the rows of those users who have any, one user after the other, and
 * return these users.  The index begins with organization and user id, or with
 * user id and organization.  Counts the rows, unless nrows is NULL.
 *
 * Whoever calls this for many users reports a command's progress.
 */
UserIds
lock_users(const char *table, const char *index, text *organization,
		   const UserIds *users, LockTupleMode mode, uint64 *nrows)
{
	Relation	rel = tables_open(table, AccessShareLock);
	Oid			indexid = tables_index(rel, index);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TablesWalk	walk;
	UserIds		result;

	if (nrows != NULL)
		*nrows = 0;
	result.count = 0;
	result.ids = palloc_extended(Max(users->count, 1) * sizeof(Datum), MCXT_ALLOC_HUGE);
	tables_beginwalk(&walk, rel, indexid, organization, NULL);
	for (int i = 0; i < users->count; i++)
	{
		text	   *user_id = DatumGetTextPP(users->ids[i]);
		HeapTuple	tuple;
		uint64		found = 0;

		CHECK_FOR_INTERRUPTS();
		if (users->count >= MANY_USERS)
			progress_set(i);
		for (tuple = tables_walk_to(&walk, user_id);
			 tuple != NULL && lock_row_at_once(&walk, tuple, mode, slot);
			 tuple = tables_walk_on(&walk))
			found++;
		if (tuple != NULL)
		{
			ScanKeyData keys[2];

			/* after waiting, see the other users' rows as they are then */
			tables_key(&keys[walk.id_first ? 1 : 0], 1, organization);
			tables_key(&keys[walk.id_first ? 0 : 1], walk.attnum, user_id);
			tables_endwalk(&walk);
			found = lock_all_rows(rel, indexid, 2, keys, mode);
			tables_beginwalk(&walk, rel, indexid, organization, NULL);
		}
		if (found > 0)
			result.ids[result.count++] = users->ids[i];
		if (nrows != NULL)
			*nrows += found;
	}
	tables_endwalk(&walk);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, NoLock);
	return result;
}
