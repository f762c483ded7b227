/*
 * progress.c
 *		How far long commands have come, for optout.progress (status.c) and for the
 *		server's log.
 *
 * It is for commands on many users.  A million users take seconds, on a slow
 * disk or behind locks minutes, and an administrator has to decide whether to
 * go on waiting.  A purge may take long for a single user.
 *
 * Progress is kept where the server keeps that of its own commands, in the
 * session's entry of pg_stat_activity.  Others read it there without a lock,
 * and when a transaction or subtransaction is aborted, the server clears it.
 * The server's own views tell commands apart by number, and ours has a number
 * of its own.
 *
 * A session shows one command at a time.  A command that a trigger calls
 * within another is shown instead of that one, but not instead of one of the
 * server's own, such as COPY.
 *
 * The adding of keys is no such command: sessions go on with it in turns, and
 * how far they have come is kept with the database (coverage.c).
 */
#include "postgres.h"

#include "miscadmin.h"
#include "postmaster/startup.h"
#include "utils/backend_progress.h"
#include "utils/backend_status.h"

#include "compat.h"
#include "progress.h"
#include "shared.h"

/* the number of our commands; the server's begin with 0 */
#define PROGRESS_COMMAND_OPTOUT ((ProgressCommandType) 0x4f50544f)

/* the parameters that we show; the last two are for the log, in microseconds */
enum
{
	PARAM_COMMAND,
	PARAM_PHASE,
	PARAM_DONE,
	PARAM_TOTAL,
	PARAM_BEGUN,
	PARAM_LOGGED
};

/* the clock is looked at after so many steps */
#define STEPS_PER_LOOK 1024

/* what it is called in the view, and in the log */
typedef struct Wording
{
	const char *name;
	const char *logged;
} Wording;

static const Wording commands[] = {
	[PROGRESS_ENROLL] = {"enroll", "enrolling"},
	[PROGRESS_OPT_OUT] = {"opt out", "opting out"},
	[PROGRESS_OPT_IN] = {"opt in", "opting in"},
	[PROGRESS_FORGET] = {"forget", "forgetting"},
	[PROGRESS_LINK] = {"link", "linking"},
	[PROGRESS_UNLINK] = {"unlink", "unlinking"},
	[PROGRESS_PURGE] = {"purge", "purging"},
};

/* in the log: so many of so many ... */
static const Wording phases[] = {
	[PROGRESS_LOCKING_USERS] = {"locking users", "users locked"},
	[PROGRESS_LOCKING_PERIODS] = {"locking periods", "users' periods locked"},
	[PROGRESS_LOCKING_OPEN_PERIODS] = {"locking open periods", "users' open periods locked"},
	[PROGRESS_WRITING_USERS] = {"writing users", "users written"},
	[PROGRESS_WRITING_PERIODS] = {"writing periods", "periods written"},
	[PROGRESS_DELETING] = {"deleting", "periods deleted"},
	[PROGRESS_UPDATING_FILTER] = {"updating the filter", "periods made known to the filter"},
	[PROGRESS_LOCKING_ALIASES] = {"locking aliases", "aliases locked"},
	[PROGRESS_WRITING_ALIASES] = {"writing aliases", "aliases written"},
	[PROGRESS_CHECKING_ALIASES] = {"checking aliases", "aliases checked"},
	[PROGRESS_LOCKING_TABLES] = {"locking tables", "tables locked"},
	[PROGRESS_SETTLING] = {"waiting for transactions", "transactions waited for"},
	[PROGRESS_PURGING] = {"deleting events", "tables purged"},
};

static bool progress_is_shown(void);
static void progress_log(void);

/*
 * Is a command of ours being shown?
 */
static bool
progress_is_shown(void)
{
	return MyBEEntry != NULL && MyBEEntry->st_progress_command == PROGRESS_COMMAND_OPTOUT;
}

/*
 * A command begins, with this phase.
 */
