/*
 * coverage.c
 *		Whether the shared filter covers every row of the state table, so that a
 *		miss proves that no committed row exists.
 *
 * It does so with no snapshot and no lock, because:
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
 *	  TRUNCATE fires no row trigger, but it gives the table another file, which
 *	  counts as another version: the cache (cache.c) must not outlive it.
 * 4. On a standby no trigger fires, so only the table is trusted there.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "portability/instr_time.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "cache.h"
#include "compat.h"
#include "complete.h"
#include "coverage.h"
#include "filter.h"
#include "memo.h"
#include "periods.h"
#include "progress.h"
#include "state.h"

/* the trigger of the state table that makes its rows known to the filter */
#define FILTER_TRIGGER "optout_filter"

/* so many keys are added at a time, while their blocks are being fetched */
#define LOAD_BATCH 64

PG_FUNCTION_INFO_V1(optout_add_to_filter);

/* setting */
bool		filter_enabled = true;

/*
 * What this backend knows of the state table's trigger; valid until a relcache
 * invalidation for the table arrives.
 */
bool		coverage_is_full = false;
static bool version_valid = false;
static uint64 invalidations = 0;
static bool version_enabled;	/* fires always */
static bool version_loaded;		/* the filter holds the keys */
static TriggerVersion version;

static void invalidate(Datum arg, Oid relid);
static bool sees_every_row(Relation pg_trigger, HeapTuple tuple);
static TransactionId database_xmin(void);
static void read_version(void);
static bool same_version(TriggerVersion *a, TriggerVersion *b);
static SharedDatabase *find_database(void);
static bool is_loaded(void);
static SharedDatabase *make_database(void);
static void set_loaded(SharedDatabase *entry, const TriggerVersion *loaded);
static uint64 add_all(void);
static void load(void);

/*
 * Define the settings this file owns.
 */
void
coverage_define_settings(void)
{
	DefineCustomBoolVariable("optout.filter",
							 "Answers from shared filter and memo where they can.",
							 "Off makes every answer come from the table.",
							 &filter_enabled,
							 true,
							 PGC_SUSET,
							 0,
							 NULL, NULL, NULL);
}

/*
 * Ask for being told when the state table changes.
 */
void
coverage_install_hooks(void)
{
	CacheRegisterRelcacheCallback(invalidate, (Datum) 0);
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
		invalidations++;
		version_valid = false;
		coverage_is_full = false;
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
	uint64		invalidations_before;

	/* first, so that an invalidation that comes meanwhile is not lost */
	invalidations_before = invalidations;
	version.table = RelationGetRelid(rel);
	version.relfilenode = rel->rd_rel->relfilenode;
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

	/* not before: an error on the way must leave it to be read again */
	version_valid = invalidations == invalidations_before;
}

static bool
same_version(TriggerVersion *a, TriggerVersion *b)
{
	return a->database_xmin == b->database_xmin &&
		a->table == b->table && a->relfilenode == b->relfilenode &&
		a->trigger == b->trigger &&
		a->xmin == b->xmin && ItemPointerEquals(&a->ctid, &b->ctid);
}

/*
 * This database's entry, or NULL.  The caller holds the lock.
 */
static SharedDatabase *
find_database(void)
{
	for (int i = 0; i < shared->ndatabases; i++)
	{
		if (shared->databases[i].database == MyDatabaseId)
			return &shared->databases[i];
	}
	return NULL;
}

/*
 * Have this database's keys been added under this version of the trigger?
 */
static bool
is_loaded(void)
{
	SharedDatabase *entry;
	bool		result;

	LWLockAcquire(&shared->lock, LW_SHARED);
	entry = find_database();
	result = entry != NULL && same_version(&entry->version, &version);
	LWLockRelease(&shared->lock);
	return result;
}

/*
 * This database's entry, made if there is none; NULL where there is no room.
 */
static SharedDatabase *
make_database(void)
{
	SharedDatabase *entry;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	entry = find_database();
	if (entry == NULL && shared->ndatabases < MAX_DATABASES)
	{
		/* no version is that of all zeroes */
		entry = &shared->databases[shared->ndatabases++];
		entry->database = MyDatabaseId;
	}
	LWLockRelease(&shared->lock);
	return entry;
}

/*
 * Remember that they have.
 */
static void
set_loaded(SharedDatabase *entry, const TriggerVersion *loaded)
{
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	entry->version = *loaded;
	LWLockRelease(&shared->lock);
}

