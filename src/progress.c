/*
 * progress.c
 *		How far long commands have come, for optout.progress (status.c) and for the
 *		server's log.
 *
 * It is for those that administer many users at once.  A million take seconds, on
 * a slow disk or behind locks minutes, and whoever waits for them has to decide
 * whether to go on waiting.  A purge may take long for a single user.
 *
 * A command that runs has an entry in shared memory, which others read without a
 * lock.  A backend claims a free one by writing its process id to it; after that
 * it alone writes there.  Where there is no shared memory, or no free entry, the
 * command is not seen, and goes on all the same.
 *
 * What belongs together is changed between two increments of the entry's counter,
 * which is odd meanwhile.  A reader who finds it odd, or another than before,
 * reads again.
 *
 * Commands may run within each other, as triggers call functions.  Each belongs
 * to the subtransaction it began in, whose abort gives its entry back, be it by
 * an error, a cancellation or the end of the session.
 *
 * The adding of keys is no such command: sessions go on with it in turns, and
 * how far they have come is kept with the database (coverage.c).
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "postmaster/startup.h"
#include "utils/memutils.h"

#include "progress.h"
#include "shared.h"

/* the clock is looked at after so many steps; a power of two */
#define STEPS_PER_LOOK 1024

/* a command; in the memory of the subtransaction */
typedef struct Running
{
	struct Running *outer;		/* the command that this one runs within */
	int			nesting;		/* of the subtransaction */
	SharedProgress *entry;		/* NULL if it has none */
	ProgressCommand command;
	ProgressPhase phase;
	uint64		done;
	uint64		total;
	uint32		steps;
	instr_time	begun;
	double		logged;			/* milliseconds from then to the last message */
} Running;

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

Running    *progress_running = NULL;

static SharedProgress *progress_claim_entry(void);
static void progress_begin_change(SharedProgress *entry);
static void progress_end_change(SharedProgress *entry);
static void progress_write_entry(const Running *running);
static void progress_release_entry(SharedProgress *entry);
static void progress_end_innermost(void);
static void progress_log(Running *running);
static void progress_end_transaction(XactEvent event, void *arg);
static void progress_end_subtransaction(SubXactEvent event, SubTransactionId subid,
										SubTransactionId parent, void *arg);

void
progress_install_hooks(void)
{
	RegisterXactCallback(progress_end_transaction, NULL);
	RegisterSubXactCallback(progress_end_subtransaction, NULL);
}

/*
 * A free entry, which is this backend's from now on, or NULL.
 */
static SharedProgress *
progress_claim_entry(void)
{
	for (int i = 0; shared != NULL && i < MAX_COMMANDS; i++)
	{
		uint32		nobody = 0;

		if (pg_atomic_compare_exchange_u32(&shared->commands[i].pid, &nobody, MyProcPid))
			return &shared->commands[i];
	}
	return NULL;
}

/*
 * Readers take nothing of what is written from here on ...
 */
static void
progress_begin_change(SharedProgress *entry)
{
	pg_atomic_write_u32(&entry->changes, pg_atomic_read_u32(&entry->changes) + 1);
	pg_write_barrier();
}

/*
 * ... to here, before all of it is.
 */
static void
progress_end_change(SharedProgress *entry)
{
	pg_write_barrier();
	pg_atomic_write_u32(&entry->changes, pg_atomic_read_u32(&entry->changes) + 1);
}

/*
 * Show the command, and which phase it is in.
 */
static void
progress_write_entry(const Running *running)
{
	SharedProgress *entry = running->entry;

	if (entry == NULL)
		return;
	progress_begin_change(entry);
	pg_atomic_write_u32(&entry->database, MyDatabaseId);
	pg_atomic_write_u32(&entry->command, running->command);
	pg_atomic_write_u32(&entry->phase, running->phase);
	pg_atomic_write_u64(&entry->done, running->done);
	pg_atomic_write_u64(&entry->total, running->total);
	progress_end_change(entry);
}

static void
progress_release_entry(SharedProgress *entry)
{
	if (entry == NULL)
		return;
	/* whoever claims it next is not to be seen with what this one did */
	progress_begin_change(entry);
	pg_atomic_write_u32(&entry->command, PROGRESS_NONE);
	progress_end_change(entry);
	pg_write_barrier();
	pg_atomic_write_u32(&entry->pid, 0);
}

/*
 * A command begins, with this phase.
 */
