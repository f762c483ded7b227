/*
 * coverage.h
 *		Whether the shared filter covers every row of the state table.
 */
#ifndef OPTOUT_COVERAGE_H
#define OPTOUT_COVERAGE_H

#include "access/xact.h"
#include "storage/proc.h"
#include "utils/inval.h"

#include "compat.h"
#include "shared.h"

typedef enum Coverage
{
	COVERAGE_UNKNOWN,			/* rows can arrive unseen: trust nothing but
								 * the table */
	COVERAGE_PARTIAL,			/* rows are seen, but not all keys are in the
								 * filter: trust the memo */
	COVERAGE_FULL				/* trust both */
} Coverage;

extern bool filter_enabled;

/*
 * Nothing has happened since coverage_check() said COVERAGE_FULL, the list is
 * complete (complete.c), and this is the command that it said so for.
 */
extern bool coverage_is_full;
extern CommandId coverage_command;

/* the transaction, and the command of it, for which coverage_hold() makes it
 * stay so */
extern LocalTransactionId coverage_held_transaction;
extern CommandId coverage_held_command;

extern void coverage_define_settings(void);
extern void coverage_install_hooks(void);
extern bool coverage_hold(void);
extern void coverage_tell_of_changes_now(void);
extern Coverage coverage_check(void);
extern const char *coverage_state(void);
extern bool coverage_loading(SharedDatabase *load);

/*
 * Whether filter and cache can be trusted, and go on to be, whatever others do.
 */
static inline bool
coverage_is_held(void)
{
	return likely(coverage_held_transaction == MyLocalTransactionId &&
				  coverage_held_command == GetCurrentCommandId(false));
}

/*
 * How far filter, cache and memo can be trusted now.  It accepts pending
 * invalidations, which the memo relies on, too.
 */
static inline Coverage
coverage_now(void)
{
	AcceptInvalidationMessages();
	return likely(coverage_is_full && filter_enabled &&
				  coverage_command == GetCurrentCommandId(false)) ?
		COVERAGE_FULL : coverage_check();
}

/*
 * How far filter and cache can be trusted now.
 */
static inline Coverage
coverage(void)
{
	return coverage_is_held() ? COVERAGE_FULL : coverage_now();
}

#endif							/* OPTOUT_COVERAGE_H */
