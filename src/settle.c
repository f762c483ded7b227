/*
 * settle.c
 *		optout.settle(): waits for the transactions that have asked the filter.
 *
 * A transaction that asks whether an event may be stored first locks the
 * state table, once, until it ends; a prepared one keeps the lock.  settle()
 * waits for whoever holds that lock by now, as CREATE INDEX CONCURRENTLY
 * does, and takes none itself, so nobody ever waits for it.  Transactions
 * that ask later see all opt-outs that were committed before the call.
 *
 * So the opt-outs must have been committed, and the caller must not have
 * asked itself: it cannot wait for itself.
 *
 * The lock is the one that coverage_hold() takes, or where somebody alters
 * the table right now RowShareLock.  Neither conflicts with anything that
 * administration or queries do, and both are eligible for fast-path locking.
 * Plain readers of the table (AccessShareLock) are not waited for.
 * Transactions that write to it or vacuum it are, though they may not have
 * asked: no lock mode tells them apart.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/twophase.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "coverage.h"
#include "settle.h"
#include "tables.h"

/* what those who ask hold if nothing stronger, and what conflicts with either */
#define ASKING_LOCK RowShareLock
#define SETTLING_LOCK ExclusiveLock

/* with a timeout, how often to look whether a transaction has ended, in ms */
#define SETTLE_INTERVAL 20

PG_FUNCTION_INFO_V1(optout_settle);
PG_FUNCTION_INFO_V1(optout_settle_1_2);

LocalTransactionId settle_registered = InvalidLocalTransactionId;

static VirtualTransactionId *settle_whom(void);
static void settle_wait(VirtualTransactionId *vxids, Interval *timeout);
static void settle_time_out(VirtualTransactionId *vxids, Interval *timeout);

void
settle_register_now(void)
{
	ResourceOwner owner = CurrentResourceOwner;

	/* a subtransaction that is rolled back must not take the lock with it */
	CurrentResourceOwner = TopTransactionResourceOwner;
	if (!coverage_hold())
		table_close(tables_open("opt_out_period", ASKING_LOCK), NoLock);
	CurrentResourceOwner = owner;
	settle_registered = MyLocalTransactionId;
}

/*
 * optout.settle(timeout)
 */
Datum
optout_settle(PG_FUNCTION_ARGS)
{
	/* before 1.2 there was no timeout */
	bool		limited = PG_NARGS() > 0 && !PG_ARGISNULL(0);

	/* on a standby nobody can have stored anything */
	PreventCommandDuringRecovery("optout.settle()");

	settle_check_transaction("optout.settle()");
	if (IsolationUsesXactSnapshot())
		ereport(WARNING,
				(errmsg("this transaction does not see events that are stored while optout.settle() waits"),
				 errdetail("Its isolation level is %s.",
						   XactIsoLevel == XACT_SERIALIZABLE ? "SERIALIZABLE" : "REPEATABLE READ"),
				 errhint("Delete them in another transaction.")));
	settle_wait(settle_whom(), limited ? PG_GETARG_INTERVAL_P(0) : NULL);
	PG_RETURN_VOID();
}

/*
 * The same in the SQL of 1.2; the library of 1.1 would not end with the timeout.
 */
Datum
optout_settle_1_2(PG_FUNCTION_ARGS)
{
	return optout_settle(fcinfo);
}

/*
 * Raise an error where waiting for others would settle nothing.
 */
void
settle_check_transaction(const char *routine)
{
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run in a transaction that has written", routine),
				 errdetail("Opt-outs of this transaction are not in force before it is committed."),
				 errhint("Commit first.")));
	if (settle_registered == MyLocalTransactionId)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run in a transaction that has asked the filter", routine),
				 errdetail("It would have to wait for itself."),
				 errhint("Commit first.")));
}

/*
 * Wait for all who have asked by now, and for as long as it takes.
 */
void
settle(void)
{
	settle_wait(settle_whom(), NULL);
}

/*
 * The transactions that have asked, ending with an invalid one.
 */
static VirtualTransactionId *
settle_whom(void)
{
	Relation	rel = tables_open("opt_out_period", AccessShareLock);
	LOCKTAG		tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, RelationGetRelid(rel));
	table_close(rel, AccessShareLock);
	return GetLockConflicts(&tag, SETTLING_LOCK, NULL);
}

/*
 * Wait until these transactions have ended, or the time is over.
 */
static void
settle_wait(VirtualTransactionId *vxids, Interval *timeout)
{
	TimestampTz deadline = 0;

	if (timeout != NULL)
		deadline = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
														   TimestampTzGetDatum(GetCurrentTimestamp()),
														   IntervalPGetDatum(timeout)));

	for (; VirtualTransactionIdIsValid(*vxids); vxids++)
	{
		/* without a timeout it waits for the lock that each transaction holds */
		while (!VirtualXactLock(*vxids, timeout == NULL))
		{
			long		rest = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

			if (rest <= 0)
				settle_time_out(vxids, timeout);
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 Min(rest, SETTLE_INTERVAL), PG_WAIT_EXTENSION);
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
	}
}

/*
 * Raise the error that names those of these transactions that have not ended.
 */
static void
settle_time_out(VirtualTransactionId *vxids, Interval *timeout)
{
	StringInfoData running;

	initStringInfo(&running);
	for (; VirtualTransactionIdIsValid(*vxids); vxids++)
	{
		TransactionId prepared;
		bool		more;
		PGPROC	   *proc;

		if (VirtualXactLock(*vxids, false))
			continue;
		prepared = VirtualTransactionIdIsRecoveredPreparedXact(*vxids) ?
			vxids->localTransactionId : TwoPhaseGetXidByVirtualXID(*vxids, &more);
		proc = ProcNumberGetProc(VXID_PROC_NUMBER(*vxids));
		if (TransactionIdIsValid(prepared))
			appendStringInfo(&running, "%sprepared transaction %u", running.len > 0 ? ", " : "", prepared);
		else if (proc != NULL)
			appendStringInfo(&running, "%sprocess %d", running.len > 0 ? ", " : "", proc->pid);
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("transactions that may have asked the filter have not ended within %s",
					DatumGetCString(DirectFunctionCall1(interval_out, IntervalPGetDatum(timeout)))),
			 errdetail("Still running: %s.", running.data),
			 errhint("See pg_stat_activity and pg_prepared_xacts.")));
}
