/*
 * filter.c
 *		The shared filter: tells which users may ever have been opted out.
 *
 * One split block Bloom filter for the whole cluster.  It holds the users of the
 * state table, of every database, by the lower halves of their keys (key.c), which
 * are called hashes here.  It is split into blocks of one cache line; a user sets
 * four bits in each of two of a block's eight words.  Bits are only ever set, so
 * look-ups take no lock; whoever sets some holds one.
 *
 * A look-up costs a cache miss, which is cheaper the smaller the filter is.
 * So there are filters of several sizes ("levels"), each half of the next.
 * Look-ups use one of them, the current level.  Users are added to it and to
 * the largest, which thus holds all of them.  When the current level holds as
 * many users as it is good for, the next one is made from the largest and
 * becomes the current one.  A block of it stands for two, four, ...
 * consecutive blocks of the largest, so it has all bits that these have.
 * Making one takes a pass over the largest, some milliseconds for 16 MB; it
 * happens six times at most.
 *
 * A backend that still reads the smaller level is safe: it loaded the level's
 * number before any user was added to the larger levels only.  The bits of a new
 * level are written before its number, and whoever loads the number needs it for
 * the address of the bits.
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
 * coverage.c explains why a miss proves that there is no committed row,
 * shared.c where the memory comes from.
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"
#include "port/pg_bitutils.h"

#include "filter.h"

/* so many users a block make 0.4 % false positives */
#define BLOCK_USERS 40

static void filter_set(pg_atomic_uint64 *word, uint64 bits);
static void filter_set_block(pg_atomic_uint64 *block, uint64 hash);
static void filter_add_one(uint64 hash);
static void filter_make_level(int level);

/*
 * Have the processor fetch what adding the user needs.
 */
void
filter_prefetch(const UserKey *key)
{
	__builtin_prefetch(filter_block(pg_atomic_read_u32(&shared->level), key->low), 1);
	__builtin_prefetch(filter_block(LARGEST_LEVEL, key->low), 1);
}

/*
 * Add users.
 */
void
filter_add(const UserKey *keys, int nkeys)
{
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < nkeys; i++)
		filter_add_one(keys[i].low);
	LWLockRelease(&shared->lock);
}

static void
filter_set(pg_atomic_uint64 *word, uint64 bits)
{
	pg_atomic_write_u64(word, pg_atomic_read_u64(word) | bits);
}

static void
filter_set_block(pg_atomic_uint64 *block, uint64 hash)
{
	uint64		again = FILTER_AGAIN(hash);

	filter_set(&block[FILTER_WORD1(hash)], filter_bits(FILTER_BITS1(hash)));
	filter_set(&block[FILTER_WORD2(hash, again)], filter_bits(FILTER_BITS2(again)));
}

static void
filter_add_one(uint64 hash)
{
	int			level = pg_atomic_read_u32(&shared->level);
	uint64		nkeys;

	/* the current level has all bits that the largest has */
	if (filter_contains(LARGEST_LEVEL, hash))
		return;
	filter_set_block(filter_block(LARGEST_LEVEL, hash), hash);
	if (level < LARGEST_LEVEL)
		filter_set_block(filter_block(level, hash), hash);

	nkeys = pg_atomic_read_u64(&shared->keys) + 1;
	pg_atomic_write_u64(&shared->keys, nkeys);
	if (level < LARGEST_LEVEL && nkeys > shared->nblocks[level] * BLOCK_USERS)
		filter_make_level(level + 1);
}

/*
 * Make a level from the largest, unless it is that itself, and have look-ups use it.
 */
static void
filter_make_level(int level)
{
	pg_atomic_uint64 *largest = shared_blocks[LARGEST_LEVEL];

	for (uint64 block = 0; level < LARGEST_LEVEL && block < shared->nblocks[LARGEST_LEVEL]; block++)
	{
		pg_atomic_uint64 *from = largest + BLOCK_WORDS * block;
		pg_atomic_uint64 *to = shared_blocks[level] + BLOCK_WORDS * (block >> (LARGEST_LEVEL - level));

		for (int word = 0; word < BLOCK_WORDS; word++)
			filter_set(&to[word], pg_atomic_read_u64(&from[word]));
	}
	pg_write_barrier();
	pg_atomic_write_u32(&shared->level, level);
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
