/*
 * memo.c
 *		The backend's cache of verified keys: users who are or were opted out, or
 *		whom the shared filter only seems to hold, with their periods.
 *
 * It is for those users who appear again and again.  Entries come from the
 * state table, one look-up at a time.  When these look-ups have cost more than
 * reading the whole table would, the whole table is read, if it fits into the
 * memory that a hash join would get; from then on a user without an entry has
 * no periods.
 *
 * Whoever writes to the state table sends a relcache invalidation for it, which
 * arrives when the change is committed, or in the session itself with the end
 * of the command and when it is undone.  The invalidation empties the memo
 * (filter.c registers the callback).  filter_state() accepts what is pending
 * before each look-up.  An answer is kept only if no invalidation arrived since
 * before the snapshot was taken that it rests on.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "common/hashfn.h"
#include "executor/nodeHash.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "memo.h"
#include "periods.h"
#include "state.h"

typedef struct MemoEntry
{
	UserKey		key;
	Periods		periods;
	char		status;			/* for simplehash */
} MemoEntry;

#define SH_PREFIX memo
#define SH_ELEMENT_TYPE MemoEntry
#define SH_KEY_TYPE UserKey
#define SH_KEY key
#define SH_HASH_KEY(tb, k) ((uint32) (k).low)
#define SH_EQUAL(tb, a, b) ((a).low == (b).low && (a).high == (b).high)
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* memory an entry takes in the hash table, on average, and its share of empty slots */
#define ENTRY_SIZE (2 * sizeof(MemoEntry))

/* what a look-up in the table costs, in rows of a sequential scan */
#define LOOKUP_COST 8

static MemoryContext memo_context = NULL;
static memo_hash * memo = NULL;

/* counts invalidations; entries of an earlier generation are void */
static uint64 generation = 1;
static uint64 memo_generation = 0;

static bool memo_complete;		/* every user of the table has an entry */
static uint64 memo_lookups;		/* how many look-ups in the table it has cost */

static void empty(void);
static bool too_large(double nentries);
static void read_all(void);

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
 * Begin anew, with the current generation.
 */
static void
empty(void)
{
	if (memo_context == NULL)
		memo_context = AllocSetContextCreate(CacheMemoryContext, "optout memo",
											 ALLOCSET_DEFAULT_SIZES);
	memo = NULL;
	memo_generation = 0;
	MemoryContextReset(memo_context);
	memo = memo_create(memo_context, 64, NULL);
	memo_complete = false;
	memo_lookups = 0;
	memo_generation = generation;
}

static bool
too_large(double nentries)
{
	return nentries * ENTRY_SIZE > (double) get_hash_memory_limit();
}

/*
 * Make an entry for every user of the table.
 */
static void
read_all(void)
{
	Relation	rel = state_open("opt_out_period", AccessShareLock);
	uint64		before = generation;
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan;
	HeapTuple	tuple;
	bool		complete = true;

	empty();
	/* an error on the way leaves entries that must not be used */
	memo_generation = 0;

	scan = table_beginscan(rel, snapshot, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		UserKey		key = periods_key(rel, tuple);
		MemoEntry  *entry;
		bool		found;

		CHECK_FOR_INTERRUPTS();
		entry = memo_insert(memo, key, &found);
		if (!found)
			memset(&entry->periods, 0, sizeof(Periods));
		periods_add(&entry->periods, rel, tuple, memo_context);
		if (too_large(memo->members))
		{
			complete = false;
			break;
		}
	}
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);

	if (!complete)
		empty();
	else if (before == generation)
	{
		memo_complete = true;
		memo_generation = before;
	}
	/* otherwise the next look-up finds it void */
}

/*
 * Whether the user is opted out now or was at the given time (if not NULL).
 * The caller has just asked filter_state(), and it was not FILTER_TABLE_ONLY.
 */
bool
memo_covers(const UserKey *key, text *organization, text *user_id,
			const TimestampTz *occurred_at)
{
	MemoEntry  *entry;
	uint64		before;
	Periods		periods;
	bool		found;
	bool		covered;

	if (memo_generation != generation)
		empty();

	entry = memo_lookup(memo, *key);
	if (entry != NULL || memo_complete)
	{
		filter_lookups[LOOKUP_MEMO]++;
		return entry != NULL && periods_include(&entry->periods, occurred_at);
	}

	filter_lookups[LOOKUP_TABLE]++;
	before = generation;

	/* parallel mode sees the table as of an older snapshot: do not keep that */
	if (IsInParallelMode())
		return periods_cover(organization, user_id, occurred_at);

	periods_read(&periods, organization, user_id, memo_context);
	/* now, for what follows may free the memory it is in */
	covered = periods_include(&periods, occurred_at);

	if (memo_generation == before && generation == before)
	{
		if (too_large(memo->members + 1))
		{
			empty();
			return covered;
		}
		entry = memo_insert(memo, *key, &found);
		entry->periods = periods;

		/* an estimate costs something, too */
		if (++memo_lookups % 256 == 0)
		{
			double		rows = periods_estimate();

			if (memo_lookups * LOOKUP_COST > rows && !too_large(rows))
				read_all();
		}
	}
	return covered;
}
