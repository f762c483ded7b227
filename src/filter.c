/*
 * filter.c
 *		The shared filter: tells which users may ever have been opted out.
 *
 * One split block Bloom filter for the whole cluster.  It holds the users of the
 * state table, of every database, by their hashes (key.c).  It is split into
 * blocks of one cache line; a user sets four bits in each of two of a block's
 * eight words.  Bits are only ever set, so look-ups take no lock; whoever sets
 * some holds one.
 *
 * A look-up costs a cache miss, and that costs the less the smaller the filter
 * is.  So there are filters of three sizes ("levels"), each an eighth of the
 * next.  Users are added to the current level and all larger ones; look-ups use
 * the current one only.  When it has as many users as are good for it, the next
 * one becomes the current one; it holds all users already.  A backend that still
 * reads the smaller level is safe: it loaded the level's number before any user
 * was added to the larger levels only.
 *
 * A look-up needs no memory barrier, on weakly ordered processors either.  The
 * bits of a row are set, and the lock released, before its transaction commits;
 * releasing a lock, like the commit itself, is a full barrier.  So they are
 * visible to all processors before anybody can learn of the commit, and a load
 * that is executed later finds them.  A processor executes loads ahead of time
 * only as far as it looks ahead, a few hundred instructions; an event that comes
 * after the news of the commit comes by a system call or under a lock, and both
 * are barriers.  The address of the block depends on the level that was loaded,
 * so these two loads stay in order.
 *
 * What is rolled back leaves a false positive, which costs a look-up in the
 * table.  The filter never shrinks; an overfull one costs more such look-ups.
 *
 * Why a miss proves that there is no committed row is told in coverage.c, where
 * the memory comes from in shared.c.
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"
#include "port/pg_bitutils.h"

#include "filter.h"

/* so many users a block make 0.2 % false positives */
#define BLOCK_USERS 36

static uint64 filter_bits(uint64 bits);
static void filter_set(pg_atomic_uint64 *word, uint64 bits);
static void filter_add_one(uint64 hash);

/*
 * Have the processor fetch what adding the user needs.
 */
void
filter_prefetch(uint64 hash)
{
	for (int level = pg_atomic_read_u32(&shared->level); level < LEVELS; level++)
		__builtin_prefetch(filter_block(level, hash), 1);
}

/*
 * Add users.
 */
void
filter_add(const uint64 *hashes, int nhashes)
{
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < nhashes; i++)
		filter_add_one(hashes[i]);
	LWLockRelease(&shared->lock);
}

/* as filter_has_bits() has them */
static uint64
filter_bits(uint64 bits)
{
	return UINT64CONST(1) << (bits & 63) | UINT64CONST(1) << (bits >> 6 & 63) |
		UINT64CONST(1) << (bits >> 12 & 63) | UINT64CONST(1) << (bits >> 18 & 63);
}

static void
filter_set(pg_atomic_uint64 *word, uint64 bits)
{
	pg_atomic_write_u64(word, pg_atomic_read_u64(word) | filter_bits(bits));
}

static void
filter_add_one(uint64 hash)
{
	int			level = pg_atomic_read_u32(&shared->level);
	bool		is_new = !filter_contains(LEVELS - 1, hash);
	uint64		again = FILTER_AGAIN(hash);
	uint64		nkeys;

	for (int i = level; i < LEVELS; i++)
	{
		pg_atomic_uint64 *block = filter_block(i, hash);

		filter_set(&block[FILTER_WORD1(hash)], FILTER_BITS1(hash));
		filter_set(&block[FILTER_WORD2(hash, again)], FILTER_BITS2(again));
	}

	if (is_new)
	{
		nkeys = pg_atomic_read_u64(&shared->keys) + 1;
		pg_atomic_write_u64(&shared->keys, nkeys);
		if (level < LEVELS - 1 && nkeys > shared->nblocks[level] * BLOCK_USERS)
			pg_atomic_write_u32(&shared->level, level + 1);
	}
}

/*
 * What optout.status shows of the filter.
 */
void
filter_statistics(FilterStatistics *stats)
{
	int			level = pg_atomic_read_u32(&shared->level);
	double		sum = 0;

	/*
	 * A user that was not added hits where four bits are set in one word of
	 * their block, and four in another. An estimate is not worth more than
	 * four digits, and so they are never shown as a power of ten.
	 */
	for (uint64 block = 0; block < shared->nblocks[level]; block++)
	{
		double		words = 0;
		double		squares = 0;

		CHECK_FOR_INTERRUPTS();
		for (int word = 0; word < BLOCK_WORDS; word++)
		{
			double		share = pg_popcount64(pg_atomic_read_u64(&shared_blocks[level][block * BLOCK_WORDS + word])) / 64.0;
			double		hit = share * share * share * share;

			words += hit;
			squares += hit * hit;
		}
		sum += (words * words - squares) / (BLOCK_WORDS * (BLOCK_WORDS - 1));
	}
	stats->keys = (int64) pg_atomic_read_u64(&shared->keys);
	stats->false_positive_rate = rint(sum / shared->nblocks[level] * 1e4) / 1e4;
}
