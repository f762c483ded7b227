/*
 * optout.c
 *		Module start of optout, which keeps individual users out of usage
 *		tracking.
 *
 * Where things are, from the bottom up; no file includes one that comes after it:
 *
 *	ident.c			organizations and user ids
 *	key.c			their hashes
 *	shared.c		the memory that backends share
 *	filter.c		who may have been opted out	(step 1 of a look-up)
 *	cache.c			who has been looked up by anybody	(step 2)
 *	progress.c		how far a long command has come
 *	tables.c		how the tables are read and written
 *	lock.c			how users' rows are locked
 *	periods.c		who is and was opted out	(step 4)
 *	memo.c			who has been looked up by this session	(step 3)
 *	ledger.c		how many events were discarded
 *	complete.c		whether this server can know who is opted out
 *	coverage.c		whether the steps before the table can be trusted
 *	settle.c		waiting for those who ingest
 *	replicas.c		what waiting for other servers takes
 *	accepts.c		the filter functions, which take these steps
 *	fkey.c			what a foreign key's action changes
 *	payload.c		what a path leads to in a document
 *	moment.c		when a time without time zone was
 *	event.c			what the guard reads of a row
 *	guard.c			the triggers that have it read, as guard() makes them
 *	discard.c		what such a trigger does
 *	repair.c		making them fire again
 *	rules.c			which tables to come get one
 *	view.c			views for clients that want a row for each event
 *	authority.c		who may do what
 *	directory.c		who there is
 *	links.c			other ids of theirs
 *	admin.c			what administrators call
 *	match.c			which stored rows are somebody's
 *	stored.c		what guarded tables hold
 *	purge.c			its deletion
 *	support.c		what the planner is told
 *	status.c		what the administrator is told
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
