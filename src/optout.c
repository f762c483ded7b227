/*
 * optout.c
 *		Module start of optout, which keeps individual users out of usage
 *		tracking.
 *
 * Where things are: accepts.c is the filter, guard.c the trigger that applies
 * it, admin.c what administrators call; they rest on filter.c, coverage.c,
 * cache.c, shared.c and memo.c (fast answers), periods.c (who is opted out), directory.c (who there is),
 * authority.c (who may do what), ident.c (organisations and user ids) and
 * state.c (how the tables are read and written).  ledger.c counts what is
 * discarded, settle.c waits for those who ingest.  support.c tells the planner,
 * status.c the administrator, progress.c whoever waits for a long command.
 * event.c says what the guard reads of a row, payload.c what a path leads to in a
 * document, moment.c when a time without time zone was.  view.c makes views for
 * clients that want a row for each event.
 * sql/ holds the SQL side.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/guc.h"

#include "compat.h"
#include "coverage.h"
#include "filter.h"
#include "ident.h"
#include "ledger.h"
#include "progress.h"
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
	shared_define_settings();
	coverage_install_hooks();
	filter_install_hooks();
	shared_install_hooks();
	ledger_install_hooks();
	progress_install_hooks();
	MarkGUCPrefixReserved("optout");
}
