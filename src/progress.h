/*
 * progress.h
 *		How far long commands have come.
 */
#ifndef OPTOUT_PROGRESS_H
#define OPTOUT_PROGRESS_H

#include "nodes/pg_list.h"

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
	int64		done;
	int64		total;
} ProgressRow;

extern void progress_begin(ProgressCommand command, ProgressPhase phase, uint64 total);
extern void progress_phase(ProgressPhase phase, uint64 total);
extern void progress_set(uint64 done);
extern void progress_count_row(void);
extern void progress_end(void);
extern List *progress_read(void);

#endif							/* OPTOUT_PROGRESS_H */