/*
 * Add the keys of all rows of the state table.  Returns how many rows.
 */
static uint64
add_all(void)
{
	Relation	rel = state_open("opt_out_period", AccessShareLock);
	TableScanDesc scan = table_beginscan(rel, SnapshotAny, 0, NULL, SO_NONE);
	HeapScanDesc heap_scan = (HeapScanDesc) scan;
	HeapTuple	tuple;
	UserKey		batch[LOAD_BATCH];
	uint64		nrows = 0;
	BlockNumber last_block = InvalidBlockNumber;

	progress_begin(PROGRESS_ADD_KEYS, PROGRESS_READING, heap_scan->rs_nblocks);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		UserKey    *key = &batch[nrows++ % LOAD_BATCH];
		BlockNumber block = ItemPointerGetBlockNumber(&tuple->t_self);

		CHECK_FOR_INTERRUPTS();
		if (block != last_block)
		{
			/* it may have begun in the middle, with somebody else's scan */
			progress_set((block + heap_scan->rs_nblocks - heap_scan->rs_startblock) % heap_scan->rs_nblocks);
			last_block = block;
		}
		*key = periods_key(rel, tuple);
		filter_prefetch(key);
		if (nrows % LOAD_BATCH == 0)
			filter_add(batch, LOAD_BATCH);
	}
	filter_add(batch, nrows % LOAD_BATCH);
	table_endscan(scan);
	table_close(rel, NoLock);
	progress_end();
	return nrows;
}

/*
 * See that this database's keys are added, unless somebody else is doing so, or
 * there is no room to remember it.
 */
static void
load(void)
{
	LOCKTAG		tag;
	TriggerVersion loading = version;
	SharedDatabase *entry;
	bool		loaded;

	/* an error releases this lock */
	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, TriggerRelationId, version.trigger, 0);
	if (LockAcquire(&tag, ExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return;

	loaded = is_loaded();
	if (!loaded && (entry = make_database()) != NULL)
	{
		instr_time	start;
		instr_time	duration;
		uint64		nrows;

		INSTR_TIME_SET_CURRENT(start);
		cache_invalidate_all();
		nrows = add_all();
		INSTR_TIME_SET_CURRENT(duration);
		INSTR_TIME_SUBTRACT(duration, start);

		set_loaded(entry, &loading);
		loaded = true;
		ereport(LOG,
				(errmsg("optout added the keys of " UINT64_FORMAT " rows to the shared filter in %.1f ms",
						nrows, INSTR_TIME_GET_MILLISEC(duration))));
	}
	LockRelease(&tag, ExclusiveLock, false);

	/* not version itself, which an invalidation may have outdated meanwhile */
	if (loaded && same_version(&loading, &version))
		version_loaded = true;
}

/*
 * What coverage() says where there is more to be done.
 */
Coverage
coverage_check(void)
{
	if (!filter_enabled || RecoveryInProgress())
		return COVERAGE_UNKNOWN;
	if (!version_valid)
		read_version();
	if (!version_enabled)
		return COVERAGE_UNKNOWN;

	if (!version_loaded)
	{
		if (!shared_attach_to_read())
			return COVERAGE_PARTIAL;
		if (is_loaded())
			version_loaded = true;
		else
			load();
	}
	/* an invalidation may have come meanwhile */
	coverage_is_full = complete() && complete_is_valid && version_valid && version_loaded;
	return coverage_is_full ? COVERAGE_FULL : COVERAGE_PARTIAL;
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
	/* other rows have other columns */
	if (!state_is(trigdata->tg_relation, "opt_out_period"))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" cannot be a trigger of relation \"%s\"",
						"optout.add_to_filter",
						RelationGetRelationName(trigdata->tg_relation)),
				 errdetail("It is for the table optout.opt_out_period only.")));

	if (shared_attach_to_write())
	{
		/* of an update or a deletion the old row, of an insertion the new one */
		UserKey		key = periods_key(trigdata->tg_relation, trigdata->tg_trigtuple);

		cache_invalidate(&key);
		if (TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event))
		{
			key = periods_key(trigdata->tg_relation, trigdata->tg_newtuple);
			cache_invalidate(&key);
		}
		if (!TRIGGER_FIRED_BY_DELETE(trigdata->tg_event))
			filter_add(&key, 1);
	}
	CacheInvalidateRelcache(trigdata->tg_relation);
	progress_count_row();
	return PointerGetDatum(NULL);
}