void
progress_begin(ProgressCommand command, ProgressPhase phase, uint64 total)
{
	Running    *running;

	shared_attach_to_report();
	running = MemoryContextAllocZero(CurTransactionContext, sizeof(Running));
	running->outer = progress_running;
	running->nesting = GetCurrentTransactionNestLevel();
	running->command = command;
	INSTR_TIME_SET_CURRENT(running->begun);

	/* from here on nothing can fail */
	running->entry = progress_claim_entry();
	progress_running = running;
	progress_phase(phase, total);
}

/*
 * The innermost command goes on to another phase, with so many steps.
 */
void
progress_phase(ProgressPhase phase, uint64 total)
{
	progress_running->phase = phase;
	progress_running->done = 0;
	progress_running->total = total;
	progress_write_entry(progress_running);
	progress_log(progress_running);
}

/*
 * So many of them are done.
 */
void
progress_set(uint64 done)
{
	Running    *running = progress_running;

	/* the total may have been a guess */
	running->done = Min(done, running->total);
	if (running->entry != NULL)
		pg_atomic_write_u64(&running->entry->done, running->done);
	if (++running->steps % STEPS_PER_LOOK == 0)
		progress_log(running);
}

/*
 * A row that the innermost command has written, or one of its triggers, has been
 * made known to the filter.  That is done when all have been written.
 */
void
progress_row_is_known(void)
{
	Running    *running = progress_running;

	if (running->phase == PROGRESS_WRITING_PERIODS || running->phase == PROGRESS_DELETING)
		progress_phase(PROGRESS_UPDATING_FILTER, running->total);
	if (running->phase == PROGRESS_UPDATING_FILTER)
		progress_set(running->done + 1);
}

/*
 * The innermost command is done.
 */
void
progress_end(void)
{
	Running    *running = progress_running;

	progress_end_innermost();
	pfree(running);
}

/* its memory may be gone before long */
static void
progress_end_innermost(void)
{
	progress_release_entry(progress_running->entry);
	progress_running = progress_running->outer;
}

/*
 * Say in the server's log how far the command has come, if it is time to.
 */
static void
progress_log(Running *running)
{
	instr_time	elapsed;
	double		milliseconds;

	if (log_startup_progress_interval == 0)
		return;
	INSTR_TIME_SET_CURRENT(elapsed);
	INSTR_TIME_SUBTRACT(elapsed, running->begun);
	milliseconds = INSTR_TIME_GET_MILLISEC(elapsed);
	if (milliseconds - running->logged < log_startup_progress_interval)
		return;
	running->logged = milliseconds;

	/* the statement may name each user */
	ereport(LOG,
			(errmsg("optout: %s, " UINT64_FORMAT " of " UINT64_FORMAT " %s, elapsed time: %ld.%02d s",
					commands[running->command].logged,
					running->done, running->total, phases[running->phase].logged,
					(long) (milliseconds / 1000), (int) ((int64) milliseconds % 1000 / 10)),
			 errhidestmt(true), errhidecontext(true)));
}

/*
 * Transaction callback.  Nothing is running at a commit.
 */
static void
progress_end_transaction(XactEvent event, void *arg pg_attribute_unused())
{
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_PARALLEL_ABORT)
	{
		while (progress_running != NULL)
			progress_end_innermost();
	}
}

/*
 * Subtransaction callback.
 */
static void
progress_end_subtransaction(SubXactEvent event,
							SubTransactionId subid pg_attribute_unused(),
							SubTransactionId parent pg_attribute_unused(),
							void *arg pg_attribute_unused())
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		while (progress_running != NULL &&
			   progress_running->nesting >= GetCurrentTransactionNestLevel())
			progress_end_innermost();
	}
}

/*
 * Read one of MAX_COMMANDS entries.  Returns false where there is no command, or
 * one of another database.
 */
bool
progress_read(int i, ProgressRow *row)
{
	SharedProgress *entry = &shared->commands[i];
	ProgressCommand command;
	ProgressPhase phase;
	Oid			database;
	uint32		changes;

	do
	{
		CHECK_FOR_INTERRUPTS();
		changes = pg_atomic_read_u32(&entry->changes);
		pg_read_barrier();
		row->pid = pg_atomic_read_u32(&entry->pid);
		database = pg_atomic_read_u32(&entry->database);
		command = pg_atomic_read_u32(&entry->command);
		phase = pg_atomic_read_u32(&entry->phase);
		row->done = pg_atomic_read_u64(&entry->done);
		row->total = pg_atomic_read_u64(&entry->total);
		pg_read_barrier();
	} while (changes % 2 != 0 || changes != pg_atomic_read_u32(&entry->changes));

	row->command = commands[command].name;
	row->phase = phases[phase].name;
	return row->pid != 0 && command != PROGRESS_NONE && database == MyDatabaseId;
}
