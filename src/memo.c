/*
 * memo.c
 *		The backend's cache of verified keys: users who are or were opted out, or
 *		whom the shared filter only seems to hold, with their periods.
 *
 * It is for users who appear again and again.  Entries come from the state
 * table, one look-up at a time.  When these look-ups have cost more than
 * reading the whole table would, the whole table is read, if it fits into the
 * memory that a hash join would get; from then on a user without an entry has
 * no periods.  Each time that this is cancelled or fails, the next attempt
 * has to wait for twice as many look-ups: a statement_timeout that is too
 * short for it would otherwise end every statement that asks for that many
 * users.
 *
 * Whoever writes to the state table sends a relcache invalidation, which
 * arrives when the change is committed, or in the session itself with the end
 * of the command and when it is undone.  The invalidation empties the memo
 * (coverage.c registers the callback).  coverage_now() accepts what is
 * pending before each look-up.  An answer is kept only if no invalidation has
 * arrived since before its snapshot was taken.
 */
#include "postgres.h"

#include <math.h>

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/nodeHash.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "cache.h"
#include "compat.h"
#include "key.h"
#include "memo.h"
#include "periods.h"
#include "tables.h"

#define SH_PREFIX memo
#define SH_ELEMENT_TYPE Periods
#define SH_KEY_TYPE UserKey
#define SH_KEY user
#define SH_HASH_KEY(tb, k) ((uint32) (k).low)
#define SH_EQUAL(tb, a, b) ((a).low == (b).low && (a).high == (b).high)
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* memory an entry takes in the hash table, on average, and its share of empty slots */
#define ENTRY_SIZE (2 * sizeof(Periods))

/* bytes of a list of ended periods */
#define CLOSED_SIZE(periods) ((periods)->closed != NULL ? GetMemoryChunkSpace((periods)->closed) : 0)

/* what a look-up in the table costs, in rows of reading all of it */
#define LOOKUP_COST 64

/* so many rows are read at a time, while their slots are being fetched */
#define READ_BATCH 64

static MemoryContext memo_context = NULL;
static memo_hash * memo = NULL;

/* counts invalidations; entries of an earlier generation are void */
static uint64 generation = 1;
static uint64 memo_generation = 0;
static uint64 memo_keys = 0;	/* the generation of its keys */

static bool memo_complete;		/* every user of the table has an entry */
static uint64 memo_xmin;		/* of the snapshot it was read under, as a
								 * full transaction id */
static Size memo_closed;		/* bytes that lists of ended periods take */
static uint64 memo_lookups;		/* how many look-ups in the table it has cost */
static int	memo_failures = 0;	/* how often reading all of it was not
								 * finished */

static void memo_empty(double nentries);
static bool memo_too_large(double nentries);
static void memo_insert_rows(const PeriodRow *rows, int nrows);
static void memo_set_closed(Periods *entry, const Periods *periods);
static void memo_read_all(double nrows);

/*
 * The state table has changed: no entry is to be used any more.  Called from
 * within invalidation processing, so there is nothing done here that can fail.
 */
void
memo_invalidate(void)
{
	generation++;
}

/*
 * Begin anew, with the current generation and room for so many entries.
 */
static void
memo_empty(double nentries)
{
	if (memo_context == NULL)
		memo_context = AllocSetContextCreate(CacheMemoryContext, "optout memo",
											 ALLOCSET_DEFAULT_SIZES);
	memo = NULL;
	memo_generation = 0;
	MemoryContextReset(memo_context);
	memo = memo_create(memo_context, (uint32) nentries, NULL);
	memo_complete = false;
	memo_closed = 0;
	memo_lookups = 0;
	memo_keys = key_generation;
	memo_generation = generation;
}

static bool
memo_too_large(double nentries)
{
	return nentries * ENTRY_SIZE + memo_closed > (double) get_hash_memory_limit();
}

/*
 * Add rows to their users' entries.
 */
