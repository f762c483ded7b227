/*
 * cache.c
 *		The shared cache of verified users: who is opted out now, and who is not
 *		though the shared filter seems to hold them.
 *
 * It spares all backends the look-up in the table that one of them has made.
 * Like the filter it is to be used only while that covers every row of the state
 * table (coverage.c), and its answers are as good as a look-up under a snapshot
 * taken now:
 *
 * Users are divided into groups.  For each group we keep the youngest
 * transaction that has written a row of one of its users; the state table's
 * trigger does so before that transaction can commit.  An entry is stored
 * with that transaction's id, and only if the snapshot it rests on was taken
 * when this and all older transactions had ended, so that it saw what the
 * group's writers did.  (A transaction that was still running then, or writes
 * later, has a higher id.)  It is valid as long as that id is still the
 * group's.
 *
 * Before the keys have been added to the filter, writers may have gone
 * unnoticed.  So adding them makes every transaction so far count as a writer
 * of all groups.
 *
 * A transaction must not store here what its own rows say before they are
 * committed.  While it can see rows for which the trigger has not fired yet,
 * it stores nothing (coverage.c).  Once the trigger has fired, the group's
 * writer is the transaction itself, and none of its snapshots has a younger
 * xmin.
 *
 * An entry can be in either of two buckets of four places each, so the cache
 * is more than nine tenths full before entries displace each other.
 *
 * There are no locks.  An entry's first word is the key XOR the second word, so
 * an entry that is read while it is being replaced, or replaced by two backends
 * at once, fails the comparison of keys and counts as a miss.
 *
 * The cache prefers users who are asked for.  Others are added only together
 * with their keys, and only where there is room; they are the first to be
 * replaced.  A backend that finds one of these writes it anew as asked for.
 * That is as good as storing it: what the entry says, and under which
 * transaction, stays the same.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"

#include "cache.h"
#include "shared.h"

/*
 * What an entry says, in its second word: the writer's id, whether anybody has
 * asked for the user, and whether the user is opted out.
 */
#define ENTRY(writer, asked_for, opted_out) \
	((writer) << 2 | ((asked_for) ? 2 : 0) | ((opted_out) ? 1 : 0))
#define ENTRY_WRITER(entry) ((entry) >> 2)
#define ENTRY_ASKED_FOR(entry) (((entry) & 2) != 0)
#define ENTRY_OPTED_OUT(entry) (((entry) & 1) != 0)

/*
 * What the first word is made from.  Bits of one half of the key choose the
 * bucket and thus do not tell entries apart there; with the other half they do.
 */
#define CACHE_CHECK(key) ((key)->high ^ ((key)->low << 32 | (key)->low >> 32))

static inline pg_atomic_uint64 *cache_bucket(uint64 hash);
static inline pg_atomic_uint64 *cache_first_bucket(const UserKey *key);
static inline pg_atomic_uint64 *cache_second_bucket(const UserKey *key);
static inline pg_atomic_uint64 *cache_group_writer(const UserKey *key);
static inline bool cache_find_in(pg_atomic_uint64 *bucket, const UserKey *key,
								 uint64 writer, bool *opted_out);
static pg_atomic_uint64 *cache_free_slot(pg_atomic_uint64 *bucket, const UserKey *key);
static pg_atomic_uint64 *cache_find_slot(const UserKey *key);
static pg_atomic_uint64 *cache_unasked_slot(pg_atomic_uint64 *bucket);
static pg_atomic_uint64 *cache_give_up_slot(const UserKey *key);
static void cache_write_slot(pg_atomic_uint64 *slot, const UserKey *key, uint64 entry);
static void cache_raise_writer(pg_atomic_uint64 *writer, uint64 xid);

static inline pg_atomic_uint64 *
cache_bucket(uint64 hash)
{
	return shared_cache + BLOCK_WORDS * (hash & (shared->nbuckets - 1));
}

/* by the low bits, as in the memo's hash table */
static inline pg_atomic_uint64 *
cache_first_bucket(const UserKey *key)
{
	return cache_bucket(key->low);
}

/* where an entry goes that finds no room there */
static inline pg_atomic_uint64 *
cache_second_bucket(const UserKey *key)
{
	return cache_bucket(key->high);
}

static inline pg_atomic_uint64 *
cache_group_writer(const UserKey *key)
{
	return &shared->writers[(key->low >> 32) % CACHE_GROUPS];
}

static inline bool
cache_find_in(pg_atomic_uint64 *bucket, const UserKey *key, uint64 writer, bool *opted_out)
{
	for (int i = 0; i < BLOCK_WORDS; i += 2)
	{
		uint64		check = pg_atomic_read_u64(&bucket[i]);
		uint64		entry = pg_atomic_read_u64(&bucket[i + 1]);

		if ((check ^ entry) == CACHE_CHECK(key) && ENTRY_WRITER(entry) == writer)
		{
			*opted_out = ENTRY_OPTED_OUT(entry);
			if (unlikely(!ENTRY_ASKED_FOR(entry)))
				cache_write_slot(&bucket[i], key, ENTRY(writer, true, *opted_out));
			return true;
		}
	}
	return false;
}

/*
 * Whether the user is opted out now, if that is known here.
 */
