/*
 * optout.c
 *		Module start of optout, which keeps individual users out of usage
 *		tracking.
 *
 * Where things are, from the bottom up; no file includes one that comes after it:
 *
 *	subxact.c		subtransactions of our own
 *	ident.c			organizations and user ids
 *	key.c			keys of users: hashes of their ids
 *	shared.c		the memory that backends share
 *	filter.c		the shared filter	(step 1 of a look-up)
 *	cache.c			the shared cache of verified users	(step 2)
 *	progress.c		how far long commands have come
 *	tables.c		access to the extension's tables
 *	lock.c			locks on users' rows
 *	periods.c		the state table: who is and was opted out	(step 4)
 *	memo.c			the session's own memo of verified users	(step 3)
 *	ledger.c		how many events were discarded
 *	complete.c		whether this server can know who is opted out
 *	coverage.c		whether steps 1 and 2 can be trusted
 *	settle.c		settle(): waiting for transactions that ingest
 *	replicas.c		what settle_replicas() needs
 *	accepts.c		the filter functions, which take these steps
 *	fkey.c			changes that a foreign key's action makes
 *	payload.c		paths into json and jsonb documents
 *	moment.c		times of events that are no timestamptz
 *	event.c			which columns and paths a guard reads
 *	guards.c		the triggers that guard a table
 *	guard.c			guard(), unguard()
 *	discard.c		their trigger function
 *	repair.c		repair(): triggers that do not fire always
 *	rules.c			rules for tables to come
 *	view.c			guard_view()
 *	authority.c		who may do what
 *	directory.c		the directory of users
 *	links.c			aliases of users
 *	admin.c			the administration functions
 *	match.c			which stored rows are a user's, as a condition
 *	stored.c		which tables have such rows: stored_events()
 *	purge.c			purge()
 *	support.c		planner support
 *	status.c		status, progress, verify()
 *
 * A header has the name of its file.  compat.h holds the differences between
 * server versions.
 *
 * sql/ holds the SQL side.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/guc.h"

#include "accepts.h"
#include "compat.h"
#include "complete.h"
#include "coverage.h"
#include "ident.h"
#include "ledger.h"
#include "links.h"
#include "replicas.h"
#include "shared.h"

PG_MODULE_MAGIC_EXT(
					.name = "optout",
					.version = OPTOUT_VERSION
);

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	ident_define_settings();
	coverage_define_settings();
	complete_define_settings();
	replicas_define_settings();
	shared_define_settings();
	links_define_settings();
	coverage_install_hooks();
	accepts_install_hooks();
	shared_install_hooks();
	ledger_install_hooks();
	MarkGUCPrefixReserved("optout");
}
