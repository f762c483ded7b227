/*
 * filter.c
 *		The shared filter: what proves that a user has never been opted out.
 *
 * One Bloom filter in shared memory for the whole cluster.  Its keys are the
 * users of the state table, of every database: 128-bit hashes of database,
 * organisation and user id, with a random secret per server start.  Bits are
 * only ever set, so look-ups take no lock.  It is split into blocks of one
 * cache line; a key sets one bit in each of a block's eight words.
 *
 * A look-up costs a cache miss, and that costs the less the smaller the filter
 * is.  So there are filters of three sizes ("levels"), each an eighth of the
 * next.  Keys are added to the current level and all larger ones; look-ups use
 * the current one only.  When it has as many keys as are good for it, the next
 * one becomes the current one; it holds all keys already.  (Whoever still looks
 * at the smaller one began before any key was added to the larger ones only.)
 *
 * Why a miss proves that no committed row exists, with no snapshot and no lock:
 *
 * 1. An AFTER row trigger of the state table (ENABLE ALWAYS) sets a row's bits at
 *	  the end of the command that stored it, hence before anybody can see it.
 *	  Whoever learns of the commit looks at the bits after they were set.
 * 2. The rows that were there when the server started are added once per
 *	  database, by a scan under SnapshotAny, so that those of prepared
 *	  transactions count.  A row that is stored where the scan has been already
 *	  has its bits from its trigger.  Until the scan is done nobody trusts a miss.
 * 3. Rows can arrive while the trigger is disabled.  Disabling and enabling it
 *	  writes a new version of its pg_trigger row and sends a relcache
 *	  invalidation for the state table at commit.  So we remember which version
 *	  the keys were added under; every look-up accepts pending invalidations
 *	  first, and when one for the state table has come, the version is compared:
 *	  if it is another, the keys are added again; while the trigger is not
 *	  enabled ALWAYS, only the table is trusted.
 * 4. On a standby no trigger fires, so only the table is trusted there.
 *
 * What is rolled back leaves a false positive, which costs a look-up in the
 * table.  The filter never shrinks; an overfull one costs more such look-ups.
 *
 * The shared memory is there if the library is in shared_preload_libraries.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "port/atomics.h"
#include "port/pg_bitutils.h"
#include "portability/instr_time.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "compat.h"
#include "filter.h"
#include "ident.h"
#include "memo.h"
#include "periods.h"
#include "state.h"

/* the trigger of the state table that makes its rows known here */
#define FILTER_TRIGGER "optout_filter"

#define LEVELS 3
#define LEVEL_FACTOR 8

#define BLOCK_WORDS 8
#define BLOCK_SIZE (BLOCK_WORDS * sizeof(pg_atomic_uint64))

/* so many keys a block make 0.2 % false positives */
#define BLOCK_KEYS 36

/* how many databases can have their keys added; others use their tables */
#define MAX_DATABASES 256

/*
 * Which version of the state table's trigger.  Two versions of a catalog row
 * never share xmin and ctid, unless one is long dead and gone.  A database that
 * was made anew from the same template under the same OID differs in the xmin
 * of its pg_database row.
 */
typedef struct TriggerVersion
{
	TransactionId database_xmin;
	Oid			table;
	Oid			trigger;
	TransactionId xmin;
	ItemPointerData ctid;
} TriggerVersion;

typedef struct FilterDatabase
{
	Oid			database;
	TriggerVersion version;		/* the keys were added under this one */
} FilterDatabase;

typedef struct FilterShared
{
	uint64		secret;
	pg_atomic_uint32 level;		/* the current one */
	pg_atomic_uint64 keys;		/* how many have been added */
	pg_atomic_uint64 lookups[LOOKUP_KINDS];
	slock_t		mutex;			/* protects what follows */
	int			ndatabases;
	FilterDatabase databases[MAX_DATABASES];
} FilterShared;

PG_FUNCTION_INFO_V1(optout_add_to_filter);

