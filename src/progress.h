/*
 * progress.h
 *		How far long commands have come.
 */
#ifndef OPTOUT_PROGRESS_H
#define OPTOUT_PROGRESS_H

typedef enum ProgressCommand
{
	PROGRESS_NONE,
	PROGRESS_ENROLL,
	PROGRESS_OPT_OUT,
	PROGRESS_OPT_IN,
	PROGRESS_FORGET,
	PROGRESS_LINK,
	PROGRESS_UNLINK,
	PROGRESS_PURGE
} ProgressCommand;

typedef enum ProgressPhase
{
	PROGRESS_LOCKING_USERS,
	PROGRESS_LOCKING_PERIODS,
	PROGRESS_LOCKING_OPEN_PERIODS,
	PROGRESS_WRITING_USERS,
	PROGRESS_WRITING_PERIODS,
	PROGRESS_DELETING,
	PROGRESS_UPDATING_FILTER,
	PROGRESS_LOCKING_ALIASES,
	PROGRESS_WRITING_ALIASES,
	PROGRESS_CHECKING_ALIASES,
	PROGRESS_LOCKING_TABLES,
	PROGRESS_SETTLING,
	PROGRESS_PURGING
} ProgressPhase;

/* what others see of a command */
typedef struct ProgressRow
{
	int			pid;
	const char *command;
	const char *phase;
	uint64		done;
	uint64		total;
} ProgressRow;

/* the innermost command that this backend is running, or NULL */
extern struct Running *progress_running;

extern void progress_install_hooks(void);
extern void progress_begin(ProgressCommand command, ProgressPhase phase, uint64 total);
extern void progress_phase(ProgressPhase phase, uint64 total);
extern void progress_set(uint64 done);
extern void progress_row_is_known(void);
extern void progress_end(void);
extern bool progress_read(int i, ProgressRow *row);

/*
 * A row of the state table has been made known to the filter.
 */
static inline void
progress_count_row(void)
{
	if (unlikely(progress_running != NULL))
		progress_row_is_known();
}

#endif							/* OPTOUT_PROGRESS_H */
