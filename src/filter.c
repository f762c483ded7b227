/*
 * filter.c
 *		The shared filter: tells which users may ever have been opted out.
 *
 * One Bloom filter for the whole cluster.  Its keys are the users of the state
 * table, of every database: 128-bit hashes of database, organisation and user
 * id, with a random secret per server start.  It is split into blocks of one
 * cache line; a key sets one bit in each of a block's eight words.  Bits are
 * only ever set, so look-ups take no lock; whoever sets some holds one, which
 * is cheaper than eight atomic operations.
 *
 * A look-up costs a cache miss, and that costs the less the smaller the filter
 * is.  So there are filters of three sizes ("levels"), each an eighth of the
 * next.  Keys are added to the current level and all larger ones; look-ups use
 * the current one only.  When it has as many keys as are good for it, the next
 * one becomes the current one; it holds all keys already.  (Whoever still looks
 * at the smaller one began before any key was added to the larger ones only.)
 *
 * What is rolled back leaves a false positive, which costs a look-up in the
 * table.  The filter never shrinks; an overfull one costs more such look-ups.
 *
 * Why a miss proves that there is no committed row is told in coverage.c, where
 * the memory comes from in shared.c.
 */
#include "postgres.h"

#include <math.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "filter.h"
#include "ident.h"

/* so many keys a block make 0.2 % false positives */
#define BLOCK_KEYS 36

/* look-ups of this transaction, by what answered them */
uint64		filter_lookups[LOOKUP_KINDS];

static inline pg_atomic_uint64 *block_of(int level, const UserKey *key);
static inline bool contains(int level, const UserKey *key);
static void add(const UserKey *key);
static void report_lookups(XactEvent event, void *arg);

void
filter_install_hooks(void)
{
	RegisterXactCallback(report_lookups, NULL);
}

/*
 * The key of a user in this database.
 */
UserKey
filter_key(text *organization, text *user_id)
{
	/* keys of the memo are as secret where there is no shared memory */
	static uint64 own_secret = 0;

	/* the last organisation's seed: there are few of them */
	static char last[IDENT_MAX_LEN];
	static int	last_len = -1;
	static uint64 last_secret;
	static uint64 seed;

	const char *org = VARDATA_ANY(organization);
	int			len = VARSIZE_ANY_EXHDR(organization);
	uint64		secret = shared != NULL ? shared->secret : own_secret;
	XXH128_hash_t hash;
	UserKey		key;

	if (len != last_len || memcmp(org, last, len) != 0 || secret != last_secret)
	{
		if (secret == 0 && !pg_strong_random(&own_secret, sizeof(own_secret)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random secret")));
		if (secret == 0)
			secret = own_secret;

		if (len > IDENT_MAX_LEN)
			elog(ERROR, "organization has %d bytes", len);
		last_len = -1;
		memcpy(last, org, len);
		seed = XXH3_64bits_withSeed(org, len,
									XXH3_64bits_withSeed(&MyDatabaseId, sizeof(Oid), secret));
		last_secret = secret;
		last_len = len;
	}

	hash = XXH3_128bits_withSeed(VARDATA_ANY(user_id), VARSIZE_ANY_EXHDR(user_id), seed);
	key.low = hash.low64;
	key.high = hash.high64;
	return key;
}

/* the block that a key belongs to */
static inline pg_atomic_uint64 *
block_of(int level, const UserKey *key)
{
	return shared_blocks[level] +
		BLOCK_WORDS * (uint64) (((uint128) key->low * shared->nblocks[level]) >> 64);
}

/*
 * No branch: nearly all events have users whom the filter does not know, so the
 * processor guesses what becomes of the answer, and goes on to the next event
 * while the block is still on its way.
 */
static inline bool
contains(int level, const UserKey *key)
{
	pg_atomic_uint64 *block = block_of(level, key);
	uint64		bits = key->high;
	uint64		hits = 1;

	for (int word = 0; word < BLOCK_WORDS; word++, bits >>= 6)
		hits &= pg_atomic_read_u64(&block[word]) >> (bits & 63);
	return hits;
}

/*
 * False: the key has not been added.  True: it may have been.
 */
bool
filter_maybe_contains(const UserKey *key)
{
	return contains(pg_atomic_read_u32(&shared->level), key);
}

/*
 * Have the processor fetch what adding the key needs.
 */
void
filter_prefetch(const UserKey *key)
{
	for (int level = pg_atomic_read_u32(&shared->level); level < LEVELS; level++)
		__builtin_prefetch(block_of(level, key), 1);
}

/*
 * Add keys.
 */
void
filter_add(const UserKey *keys, int nkeys)
{
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < nkeys; i++)
		add(&keys[i]);
	LWLockRelease(&shared->lock);
}

static void
add(const UserKey *key)
{
	int			level = pg_atomic_read_u32(&shared->level);
	bool		is_new = !contains(LEVELS - 1, key);
	uint64		nkeys;

	for (int i = level; i < LEVELS; i++)
	{
		pg_atomic_uint64 *block = block_of(i, key);
		uint64		bits = key->high;

		for (int word = 0; word < BLOCK_WORDS; word++, bits >>= 6)
			pg_atomic_write_u64(&block[word],
								pg_atomic_read_u64(&block[word]) | UINT64CONST(1) << (bits & 63));
	}

	if (is_new)
	{
		nkeys = pg_atomic_read_u64(&shared->keys) + 1;
		pg_atomic_write_u64(&shared->keys, nkeys);
		if (level < LEVELS - 1 && nkeys > shared->nblocks[level] * BLOCK_KEYS)
			pg_atomic_write_u32(&shared->level, level + 1);
	}
}

/*
 * Transaction callback: add this backend's counts to everybody's.
 */
static void
report_lookups(XactEvent event, void *arg pg_attribute_unused())
{
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE ||
		event == XACT_EVENT_PARALLEL_PRE_COMMIT)
		return;
	for (int kind = 0; kind < LOOKUP_KINDS; kind++)
	{
		if (shared != NULL && filter_lookups[kind] > 0)
			pg_atomic_fetch_add_u64(&shared->lookups[kind], filter_lookups[kind]);
		filter_lookups[kind] = 0;
	}
}

/*
 * What optout.status shows of the filter; false where there is none.
 */
bool
filter_statistics(FilterStatistics *stats)
{
	int			level;
	double		sum = 0;

	if (shared_blocks[0] == NULL)
		return false;

	stats->memory = (int64) shared_memory();
	stats->keys = (int64) pg_atomic_read_u64(&shared->keys);
	for (int kind = 0; kind < LOOKUP_KINDS; kind++)
		stats->lookups[kind] = pg_atomic_read_u64(&shared->lookups[kind]);

	/*
	 * A key that was not added hits where all eight words of its block have
	 * its bit set.  An estimate is not worth more than four digits, and so
	 * they are never shown as a power of ten.
	 */
	level = pg_atomic_read_u32(&shared->level);
	for (uint64 block = 0; block < shared->nblocks[level]; block++)
	{
		double		hit = 1;

		CHECK_FOR_INTERRUPTS();
		for (int word = 0; word < BLOCK_WORDS; word++)
			hit *= pg_popcount64(pg_atomic_read_u64(&shared_blocks[level][block * BLOCK_WORDS + word])) / 64.0;
		sum += hit;
	}
	stats->false_positive_rate = rint(sum / shared->nblocks[level] * 1e4) / 1e4;
	return true;
}
