/*
 * progress.c
 *		How far long commands have come: optout.progress, optout.load_progress(),
 *		and messages in the server's log.
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
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "postmaster/startup.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#include "coverage.h"
#include "progress.h"
#include "shared.h"

/* the clock is looked at after so many steps; a power of two */
#define STEPS_PER_LOOK 1024

PG_FUNCTION_INFO_V1(optout_command_progress);
PG_FUNCTION_INFO_V1(optout_load_progress);

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

/* what a reader sees of an entry */
typedef struct ProgressRow
{
	int			pid;
	Oid			database;
	ProgressCommand command;
	ProgressPhase phase;
	uint64		done;
	uint64		total;
} ProgressRow;

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
};

Running    *progress_running = NULL;

static SharedProgress *claim_entry(void);
static void begin_change(SharedProgress *entry);
static void end_change(SharedProgress *entry);
static void write_entry(const Running *running);
static void release_entry(SharedProgress *entry);
static void end_innermost(void);
static void log_progress(Running *running);
static bool read_entry(SharedProgress *entry, ProgressRow *row);
static void progress_put_row(ReturnSetInfo *result, int pid, const char *command, const char *phase,
							 uint64 done, uint64 total);
static void end_transaction(XactEvent event, void *arg);
static void end_subtransaction(SubXactEvent event, SubTransactionId subid,
							   SubTransactionId parent, void *arg);

void
progress_install_hooks(void)
{
	RegisterXactCallback(end_transaction, NULL);
	RegisterSubXactCallback(end_subtransaction, NULL);
}

/*
 * A free entry, which is this backend's from now on, or NULL.
 */
static SharedProgress *
claim_entry(void)
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
begin_change(SharedProgress *entry)
{
	pg_atomic_write_u32(&entry->changes, pg_atomic_read_u32(&entry->changes) + 1);
	pg_write_barrier();
}

/*
 * ... to here, before all of it is.
 */
static void
end_change(SharedProgress *entry)
{
	pg_write_barrier();
	pg_atomic_write_u32(&entry->changes, pg_atomic_read_u32(&entry->changes) + 1);
}

/*
 * Show the command, and which phase it is in.
 */
static void
write_entry(const Running *running)
{
	SharedProgress *entry = running->entry;

	if (entry == NULL)
		return;
	begin_change(entry);
	pg_atomic_write_u32(&entry->database, MyDatabaseId);
	pg_atomic_write_u32(&entry->command, running->command);
	pg_atomic_write_u32(&entry->phase, running->phase);
	pg_atomic_write_u64(&entry->done, running->done);
	pg_atomic_write_u64(&entry->total, running->total);
	end_change(entry);
}

static void
release_entry(SharedProgress *entry)
{
	if (entry == NULL)
		return;
	/* whoever claims it next is not to be seen with what this one did */
	begin_change(entry);
	pg_atomic_write_u32(&entry->command, PROGRESS_NONE);
	end_change(entry);
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
	running->entry = claim_entry();
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
	write_entry(progress_running);
	log_progress(progress_running);
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
		log_progress(running);
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

	end_innermost();
	pfree(running);
}

/* its memory may be gone before long */
static void
end_innermost(void)
{
	release_entry(progress_running->entry);
	progress_running = progress_running->outer;
}

/*
 * Say in the server's log how far the command has come, if it is time to.
 */
static void
log_progress(Running *running)
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
end_transaction(XactEvent event, void *arg pg_attribute_unused())
{
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_PARALLEL_ABORT)
	{
		while (progress_running != NULL)
			end_innermost();
	}
}

/*
 * Subtransaction callback.
 */
static void
end_subtransaction(SubXactEvent event,
				   SubTransactionId subid pg_attribute_unused(),
				   SubTransactionId parent pg_attribute_unused(),
				   void *arg pg_attribute_unused())
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		while (progress_running != NULL &&
			   progress_running->nesting >= GetCurrentTransactionNestLevel())
			end_innermost();
	}
}

/*
 * Read an entry.  Returns false where there is no command, or one of another
 * database.
 */
static bool
read_entry(SharedProgress *entry, ProgressRow *row)
{
	uint32		changes;

	do
	{
		CHECK_FOR_INTERRUPTS();
		changes = pg_atomic_read_u32(&entry->changes);
		pg_read_barrier();
		row->pid = pg_atomic_read_u32(&entry->pid);
		row->database = pg_atomic_read_u32(&entry->database);
		row->command = pg_atomic_read_u32(&entry->command);
		row->phase = pg_atomic_read_u32(&entry->phase);
		row->done = pg_atomic_read_u64(&entry->done);
		row->total = pg_atomic_read_u64(&entry->total);
		pg_read_barrier();
	} while (changes % 2 != 0 || changes != pg_atomic_read_u32(&entry->changes));

	return row->pid != 0 && row->command != PROGRESS_NONE && row->database == MyDatabaseId;
}

static void
progress_put_row(ReturnSetInfo *result, int pid, const char *command, const char *phase,
				 uint64 done, uint64 total)
{
	Datum		values[5];
	bool		nulls[5] = {false};

	values[0] = Int32GetDatum(pid);
	values[1] = CStringGetTextDatum(command);
	values[2] = CStringGetTextDatum(phase);
	values[3] = Int64GetDatum((int64) done);
	values[4] = Int64GetDatum((int64) total);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * optout.command_progress(), behind the view optout.progress
 */
Datum
optout_command_progress(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	SharedDatabase load;

	InitMaterializedSRF(fcinfo, 0);
	shared_attach_to_report();
	if (coverage_loading(&load))
		progress_put_row(result, load.pid, "add keys", "reading the table", load.next, load.nblocks);
	for (int i = 0; shared != NULL && i < MAX_COMMANDS; i++)
	{
		ProgressRow row;

		if (read_entry(&shared->commands[i], &row))
			progress_put_row(result, row.pid, commands[row.command].name, phases[row.phase].name,
							 row.done, row.total);
	}
	return (Datum) 0;
}

/*
 * optout.load_progress(), behind the view optout.status: how far the adding of
 * this database's keys has come, from 0 to 1.
 */
Datum
optout_load_progress(PG_FUNCTION_ARGS)
{
	SharedDatabase load;

	if (!coverage_loading(&load))
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8((double) load.next / load.nblocks);
}
