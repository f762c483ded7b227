/*
 * replicas.c
 *		What the view optout.replicas and the procedure optout.settle_replicas()
 *		need that cannot be written in SQL.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "access/xloginsert.h"
#include "access/xlogrecovery.h"
#include "catalog/pg_control.h"
#include "fmgr.h"
#include "utils/guc.h"
#include "utils/pg_lsn.h"

#include "replicas.h"

PG_FUNCTION_INFO_V1(optout_committed_lsn);

/* setting; the view reads it */
static char *no_replicas = NULL;

/*
 * Define the setting this file owns.
 */
void
replicas_define_settings(void)
{
	DefineCustomStringVariable("optout.no_replicas",
							   "Names replication slots and standbys that receive no opt-outs.",
							   "A list of names, separated by commas, which the view optout.replicas leaves out.",
							   &no_replicas,
							   "",
							   PGC_SUSET,
							   GUC_LIST_INPUT,
							   NULL, NULL, NULL);
}

/*
 * optout.committed_lsn()
 *
 * A position in the write-ahead log that comes after every transaction committed
 * by now, and that replicas can confirm.
 *
 * No position that the server reports will do.  The insert position can be ahead
 * of what is ever sent: records of a transaction that is still writing stay in
 * memory, and at the start of a page or segment it is behind a header that belongs
 * to no record.  The flush position can be in the middle of a record, and it need
 * not include a commit with synchronous_commit = off.  So write a record that
 * means nothing, and flush it: its end is what replicas confirm, and all commit
 * records come before it.
 */
Datum
optout_committed_lsn(PG_FUNCTION_ARGS)
{
	XLogRecPtr	end;
	char		nothing = 0;

	/* the end of a record, too */
	if (RecoveryInProgress())
		PG_RETURN_LSN(GetXLogReplayRecPtr(NULL));

	XLogBeginInsert();
	XLogSetRecordFlags(XLOG_MARK_UNIMPORTANT);
	XLogRegisterData(&nothing, sizeof(nothing));
	end = XLogInsert(RM_XLOG_ID, XLOG_NOOP);
	XLogFlush(end);
	PG_RETURN_LSN(end);
}
