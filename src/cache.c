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
 * There are no locks.  An entry is two words, the first of which has been
 * combined with the second; one that is read while it is being replaced, or
 * replaced by two backends at once, looks like another user's.
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
static void raise_writer(pg_atomic_uint64 *writer, uint64 xid);
static uint64 full_xid(TransactionId xid);

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
 * Remember what was found under a snapshot with this xmin, unless that may
 * already have changed.
 */
void
cache_store(const UserKey *key, bool opted_out, TransactionId xmin)
{
	pg_atomic_uint64 *bucket = bucket_of(key);
	pg_atomic_uint64 *slot = NULL;
	uint64		writer = pg_atomic_read_u64(writer_of(key));
	uint64		new = ENTRY(writer, opted_out);

	if (full_xid(xmin) <= writer)
		return;

	/* the user's own entry or an empty one, else any */
	for (int i = 0; i < BLOCK_WORDS && slot == NULL; i += 2)
	{
		uint64		check = pg_atomic_read_u64(&bucket[i]);
		uint64		entry = pg_atomic_read_u64(&bucket[i + 1]);

		if ((check ^ entry) == key->high || entry == 0)
			slot = &bucket[i];
	}
	if (slot == NULL)
		slot = &bucket[key->high % (BLOCK_WORDS / 2) * 2];

	pg_atomic_write_u64(&slot[0], key->high ^ new);
	pg_atomic_write_u64(&slot[1], new);
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

/* of a transaction that was running, or the next, when a snapshot was taken */
static uint64
full_xid(TransactionId xid)
{
	FullTransactionId next = ReadNextFullTransactionId();
	uint32		epoch = EpochFromFullTransactionId(next);

	if (xid > XidFromFullTransactionId(next))
		epoch--;
	return U64FromFullTransactionId(FullTransactionIdFromEpochAndXid(epoch, xid));
}