bool
cache_find(const UserKey *key, bool *opted_out)
{
	uint64		writer = pg_atomic_read_u64(cache_group_writer(key));

	return cache_find_in(cache_first_bucket(key), key, writer, opted_out) ||
		cache_find_in(cache_second_bucket(key), key, writer, opted_out);
}

/*
 * Where in this bucket the user's own entry is, or an empty one; NULL where there
 * is neither.
 */
static pg_atomic_uint64 *
cache_free_slot(pg_atomic_uint64 *bucket, const UserKey *key)
{
	for (int i = 0; i < BLOCK_WORDS; i += 2)
	{
		uint64		check = pg_atomic_read_u64(&bucket[i]);
		uint64		entry = pg_atomic_read_u64(&bucket[i + 1]);

		if ((check ^ entry) == CACHE_CHECK(key) || entry == 0)
			return &bucket[i];
	}
	return NULL;
}

static pg_atomic_uint64 *
cache_find_slot(const UserKey *key)
{
	pg_atomic_uint64 *slot = cache_free_slot(cache_first_bucket(key), key);

	return slot != NULL ? slot : cache_free_slot(cache_second_bucket(key), key);
}

/*
 * Where in this bucket the entry of somebody is whom nobody has asked for; NULL
 * where there is none.
 */
static pg_atomic_uint64 *
cache_unasked_slot(pg_atomic_uint64 *bucket)
{
	for (int i = 0; i < BLOCK_WORDS; i += 2)
	{
		if (!ENTRY_ASKED_FOR(pg_atomic_read_u64(&bucket[i + 1])))
			return &bucket[i];
	}
	return NULL;
}

/*
 * Where to put the user's entry if both of its buckets are full.
 */
static pg_atomic_uint64 *
cache_give_up_slot(const UserKey *key)
{
	pg_atomic_uint64 *slot = cache_unasked_slot(cache_first_bucket(key));

	if (slot == NULL)
		slot = cache_unasked_slot(cache_second_bucket(key));
	if (slot == NULL)
		slot = &cache_first_bucket(key)[(key->high >> 32) % (BLOCK_WORDS / 2) * 2];
	return slot;
}

static void
cache_write_slot(pg_atomic_uint64 *slot, const UserKey *key, uint64 entry)
{
	/* whoever asks for the past may find out the same again and again */
	if (pg_atomic_read_u64(&slot[0]) == (CACHE_CHECK(key) ^ entry) &&
		pg_atomic_read_u64(&slot[1]) == entry)
		return;
	pg_atomic_write_u64(&slot[0], CACHE_CHECK(key) ^ entry);
	pg_atomic_write_u64(&slot[1], entry);
}

/*
 * Remember what was found under a snapshot with this xmin (of cache_xmin()),
 * unless that may already have changed.
 */
void
cache_store(const UserKey *key, bool opted_out, uint64 xmin)
{
	pg_atomic_uint64 *slot;
	uint64		writer = pg_atomic_read_u64(cache_group_writer(key));

	if (xmin <= writer)
		return;
	slot = cache_find_slot(key);
	if (slot == NULL)
		slot = cache_give_up_slot(key);
	cache_write_slot(slot, key, ENTRY(writer, true, opted_out));
}

/*
 * The same for a user who is opted out and whom nobody has asked for yet, so
 * that no other user's entry is given up.  Returns false where there is no room.
 */
bool
cache_fill(const UserKey *key, uint64 xmin)
{
	uint64		writer = pg_atomic_read_u64(cache_group_writer(key));
	pg_atomic_uint64 *slot = cache_find_slot(key);

	if (slot == NULL)
		return false;
	if (xmin > writer)
		cache_write_slot(slot, key, ENTRY(writer, false, true));
	return true;
}

/*
 * Have the processor fetch what storing the user needs.
 */
void
cache_prefetch(const UserKey *key)
{
	__builtin_prefetch(cache_first_bucket(key), 1);
}

/*
 * The current transaction has written a row of this user.
 */
void
cache_invalidate(const UserKey *key)
{
	cache_raise_writer(cache_group_writer(key), U64FromFullTransactionId(GetTopFullTransactionId()));
}

/*
 * Any transaction may have written rows of any user.
 */
void
cache_invalidate_all(void)
{
	uint64		youngest = U64FromFullTransactionId(ReadNextFullTransactionId()) - 1;

	for (int group = 0; group < CACHE_GROUPS; group++)
		cache_raise_writer(&shared->writers[group], youngest);
}

static void
cache_raise_writer(pg_atomic_uint64 *writer, uint64 xid)
{
	uint64		old = pg_atomic_read_u64(writer);

	while (old < xid && !pg_atomic_compare_exchange_u64(writer, &old, xid))
		;
}

/*
 * The xmin of a snapshot taken just now, as a full transaction id.
 */
uint64
cache_xmin(TransactionId xmin)
{
	FullTransactionId next = ReadNextFullTransactionId();
	uint32		epoch = EpochFromFullTransactionId(next);

	if (xmin > XidFromFullTransactionId(next))
		epoch--;
	return U64FromFullTransactionId(FullTransactionIdFromEpochAndXid(epoch, xmin));
}