void
progress_begin(ProgressCommand command, ProgressPhase phase, uint64 total)
{
	static const int params[] = {PARAM_COMMAND, PARAM_PHASE, PARAM_TOTAL, PARAM_BEGUN};
	int64		values[] = {command, phase, (int64) total, (int64) shared_clock()};

	if (MyBEEntry == NULL ||
		(MyBEEntry->st_progress_command != PROGRESS_COMMAND_INVALID && !progress_is_shown()))
		return;
	pgstat_progress_start_command(PROGRESS_COMMAND_OPTOUT, InvalidOid);
	pgstat_progress_update_multi_param(lengthof(params), params, values);
}

/*
 * The command goes on to another phase, with so many steps.
 */
void
progress_phase(ProgressPhase phase, uint64 total)
{
	static const int params[] = {PARAM_PHASE, PARAM_DONE, PARAM_TOTAL};
	int64		values[] = {phase, 0, (int64) total};

	if (!progress_is_shown())
		return;
	pgstat_progress_update_multi_param(lengthof(params), params, values);
	progress_log();
}

/*
 * So many of them are done.
 */
void
progress_set(uint64 done)
{
	if (!progress_is_shown())
		return;
	/* the total may have been a guess */
	pgstat_progress_update_param(PARAM_DONE, Min((int64) done, MyBEEntry->st_progress_param[PARAM_TOTAL]));
	if (done % STEPS_PER_LOOK == 0)
		progress_log();
}

/*
 * A row that the command has written, or one of its triggers, has been made known
 * to the filter.  That is done when all have been written.
 */
void
progress_count_row(void)
{
	int64		phase;

	if (!progress_is_shown())
		return;
	phase = MyBEEntry->st_progress_param[PARAM_PHASE];
	if (phase == PROGRESS_WRITING_PERIODS || phase == PROGRESS_DELETING)
		progress_phase(PROGRESS_UPDATING_FILTER, MyBEEntry->st_progress_param[PARAM_TOTAL]);
	else if (phase != PROGRESS_UPDATING_FILTER)
		return;
	progress_set(MyBEEntry->st_progress_param[PARAM_DONE] + 1);
}

/*
 * The command is done.
 */
void
progress_end(void)
{
	if (progress_is_shown())
		pgstat_progress_end_command();
}

/*
 * Say in the server's log how far the command has come, if it is time to.
 */
static void
progress_log(void)
{
	volatile int64 *param = MyBEEntry->st_progress_param;
	int64		elapsed = (int64) shared_clock() - param[PARAM_BEGUN];

	if (log_startup_progress_interval == 0 ||
		elapsed - param[PARAM_LOGGED] < log_startup_progress_interval * INT64CONST(1000))
		return;
	pgstat_progress_update_param(PARAM_LOGGED, elapsed);

	/* the statement may name each user */
	ereport(LOG,
			(errmsg("optout: %s, " INT64_FORMAT " of " INT64_FORMAT " %s, elapsed time: %ld.%02d s",
					commands[param[PARAM_COMMAND]].logged,
					param[PARAM_DONE], param[PARAM_TOTAL], phases[param[PARAM_PHASE]].logged,
					(long) (elapsed / 1000000), (int) (elapsed % 1000000 / 10000)),
			 errhidestmt(true), errhidecontext(true)));
}

/*
 * The commands that are shown in this database, as ProgressRow.
 */
List *
progress_read(void)
{
	List	   *result = NIL;
	int			nentries = pgstat_fetch_stat_numbackends();

	for (int i = 1; i <= nentries; i++)
	{
		LocalPgBackendStatus *local = pgstat_get_local_beentry_by_index(i);
		PgBackendStatus *entry = local != NULL ? &local->backendStatus : NULL;
		ProgressRow *row;

		if (entry == NULL || entry->st_progress_command != PROGRESS_COMMAND_OPTOUT ||
			entry->st_databaseid != MyDatabaseId ||
			entry->st_progress_param[PARAM_COMMAND] == PROGRESS_NONE)
			continue;
		row = palloc(sizeof(ProgressRow));
		row->pid = entry->st_procpid;
		row->command = commands[entry->st_progress_param[PARAM_COMMAND]].name;
		row->phase = phases[entry->st_progress_param[PARAM_PHASE]].name;
		row->done = entry->st_progress_param[PARAM_DONE];
		row->total = entry->st_progress_param[PARAM_TOTAL];
		result = lappend(result, row);
	}
	return result;
}