/* settings */
bool		filter_enabled = true;
static int	filter_memory = 16384;	/* kB */

/* NULL where there is no shared memory */
static FilterShared *shared = NULL;
static pg_atomic_uint64 *level_blocks[LEVELS];
static uint64 level_nblocks[LEVELS];

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/* look-ups of this transaction, by what answered them */
uint64		filter_lookups[LOOKUP_KINDS];

/*
 * What this backend knows of the state table's trigger; valid until a relcache
 * invalidation for the table arrives.
 */
static bool version_valid = false;
static bool version_enabled;	/* fires always */
static bool version_loaded;		/* the filter holds the keys */
static TriggerVersion version;

static Size level_size(int level);
static Size shared_size(void);
static void request_shmem(void);
static void startup_shmem(void);
static void invalidate(Datum arg, Oid relid);
static bool sees_every_row(Relation pg_trigger, HeapTuple tuple);
static TransactionId database_xmin(void);
static void read_version(void);
static bool same_version(TriggerVersion *a, TriggerVersion *b);
static FilterDatabase *find_database(void);
static bool is_loaded(void);
static void load(void);
static inline pg_atomic_uint64 *block_of(int level, const UserKey *key);
static void raise_level(int level);
static void report_lookups(XactEvent event, void *arg);

/*
 * Define the settings this file owns.
 */
void
filter_define_settings(void)
{
	DefineCustomBoolVariable("optout.filter",
							 "Answers from shared filter and memo where they can.",
							 "Off makes every answer come from the table.",
							 &filter_enabled,
							 true,
							 PGC_SUSET,
							 0,
							 NULL, NULL, NULL);
	if (process_shared_preload_libraries_in_progress)
		DefineCustomIntVariable("optout.filter_memory",
								"Sets the size of the shared filter.",
								"2 bytes a key make less than 0.2 % false positives. 0 means no shared filter.",
								&filter_memory,
								16384,
								0,
								MAX_KILOBYTES,
								PGC_POSTMASTER,
								GUC_UNIT_KB,
								NULL, NULL, NULL);
}

/*
 * Ask for shared memory, and for being told when the state table changes.
 */
void
filter_install_hooks(void)
{
	CacheRegisterRelcacheCallback(invalidate, (Datum) 0);
	RegisterXactCallback(report_lookups, NULL);

	if (!process_shared_preload_libraries_in_progress)
		return;
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shmem;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_shmem;
}

/* in bytes; the largest level is what the setting says */
static Size
level_size(int level)
{
	Size		size = (Size) filter_memory * 1024;

	for (int i = LEVELS - 1; i > level; i--)
		size /= LEVEL_FACTOR;
	return TYPEALIGN(BLOCK_SIZE, size);
}

static Size
shared_size(void)
{
	/* a block more, so that blocks can be aligned to their size */
	Size		size = sizeof(FilterShared) + BLOCK_SIZE;

	for (int level = 0; level < LEVELS; level++)
		size = add_size(size, level_size(level));
	return size;
}

static void
request_shmem(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	if (filter_memory > 0)
		RequestAddinShmemSpace(shared_size());
}

