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
 * trigger does so before that transaction can commit.  An entry is stored with
 * that transaction's id, and only if the snapshot it rests on was taken when
 * this and all older transactions had ended, so that it saw what the group's
 * writers did.  (Who writes later has a higher id, and so has who was still
 * running then.)  It is valid as long as that id is still the group's.
 *
 * When the keys are added to the filter, writers may have gone unseen; then
 * every transaction there has been so far is taken for a writer of all groups.
 *
 * What a transaction's own rows say must not get in here before they are
 * committed.  While it can see rows that the trigger has not fired for yet, it
 * stores nothing (coverage.c).  The trigger fired, the group's writer is the
 * transaction itself, and no snapshot of its own has a younger xmin.
 *
 * There are no locks.  An entry's first word is the key XOR the second word, so
 * an entry that is read while it is being replaced, or replaced by two backends
 * at once, fails the comparison of keys and counts as a miss.
 *
 * The cache keeps those who are asked for.  It is filled with others only while
 * the keys are added, and only where there is room.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"

#include "cache.h"

/* what an entry says, in its second word: the writer's id and one bit */
#define ENTRY(writer, opted_out) ((writer) << 1 | ((opted_out) ? 1 : 0))
#define ENTRY_WRITER(entry) ((entry) >> 1)
#define ENTRY_OPTED_OUT(entry) (((entry) & 1) != 0)

static inline pg_atomic_uint64 *bucket_of(const UserKey *key);
static inline pg_atomic_uint64 *writer_of(const UserKey *key);
static pg_atomic_uint64 *cache_find_slot(const UserKey *key);
static void cache_write_slot(pg_atomic_uint64 *slot, const UserKey *key, uint64 entry);
static void raise_writer(pg_atomic_uint64 *writer, uint64 xid);

/* the low bits, as in the memo's hash table, so that it is copied in order */
static inline pg_atomic_uint64 *
bucket_of(const UserKey *key)
{
	return shared_cache + BLOCK_WORDS * (key->low & (shared->nbuckets - 1));
}

static inline pg_atomic_uint64 *
writer_of(const UserKey *key)
{
	return &shared->writers[(key->low >> 32) % CACHE_GROUPS];
}

/*
 * Whether the user is opted out now, if that is known here.
 */
bool
cache_find(const UserKey *key, bool *opted_out)
{
	pg_atomic_uint64 *bucket = bucket_of(key);
	uint64		writer = pg_atomic_read_u64(writer_of(key));

	for (int i = 0; i < BLOCK_WORDS; i += 2)
	{
		uint64		check = pg_atomic_read_u64(&bucket[i]);
		uint64		entry = pg_atomic_read_u64(&bucket[i + 1]);

		if ((check ^ entry) == key->high && ENTRY_WRITER(entry) == writer)
		{
			*opted_out = ENTRY_OPTED_OUT(entry);
			return true;
		}
	}
	return false;
}

/*
 * Where the user's own entry is, or an empty one; NULL where there is neither.
 */
static pg_atomic_uint64 *
cache_find_slot(const UserKey *key)
{
	pg_atomic_uint64 *bucket = bucket_of(key);

	for (int i = 0; i < BLOCK_WORDS; i += 2)
	{
		uint64		check = pg_atomic_read_u64(&bucket[i]);
		uint64		entry = pg_atomic_read_u64(&bucket[i + 1]);

		if ((check ^ entry) == key->high || entry == 0)
			return &bucket[i];
	}
	return NULL;
}

static void
cache_write_slot(pg_atomic_uint64 *slot, const UserKey *key, uint64 entry)
{
	pg_atomic_write_u64(&slot[0], key->high ^ entry);
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
	uint64		writer = pg_atomic_read_u64(writer_of(key));

	if (xmin <= writer)
		return;
	slot = cache_find_slot(key);
	if (slot == NULL)
		slot = &bucket_of(key)[key->high % (BLOCK_WORDS / 2) * 2];
	cache_write_slot(slot, key, ENTRY(writer, opted_out));
}

/*
 * The same for a user who is opted out and whom nobody has asked for yet, so
 * that no other user's entry is given up.  Returns false where there is no room.
 */
bool
cache_fill(const UserKey *key, uint64 xmin)
{
	uint64		writer = pg_atomic_read_u64(writer_of(key));
	pg_atomic_uint64 *slot = cache_find_slot(key);

	if (slot == NULL)
		return false;
	if (xmin > writer)
		cache_write_slot(slot, key, ENTRY(writer, true));
	return true;
}

/*
 * Have the processor fetch what storing the user needs.
 */
void
cache_prefetch(const UserKey *key)
{
	__builtin_prefetch(bucket_of(key), 1);
}

/*
 * The current transaction has written a row of this user.
 */
void
cache_invalidate(const UserKey *key)
{
	raise_writer(writer_of(key), U64FromFullTransactionId(GetTopFullTransactionId()));
}

/*
 * Any transaction may have written rows of any user.
 */
void
cache_invalidate_all(void)
{
	uint64		youngest = U64FromFullTransactionId(ReadNextFullTransactionId()) - 1;

	for (int group = 0; group < CACHE_GROUPS; group++)
		raise_writer(&shared->writers[group], youngest);
}

static void
raise_writer(pg_atomic_uint64 *writer, uint64 xid)
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
