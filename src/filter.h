/*
 * filter.h
 *		The shared filter: tells which users may ever have been opted out.
 */
#ifndef OPTOUT_FILTER_H
#define OPTOUT_FILTER_H

#include "key.h"
#include "shared.h"

typedef struct FilterStatistics
{
	int64		keys;
	double		false_positive_rate;	/* estimated from the bits that are
										 * set */
} FilterStatistics;

/*
 * Which bits of its block a hash (see key.h) sets: four in one word, four in
 * another.  The upper half of the hash chooses the block, so the lower half has
 * to do for the first word.  Multiplied, all of it decides on the second.
 */
#define FILTER_WORD1(hash) ((hash) % BLOCK_WORDS)
#define FILTER_BITS1(hash) ((hash) >> 3)
#define FILTER_AGAIN(hash) ((hash) * UINT64CONST(0x9E3779B97F4A7C15))
#define FILTER_WORD2(hash, again) ((FILTER_WORD1(hash) + 1 + ((again) >> 56) % (BLOCK_WORDS - 1)) % BLOCK_WORDS)
#define FILTER_BITS2(again) ((again) >> 32)

/* these need shared_blocks */
extern void filter_prefetch(const UserKey *key);
extern void filter_add(const UserKey *keys, int nkeys);
extern void filter_statistics(FilterStatistics *stats);

/* the block that a hash belongs to */
static inline pg_atomic_uint64 *
filter_block(int level, uint64 hash)
{
	return shared_blocks[level] + BLOCK_WORDS * ((hash >> 32) * shared->nblocks[level] >> 32);
}

static inline uint64
filter_bits(uint64 bits)
{
	return UINT64CONST(1) << (bits & 63) | UINT64CONST(1) << (bits >> 6 & 63) |
		UINT64CONST(1) << (bits >> 12 & 63) | UINT64CONST(1) << (bits >> 18 & 63);
}

/* are all of these bits set? */
static inline bool
filter_has_bits(pg_atomic_uint64 *word, uint64 bits)
{
	return (pg_atomic_read_u64(word) & bits) == bits;
}

/*
 * Nearly all users are unknown to the filter, and nearly all look-ups of these
 * end with the first word.
 */
static inline bool
filter_contains(int level, uint64 hash)
{
	pg_atomic_uint64 *block = filter_block(level, hash);
	uint64		again;

	if (likely(!filter_has_bits(&block[FILTER_WORD1(hash)], filter_bits(FILTER_BITS1(hash)))))
		return false;
	again = FILTER_AGAIN(hash);
	return filter_has_bits(&block[FILTER_WORD2(hash, again)], filter_bits(FILTER_BITS2(again)));
}

/*
 * False: the user has not been added.  True: they may have been.
 */
static inline bool
filter_maybe_contains(uint64 hash)
{
	return filter_contains(pg_atomic_read_u32(&shared->level), hash);
}

#endif							/* OPTOUT_FILTER_H */