static void
startup_shmem(void)
{
	bool		found;
	char	   *start;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	if (filter_memory == 0)
		return;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("optout", shared_size(), &found);
	start = (char *) TYPEALIGN(BLOCK_SIZE, (char *) shared + sizeof(FilterShared));
	for (int level = 0; level < LEVELS; level++)
	{
		level_blocks[level] = (pg_atomic_uint64 *) start;
		level_nblocks[level] = level_size(level) / BLOCK_SIZE;
		start += level_size(level);
	}
	if (!found)
	{
		/* a zero is a valid value of an atomic */
		memset(shared, 0, shared_size());
		if (!pg_strong_random(&shared->secret, sizeof(shared->secret)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random secret")));
		SpinLockInit(&shared->mutex);
	}
	LWLockRelease(AddinShmemInitLock);
}

/*
 * Relcache callback: the state table has been written to or altered, or
 * everything may have changed.
 */
static void
invalidate(Datum arg pg_attribute_unused(), Oid relid)
{
	if (relid == version.table || !OidIsValid(relid))
	{
		version_valid = false;
		memo_invalidate();
	}
}

/*
 * Is the trigger the one that the extension made, and does it always fire?
 */
static bool
sees_every_row(Relation pg_trigger, HeapTuple tuple)
{
	Form_pg_trigger trigger = (Form_pg_trigger) GETSTRUCT(tuple);

	return trigger->tgenabled == TRIGGER_FIRES_ALWAYS &&
		trigger->tgtype == (TRIGGER_TYPE_ROW | TRIGGER_TYPE_AFTER | TRIGGER_TYPE_INSERT |
							TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE) &&
		trigger->tgattr.dim1 == 0 &&
		heap_attisnull(tuple, Anum_pg_trigger_tgqual, RelationGetDescr(pg_trigger)) &&
		trigger->tgfoid == LookupFuncName(list_make2(makeString("optout"),
													 makeString("add_to_filter")),
										  0, NULL, true);
}

static TransactionId
database_xmin(void)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(MyDatabaseId));
	TransactionId xmin;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for database %u", MyDatabaseId);
	xmin = HeapTupleHeaderGetRawXmin(tuple->t_data);
	ReleaseSysCache(tuple);
	return xmin;
}

/*
 * Read the state table's trigger from the catalog.
 */
static void
read_version(void)
{
	Relation	rel = state_open("opt_out_period", AccessShareLock);
	Relation	pg_trigger;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	/* first, so that an invalidation that comes meanwhile is not lost */
	version.table = RelationGetRelid(rel);
	version_valid = true;
	version_enabled = false;
	version_loaded = false;

	pg_trigger = table_open(TriggerRelationId, AccessShareLock);
	ScanKeyInit(&keys[0], Anum_pg_trigger_tgrelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(RelationGetRelid(rel)));
	ScanKeyInit(&keys[1], Anum_pg_trigger_tgname, BTEqualStrategyNumber,
				F_NAMEEQ, CStringGetDatum(FILTER_TRIGGER));
	scan = systable_beginscan(pg_trigger, TriggerRelidNameIndexId, true, NULL, 2, keys);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		Form_pg_trigger trigger = (Form_pg_trigger) GETSTRUCT(tuple);

		version.database_xmin = database_xmin();
		version.trigger = trigger->oid;
		version.xmin = HeapTupleHeaderGetRawXmin(tuple->t_data);
		version.ctid = tuple->t_self;
		version_enabled = sees_every_row(pg_trigger, tuple);
	}
	systable_endscan(scan);
	table_close(pg_trigger, AccessShareLock);
	table_close(rel, NoLock);
}

static bool
same_version(TriggerVersion *a, TriggerVersion *b)
{
	return a->database_xmin == b->database_xmin &&
		a->table == b->table && a->trigger == b->trigger &&
		a->xmin == b->xmin && ItemPointerEquals(&a->ctid, &b->ctid);
}

/*
 * This database's entry, a new one if there is none yet, NULL if there is no
 * room for one.  The caller holds the mutex.
 */
static FilterDatabase *
find_database(void)
{
	FilterDatabase *entry;

	for (int i = 0; i < shared->ndatabases; i++)
	{
		if (shared->databases[i].database == MyDatabaseId)
			return &shared->databases[i];
	}
	if (shared->ndatabases == MAX_DATABASES)
		return NULL;
	entry = &shared->databases[shared->ndatabases++];
	memset(entry, 0, sizeof(FilterDatabase));
	entry->database = MyDatabaseId;
	return entry;
}

/*
 * Have this database's keys been added under this version of the trigger?
 */
static bool
is_loaded(void)
{
	FilterDatabase *entry;
	bool		result;

	SpinLockAcquire(&shared->mutex);
	entry = find_database();
	result = entry != NULL && same_version(&entry->version, &version);
	SpinLockRelease(&shared->mutex);
	return result;
}

