/*
 * settle.c
 *		optout.settle(): waits for the transactions that have asked the filter.
 *
 * A transaction that asks whether an event may be stored first locks the state
 * table, once, until it ends; a prepared one keeps the lock.  settle() waits
 * for whoever holds that lock by now, as CREATE INDEX CONCURRENTLY does, and
 * takes none itself, so nobody ever waits for it.  Who asks later sees all
 * opt-outs that were committed before the call.
 *
 * The lock's mode conflicts with nothing that administration or queries do.
 * It tells those who ingest from those who merely read the table, and it is one
 * that backends take without going through the shared lock table.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/rel.h"
#include "utils/resowner.h"

#include "settle.h"
#include "state.h"

/* what those who ask the filter hold, and what conflicts with that only */
#define ASKING_LOCK RowShareLock
#define SETTLING_LOCK ExclusiveLock

PG_FUNCTION_INFO_V1(optout_settle);

LocalTransactionId settle_registered = InvalidLocalTransactionId;

void
settle_register_now(void)
{
	ResourceOwner owner = CurrentResourceOwner;

	/* a subtransaction that is rolled back must not take the lock with it */
	CurrentResourceOwner = TopTransactionResourceOwner;
	table_close(state_open("opt_out_period", ASKING_LOCK), NoLock);
	CurrentResourceOwner = owner;
	settle_registered = MyLocalTransactionId;
}

/*
 * optout.settle()
 */
Datum
optout_settle(PG_FUNCTION_ARGS)
{
	Relation	rel;
	LOCKTAG		tag;

	/* on a standby nobody can have stored anything */
	PreventCommandDuringRecovery("optout.settle()");

	rel = state_open("opt_out_period", AccessShareLock);
	SET_LOCKTAG_RELATION(tag, MyDatabaseId, RelationGetRelid(rel));
	table_close(rel, AccessShareLock);
	WaitForLockers(tag, SETTLING_LOCK, false);
	PG_RETURN_VOID();
}