static void
memo_insert_rows(const PeriodRow *rows, int nrows)
{
	for (int i = 0; i < nrows; i++)
	{
		bool		found;
		Periods    *entry = memo_insert(memo, rows[i].user, &found);
		Size		before;

		if (!found)
		{
			entry->closed = NULL;
			entry->nclosed = 0;
			entry->open = false;
		}
		before = CLOSED_SIZE(entry);
		periods_add(entry, &rows[i], memo_context);
		memo_closed += CLOSED_SIZE(entry) - before;
	}
}

/*
 * Copy a list of ended periods.
 */
static void
memo_set_closed(Periods *entry, const Periods *periods)
{
	entry->closed = NULL;
	entry->nclosed = 0;
	for (int i = 0; i < periods->nclosed; i++)
	{
		PeriodRow	row = {.open = false,.period = periods->closed[i]};

		periods_add(entry, &row, memo_context);
	}
	memo_closed += CLOSED_SIZE(entry);
}

/*
 * Make an entry for every user of the table, which has about so many rows.
 */
static void
memo_read_all(double nrows)
{
	Relation	rel = tables_open("opt_out_period", AccessShareLock);
	uint64		before = generation;
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan;
	HeapTuple	tuple;
	PeriodRow	batch[READ_BATCH];
	int			nbatch = 0;

	memo_empty(nrows);
	/* an error on the way leaves entries that must not be used */
	memo_generation = 0;
	memo_failures++;

	scan = table_beginscan(rel, snapshot, 0, NULL, SO_NONE);
	while (!memo_too_large(memo->members) &&
		   (tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		batch[nbatch] = periods_row(rel, tuple);
		__builtin_prefetch(&memo->data[(uint32) batch[nbatch].user.low & memo->sizemask], 1);
		if (++nbatch == READ_BATCH)
		{
			memo_insert_rows(batch, nbatch);
			nbatch = 0;
		}
	}
	memo_insert_rows(batch, nbatch);
	memo_xmin = cache_xmin(snapshot->xmin);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
	memo_failures = 0;

	if (memo_too_large(memo->members))
		memo_empty(0);
	else
	{
		/* if it is outdated already, the next look-up finds it void */
		memo_complete = true;
		memo_generation = before;
	}
}

/*
 * What is known of a user's periods; false where nothing is.  The lists that they
 * point to stay until the next call.  Where all of the table was read at once,
 * *xmin is that of the snapshot, as a full transaction id, for the cache to be
 * told; else it is 0.
 *
 * The caller has just asked coverage_now(), and it was not COVERAGE_UNKNOWN.
 */
bool
memo_find(const UserKey *key, Periods *periods, uint64 *xmin)
{
	Periods    *entry;

	if (memo_generation != generation || memo_keys != key_generation)
		memo_empty(0);

	entry = memo_lookup(memo, *key);
	if (entry != NULL)
		*periods = *entry;
	else if (memo_complete)
		memset(periods, 0, sizeof(Periods));
	else
		return false;
	*xmin = memo_complete ? memo_xmin : 0;
	return true;
}

/*
 * Remember the periods of a user of whom memo_find() has just known nothing.
 */
void
memo_add(const UserKey *key, const Periods *periods)
{
	Periods    *entry;
	bool		found;
	double		nrows;

	/* they may be outdated by what has been committed since */
	if (memo_generation != generation)
		return;
	if (memo_too_large(memo->members + 1))
	{
		memo_empty(0);
		return;
	}
	/* running out of memory here leaves a hash table that must not be used */
	memo_generation = 0;
	entry = memo_insert(memo, *key, &found);
	memo_set_closed(entry, periods);
	entry->open = periods->open;
	memo_generation = generation;

	/* an estimate costs something, too */
	if (++memo_lookups % 256 == 0)
	{
		nrows = periods_estimate();
		if (memo_lookups * LOOKUP_COST > ldexp(nrows, Min(memo_failures, 32)) &&
			!memo_too_large(nrows))
			memo_read_all(nrows);
	}
}