/*
 * Add the keys of all rows of the state table, unless they have been added,
 * or somebody else is doing so, or there is no room to remember it.
 */
static void
load(void)
{
	LOCKTAG		tag;
	TriggerVersion loading = version;
	FilterDatabase *entry;

	SpinLockAcquire(&shared->mutex);
	entry = find_database();
	SpinLockRelease(&shared->mutex);
	if (entry == NULL)
		return;

	/* an error releases this lock */
	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, TriggerRelationId, version.trigger, 0);
	if (LockAcquire(&tag, ExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return;

	if (!is_loaded())
	{
		instr_time	start;
		instr_time	duration;
		uint64		nrows = 0;
		Relation	rel;
		TableScanDesc scan;
		HeapTuple	tuple;
		UserKey		pending[16];

		INSTR_TIME_SET_CURRENT(start);
		rel = state_open("opt_out_period", AccessShareLock);
		scan = table_beginscan(rel, SnapshotAny, 0, NULL);
		while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
		{
			CHECK_FOR_INTERRUPTS();

			/* have the blocks fetched while we go on with the next rows */
			if (nrows >= lengthof(pending))
				filter_add(&pending[nrows % lengthof(pending)]);
			pending[nrows % lengthof(pending)] = periods_key(rel, tuple);
			for (int level = pg_atomic_read_u32(&shared->level); level < LEVELS; level++)
				__builtin_prefetch(block_of(level, &pending[nrows % lengthof(pending)]));
			nrows++;
		}
		for (uint64 i = 0; i < Min(nrows, lengthof(pending)); i++)
			filter_add(&pending[i]);
		table_endscan(scan);
		table_close(rel, NoLock);
		INSTR_TIME_SET_CURRENT(duration);
		INSTR_TIME_SUBTRACT(duration, start);

		/* entries never move */
		SpinLockAcquire(&shared->mutex);
		entry->version = loading;
		SpinLockRelease(&shared->mutex);

		ereport(LOG,
				(errmsg("optout added the keys of " UINT64_FORMAT " rows to the shared filter in %.1f ms",
						nrows, INSTR_TIME_GET_MILLISEC(duration))));
	}
	LockRelease(&tag, ExclusiveLock, false);

	/* not version itself, which an invalidation may have outdated meanwhile */
	if (same_version(&loading, &version))
		version_loaded = true;
}

/*
 * How far filter and memo can be trusted now.  To be asked before each look-up:
 * it accepts pending invalidations, which the memo relies on, too.
 */
FilterState
filter_state(void)
{
	if (!filter_enabled || RecoveryInProgress())
		return FILTER_TABLE_ONLY;

	AcceptInvalidationMessages();
	if (unlikely(!version_valid))
		read_version();
	if (unlikely(!version_enabled))
		return FILTER_TABLE_ONLY;
	if (likely(version_loaded))
		return FILTER_READY;
	if (shared == NULL)
		return FILTER_LOADING;

	if (is_loaded())
		version_loaded = true;
	else
		load();
	return version_valid && version_enabled && version_loaded ? FILTER_READY : FILTER_LOADING;
}

/*
 * Whether there is a shared filter at all.
 */
bool
filter_present(void)
{
	return shared != NULL;
}

/*
 * The key of a user in this database.
 */
UserKey
filter_key(text *organization, text *user_id)
{
	/* the last organisation's seed: there are few of them */
	static char last[IDENT_MAX_LEN];
	static int	last_len = -1;
	static uint64 seed;

	const char *org = VARDATA_ANY(organization);
	int			len = VARSIZE_ANY_EXHDR(organization);
	XXH128_hash_t hash;
	UserKey		key;

	if (len != last_len || memcmp(org, last, len) != 0)
	{
		static uint64 own_secret = 0;
		uint64		secret;

		/* keys of the memo are as secret where there is no shared memory */
		if (own_secret == 0 && !pg_strong_random(&own_secret, sizeof(own_secret)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random secret")));
		secret = shared != NULL ? shared->secret : own_secret;

		if (len > IDENT_MAX_LEN)
			elog(ERROR, "organization has %d bytes", len);
		last_len = -1;
		memcpy(last, org, len);
		seed = XXH3_64bits_withSeed(org, len,
									XXH3_64bits_withSeed(&MyDatabaseId, sizeof(Oid), secret));
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
	return level_blocks[level] +
		BLOCK_WORDS * (uint64) (((uint128) key->low * level_nblocks[level]) >> 64);
}

/*
 * Use a larger level than this one, if there is one and nobody has yet.
 */
static void
raise_level(int level)
{
	uint32		expected = level;

	if (level < LEVELS - 1)
		pg_atomic_compare_exchange_u32(&shared->level, &expected, level + 1);
}

/*
 * Add a key.
 */
void
filter_add(const UserKey *key)
{
	int			level = pg_atomic_read_u32(&shared->level);
	bool		added = false;

	for (int i = level; i < LEVELS; i++)
	{
		pg_atomic_uint64 *block = block_of(i, key);
		uint64		bits = key->high;

		added = false;
		for (int word = 0; word < BLOCK_WORDS; word++, bits >>= 6)
		{
			uint64		bit = UINT64CONST(1) << (bits & 63);

			if ((pg_atomic_read_u64(&block[word]) & bit) == 0)
			{
				pg_atomic_fetch_or_u64(&block[word], bit);
				added = true;
			}
		}
	}

	/* new to the largest level: a new key */
	if (added &&
		pg_atomic_add_fetch_u64(&shared->keys, 1) > level_nblocks[level] * BLOCK_KEYS)
		raise_level(level);
}

/*
 * False: the key has not been added.  True: it may have been.
 */
bool
filter_maybe_contains(const UserKey *key)
{
	pg_atomic_uint64 *block = block_of(pg_atomic_read_u32(&shared->level), key);
	uint64		bits = key->high;

	for (int word = 0; word < BLOCK_WORDS; word++, bits >>= 6)
	{
		if ((pg_atomic_read_u64(&block[word]) & (UINT64CONST(1) << (bits & 63))) == 0)
			return false;
	}
	return true;
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

	if (shared == NULL)
		return false;

	stats->memory = (int64) shared_size();
	stats->keys = (int64) pg_atomic_read_u64(&shared->keys);
	for (int kind = 0; kind < LOOKUP_KINDS; kind++)
		stats->lookups[kind] = pg_atomic_read_u64(&shared->lookups[kind]);

	/*
	 * A key that was not added hits where all eight words of its block have
	 * its bit set.
	 */
	level = pg_atomic_read_u32(&shared->level);
	for (uint64 block = 0; block < level_nblocks[level]; block++)
	{
		double		hit = 1;

		CHECK_FOR_INTERRUPTS();
		for (int word = 0; word < BLOCK_WORDS; word++)
			hit *= pg_popcount64(pg_atomic_read_u64(&level_blocks[level][block * BLOCK_WORDS + word])) / 64.0;
		sum += hit;
	}
	stats->false_positive_rate = sum / level_nblocks[level];
	return true;
}

/*
 * optout.add_to_filter(), the state table's trigger: makes a row known before it
 * can be seen, and makes every backend forget what it remembers once the change
 * is committed.
 */
Datum
optout_add_to_filter(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" must be fired after a row is written",
						"optout.add_to_filter")));

	if (shared != NULL && !TRIGGER_FIRED_BY_DELETE(trigdata->tg_event))
	{
		UserKey		key = periods_key(trigdata->tg_relation,
									  TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) ?
									  trigdata->tg_newtuple : trigdata->tg_trigtuple);

		filter_add(&key);
	}
	CacheInvalidateRelcache(trigdata->tg_relation);
	return PointerGetDatum(NULL);
}
