/*
 * coverage.c
 *		Whether the shared filter covers every row of the state table, so that a
 *		miss proves that no committed row exists.
 *
 * This holds without a snapshot, because:
 *
 * 1. An AFTER row trigger of the state table (ENABLE ALWAYS) sets a row's bits at
 *	  the end of the command that stored it, hence before anybody else can see it.
 *	  Whoever learns of the commit looks at the bits after they were set.
 *	  Only the transaction itself can see the row earlier, in a command that a
 *	  trigger or a function runs within the one that stores it.  So before its
 *	  first look-up in each command it makes sure that no such trigger is pending,
 *	  and goes by the table where one is.
 * 2. The rows that were there when the server started are added once per
 *	  database (see below).  Until that is done nobody trusts a miss.
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
 *
 * Looking at invalidations for each row costs more than the filter itself.
 * So a transaction that asks whether events may be stored takes a lock on the
 * state table that conflicts with whatever disables, enables, replaces or
 * renames the trigger and with TRUNCATE and DROP, but not with writers.
 * While it holds that lock, others can do none of this.  It knows what they
 * did before: invalidations are sent before the lock is released, and taking
 * a lock accepts them.  This is PostgreSQL's own rule: a backend that holds a
 * lock on a relation need not look again.  So within the transaction it is
 * enough for filter and cache to compare two numbers, its own and its
 * command's.  They are void as soon as
 *
 * - this session alters the trigger, truncates or drops the table, or undoes
 *	 that by ROLLBACK TO: the invalidation is local, and processed at the end of
 *	 the command or subtransaction;
 * - the setting optout.filter changes: its assign hook sees to it;
 * - a new command begins, which may see rows of the transaction's own that the
 *	 trigger has not fired for (see 1.);
 * - the transaction ends, or is prepared: the number is another one.
 *
 * Ingest must not wait for a prepared transaction that has disabled the
 * trigger, nor for a session that itself waits to alter the table.  So the
 * lock is taken only if that is possible at once.  Otherwise the transaction
 * looks at invalidations for each row, as is_opted_out() does, which takes no
 * lock at all.  On a standby the lock can be had, but coverage is never full
 * there.  A renamed schema is noticed when a transaction takes the lock,
 * because it looks up the table by name.
 *
 * The keys are added page by page, from every tuple of the page, visible or
 * not, so that those of prepared transactions count.  Shared memory says how
 * far that has come.  Any session that asks goes on with it, for a few
 * milliseconds at a time and no more than half of its time.  It takes a lock
 * for that, if nobody else holds it, so that only one session does so at a
 * time.  Memo and table answer meanwhile.  Progress is recorded after each
 * page, so a session that is cancelled, fails or is terminated loses one page
 * at most.
 *
 * Between two pages no lock is held.  That is sound, whatever happens there:
 *
 * - A row that is stored where we have been already, or behind the last block
 *	 that there was when the adding began, has its bits from the trigger.  It was
 *	 enabled by then: the version that we began with had been committed, and
 *	 whoever commits one has waited for all writers before, as ALTER TABLE locks
 *	 them out, so writers since go by this one or by a later one.  An update that
 *	 moves a row from where we have not been to where we have been stores it, too.
 * - VACUUM removes rows that nobody can see, and moves none.  Blocks that it
 *	 truncates are missing at the end; if they come back, they hold new rows.
 * - VACUUM FULL, CLUSTER, TRUNCATE and other commands that rewrite the table
 *	 give it another file, and with the trigger disabled and enabled again
 *	 there is another row of pg_trigger.  Either is another version: whoever
 *	 notices first begins again.  A session that is still at the old version
 *	 cannot record its page as done, because both version and block are
 *	 compared.
 * - A version that the transaction has made itself may be rolled back, so it is
 *	 not added before it is committed, or two sessions could keep each other from
 *	 getting on.  That transaction holds the lock that made it.
 * - A crash takes the shared memory with it.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/parallel.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "catalog/pg_trigger.h"
#include "commands/dbcommands.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "cache.h"
#include "compat.h"
#include "complete.h"
#include "coverage.h"
#include "filter.h"
#include "key.h"
#include "memo.h"
#include "periods.h"
#include "progress.h"
#include "tables.h"

/* the trigger of the state table that makes its rows known to the filter */
#define FILTER_TRIGGER "optout_filter"

/* the relation that stands for a change of the state table's rows */
#define CHANGE_RELATION "period_change"

/* keys are added for so many microseconds at a time */
#define SLICE UINT64CONST(5000)

/* who could not, for somebody else was at it, tries again after so many */
#define BUSY_DELAY UINT64CONST(1000)

/* and where there is no room for another database, after so many */
#define NO_ROOM_DELAY UINT64CONST(10000000)

PG_FUNCTION_INFO_V1(optout_add_to_filter);

/* setting */
bool		filter_enabled = true;

/*
 * What this backend knows of the state table's trigger; valid until a relcache
 * invalidation for the table arrives.
 */
bool		coverage_is_full = false;
CommandId	coverage_command = InvalidCommandId;
LocalTransactionId coverage_held_transaction = InvalidLocalTransactionId;
CommandId	coverage_held_command;
static LocalTransactionId locked_transaction = InvalidLocalTransactionId;
static bool version_valid = false;
static uint64 invalidations = 0;
static bool version_enabled;	/* fires always */
static bool version_loaded;		/* the filter holds the keys */
static TriggerVersion version;
static Oid	change_relation = InvalidOid;	/* there is none before 1.2 */

/* for this command rows of our own are pending that the trigger has not seen */
static bool sees_pending_rows;

/* this backend does not add keys before then, by shared_clock() */
static uint64 load_not_before = 0;
static bool no_room = false;	/* nobody can, for this database */

static void coverage_assign_filter(bool newval, void *extra);
static void coverage_forget(void);
static void coverage_invalidate(Datum arg, Oid relid);
static bool coverage_sees_every_row(Relation pg_trigger, HeapTuple tuple);
static TransactionId coverage_database_xmin(void);
static void coverage_read_version(void);
static bool coverage_same_version(TriggerVersion *a, TriggerVersion *b);
static bool coverage_sees_pending_rows(void);
static bool coverage_leader_writes(void);
static SharedDatabase *coverage_find_database(void);
static bool coverage_is_complete(const SharedDatabase *entry);
static bool coverage_is_loaded(void);
static SharedDatabase *coverage_make_database(void);
static bool coverage_take_over_entry(void);
static void coverage_say_no_room(void);
static BlockNumber coverage_begin_load(SharedDatabase *entry, Relation rel);
static int	coverage_add_block(Relation rel, BlockNumber block, BufferAccessStrategy strategy,
							   Snapshot snapshot, uint64 xmin, bool *fill_cache);
static bool coverage_note_block(SharedDatabase *entry, BlockNumber block, int nrows,
								bool cache_is_full, uint64 microseconds);
static void coverage_note_end(SharedDatabase *entry, BlockNumber block);
static void coverage_add_slice(Relation rel, uint64 begun);
static void coverage_load(void);
static void coverage_tell_of_change(Relation rel);
static void coverage_end_transaction(XactEvent event, void *arg);

/*
 * Define the settings this file owns.
 */
void
coverage_define_settings(void)
{
	DefineCustomBoolVariable("optout.filter",
							 "Lets the shared filter, the shared cache and the memo answer where they can.",
							 "If it is off, every answer comes from the table.",
							 &filter_enabled,
							 true,
							 PGC_SUSET,
							 0,
							 NULL, coverage_assign_filter, NULL);
}

static void
coverage_assign_filter(bool newval pg_attribute_unused(), void *extra pg_attribute_unused())
{
	coverage_held_transaction = InvalidLocalTransactionId;
}

/*
 * Ask for being told when the state table changes.
 */
void
coverage_install_hooks(void)
{
	CacheRegisterRelcacheCallback(coverage_invalidate, (Datum) 0);
	complete_install_hooks(coverage_forget);
	RegisterXactCallback(coverage_end_transaction, NULL);
}

/*
 * Transaction callback: the next one counts its commands anew.
 */
static void
coverage_end_transaction(XactEvent event pg_attribute_unused(), void *arg pg_attribute_unused())
{
	coverage_command = InvalidCommandId;
}

/*
 * Filter and cache are not to be trusted before coverage_check() has looked again.
 */
static void
coverage_forget(void)
{
	coverage_is_full = false;
	coverage_held_transaction = InvalidLocalTransactionId;
}

/*
 * Relcache callback: the state table has been written to, or it has been altered
 * or everything may have changed.
 */
static void
coverage_invalidate(Datum arg pg_attribute_unused(), Oid relid)
{
	if (OidIsValid(relid) && relid == change_relation)
		memo_invalidate();
	else if (relid == version.table || !OidIsValid(relid))
	{
		invalidations++;
		version_valid = false;
		coverage_forget();
		memo_invalidate();
	}
}

/*
 * Is the trigger the one that the extension made, and does it always fire?
 */
static bool
coverage_sees_every_row(Relation pg_trigger, HeapTuple tuple)
{
	Form_pg_trigger trigger = (Form_pg_trigger) GETSTRUCT(tuple);

	return trigger->tgenabled == TRIGGER_FIRES_ALWAYS && !trigger->tgdeferrable &&
		trigger->tgtype == (TRIGGER_TYPE_ROW | TRIGGER_TYPE_AFTER | TRIGGER_TYPE_INSERT |
							TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE) &&
		trigger->tgattr.dim1 == 0 &&
		heap_attisnull(tuple, Anum_pg_trigger_tgqual, RelationGetDescr(pg_trigger)) &&
		trigger->tgfoid == tables_function("add_to_filter");
}

static TransactionId
coverage_database_xmin(void)
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
coverage_read_version(void)
{
	Relation	rel = tables_open("opt_out_period", AccessShareLock);
	Relation	pg_trigger;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	uint64		invalidations_before;

	/* first, so that an invalidation that comes meanwhile is not lost */
	invalidations_before = invalidations;
	load_not_before = 0;
	version.table = RelationGetRelid(rel);
	version.relfilenode = rel->rd_rel->relfilenode;
	change_relation = get_relname_relid(CHANGE_RELATION, RelationGetNamespace(rel));
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

		version.database_xmin = coverage_database_xmin();
		version.trigger = trigger->oid;
		version.xmin = HeapTupleHeaderGetRawXmin(tuple->t_data);
		version.ctid = tuple->t_self;
		version_enabled = coverage_sees_every_row(pg_trigger, tuple);
	}
	systable_endscan(scan);
	table_close(pg_trigger, AccessShareLock);
	table_close(rel, NoLock);

	/* not before: an error on the way must leave it to be read again */
	version_valid = invalidations == invalidations_before;
}

static bool
coverage_same_version(TriggerVersion *a, TriggerVersion *b)
{
	return a->database_xmin == b->database_xmin &&
		a->table == b->table && a->relfilenode == b->relfilenode &&
		a->trigger == b->trigger &&
		a->xmin == b->xmin && ItemPointerEquals(&a->ctid, &b->ctid);
}

/*
 * Are there rows that this transaction's current command can see, but that the
 * trigger has yet to fire for?  Then the command runs within the one that writes
 * them, which has the table open.  A parallel worker cannot see that of its
 * leader, so it asks whether the leader has written to the table at all.
 */
static bool
coverage_sees_pending_rows(void)
{
	Relation	rel;
	bool		pending;

	if (IsParallelWorker())
		return coverage_leader_writes();

	/* what is open stays; nothing else is looked at, so no lock is needed */
	rel = RelationIdGetRelation(version.table);
	if (rel == NULL)
		return false;
	pending = rel->rd_refcnt > 1 && AfterTriggerPendingOnRel(version.table);
	RelationClose(rel);
	return pending;
}

/*
 * Has the leader of this parallel worker written to the state table?  If so, it
 * holds a lock that conflicts with ShareLock.
 */
static bool
coverage_leader_writes(void)
{
	VirtualTransactionId leader;
	VirtualTransactionId *writers;
	LOCKTAG		tag;

	if (!TransactionIdIsValid(GetTopTransactionIdIfAny()))
		return false;
	GET_VXID_FROM_PGPROC(leader, *MyProc->lockGroupLeader);
	SET_LOCKTAG_RELATION(tag, MyDatabaseId, version.table);
	for (writers = GetLockConflicts(&tag, ShareLock, NULL);
		 VirtualTransactionIdIsValid(*writers); writers++)
	{
		if (VirtualTransactionIdEquals(*writers, leader))
			return true;
	}
	return false;
}

/*
 * This database's entry, or NULL.  The caller holds the lock.
 */
static SharedDatabase *
coverage_find_database(void)
{
	for (int i = 0; i < shared->ndatabases; i++)
	{
		if (shared->databases[i].database == MyDatabaseId)
			return &shared->databases[i];
	}
	return NULL;
}

/*
 * Have all keys been added under the version that the entry names?
 */
static bool
coverage_is_complete(const SharedDatabase *entry)
{
	return entry->next >= entry->nblocks;
}

/*
 * Have this database's keys been added under this version of the trigger?
 */
static bool
coverage_is_loaded(void)
{
	SharedDatabase *entry;
	bool		result;

	LWLockAcquire(&shared->lock, LW_SHARED);
	entry = coverage_find_database();
	result = entry != NULL && coverage_same_version(&entry->version, &version) && coverage_is_complete(entry);
	LWLockRelease(&shared->lock);
	return result;
}

/*
 * This database's entry, made if there is none; NULL where there is no room.
 */
static SharedDatabase *
coverage_make_database(void)
{
	SharedDatabase *entry;

	do
	{
		LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
		entry = coverage_find_database();
		if (entry == NULL && shared->ndatabases < MAX_DATABASES)
		{
			/* no version is that of all zeroes */
			entry = &shared->databases[shared->ndatabases++];
			entry->database = MyDatabaseId;
		}
		LWLockRelease(&shared->lock);
	} while (entry == NULL && coverage_take_over_entry());
	return entry;
}

/*
 * Make the entry of a database that has been dropped ours.  Returns false if
 * there is none.
 *
 * Should somebody create a database with its number right now, nothing is lost
 * but what the entry remembers: keys that have been added stay.
 */
static bool
coverage_take_over_entry(void)
{
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		Oid			database;

		LWLockAcquire(&shared->lock, LW_SHARED);
		database = shared->databases[i].database;
		LWLockRelease(&shared->lock);

		if (SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(database)))
			continue;
		LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
		if (shared->databases[i].database == database && coverage_find_database() == NULL)
		{
			memset(&shared->databases[i], 0, sizeof(SharedDatabase));
			shared->databases[i].database = MyDatabaseId;
			shared->said_no_room = false;
		}
		LWLockRelease(&shared->lock);
		return true;
	}
	return false;
}

/*
 * Say in the server's log that there is no room, once until there is again.
 */
static void
coverage_say_no_room(void)
{
	bool		said;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	said = shared->said_no_room;
	shared->said_no_room = true;
	LWLockRelease(&shared->lock);
	if (!said)
		ereport(LOG,
				(errmsg("optout uses its table in database \"%s\", because the shared filter already serves %d databases",
						get_database_name(MyDatabaseId), MAX_DATABASES),
				 errhidestmt(true), errhidecontext(true)));
}

/*
 * Begin to add the keys under this version, unless somebody has.  Returns the
 * block to go on with.
 */
static BlockNumber
coverage_begin_load(SharedDatabase *entry, Relation rel)
{
	BlockNumber nblocks = RelationGetNumberOfBlocks(rel);
	BlockNumber next;
	bool		begun;

	LWLockAcquire(&shared->lock, LW_SHARED);
	begun = coverage_same_version(&entry->version, &version);
	next = entry->next;
	LWLockRelease(&shared->lock);
	if (begun)
		return next;

	/* before anybody fills it again */
	cache_invalidate_all();
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	entry->version = version;
	entry->nblocks = nblocks;
	entry->next = 0;
	entry->fill_cache = true;
	entry->nrows = 0;
	entry->microseconds = 0;
	LWLockRelease(&shared->lock);
	return 0;
}

/*
 * Add the keys of a block's rows.  While there is room in the cache, let it know
 * of the open periods among them that the snapshot sees; xmin is the snapshot's.
 * Returns how many rows there are.
 */
static int
coverage_add_block(Relation rel, BlockNumber block, BufferAccessStrategy strategy,
				   Snapshot snapshot, uint64 xmin, bool *fill_cache)
{
	Buffer		buffer;
	PGAlignedBlock copy;
	HeapTupleData tuple;
	OffsetNumber last;
	bool		visible[MaxHeapTuplesPerPage];
	UserKey		keys[MaxHeapTuplesPerPage];
	UserKey    *out[MaxHeapTuplesPerPage];
	int			nrows = 0;
	int			nout = 0;
	int			nfilled = 0;

	/* a copy, because a value may have to be decompressed */
	buffer = ReadBufferExtended(rel, MAIN_FORKNUM, block, RBM_NORMAL, strategy);
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	last = PageIsNew(BufferGetPage(buffer)) ? 0 : PageGetMaxOffsetNumber(BufferGetPage(buffer));
	memcpy(copy.data, BufferGetPage(buffer), BLCKSZ);
	tuple.t_tableOid = RelationGetRelid(rel);
	for (OffsetNumber offset = FirstOffsetNumber; *fill_cache && offset <= last; offset++)
	{
		ItemId		item = PageGetItemId(BufferGetPage(buffer), offset);

		if (!ItemIdIsNormal(item))
			continue;
		tuple.t_data = (HeapTupleHeader) PageGetItem(BufferGetPage(buffer), item);
		tuple.t_len = ItemIdGetLength(item);
		ItemPointerSet(&tuple.t_self, block, offset);
		visible[offset - 1] = HeapTupleSatisfiesVisibility(&tuple, snapshot, buffer);
	}
	UnlockReleaseBuffer(buffer);

	for (OffsetNumber offset = FirstOffsetNumber; offset <= last; offset++)
	{
		ItemId		item = PageGetItemId((Page) copy.data, offset);
		UserKey    *key = &keys[nrows];

		if (!ItemIdIsNormal(item))
			continue;
		tuple.t_data = (HeapTupleHeader) PageGetItem((Page) copy.data, item);
		tuple.t_len = ItemIdGetLength(item);
		*key = periods_key(&tuple);
		filter_prefetch(key);
		nrows++;
		if (*fill_cache && visible[offset - 1] && periods_is_open(rel, &tuple))
		{
			out[nout++] = key;
			cache_prefetch(key);
		}
	}
	filter_add(keys, nrows);

	for (int i = 0; i < nout; i++)
	{
		if (cache_fill(out[i], xmin))
			nfilled++;
	}
	/* a few may find no room sooner than others */
	if (nfilled < nout / 2)
		*fill_cache = false;
	return nrows;
}

/*
 * Note that a block is done.  Returns false where it was somebody else's to do:
 * the keys are being added under another version by now, say.
 */
static bool
coverage_note_block(SharedDatabase *entry, BlockNumber block, int nrows,
					bool cache_is_full, uint64 microseconds)
{
	bool		ours;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	ours = coverage_same_version(&entry->version, &version) && entry->next == block;
	if (ours)
	{
		entry->next = block + 1;
		if (cache_is_full)
			entry->fill_cache = false;
		entry->pid = MyProcPid;
		entry->nrows += nrows;
		entry->microseconds += microseconds;
	}
	LWLockRelease(&shared->lock);
	return ours;
}

/*
 * Note that all is done, for there is no such block any more, unless that was
 * somebody else's to do.
 */
static void
coverage_note_end(SharedDatabase *entry, BlockNumber block)
{
	SharedDatabase done;
	bool		ours;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	ours = coverage_same_version(&entry->version, &version) && entry->next == block;
	if (ours)
		entry->next = entry->nblocks;
	done = *entry;
	LWLockRelease(&shared->lock);
	if (ours)
		ereport(LOG,
				(errmsg("optout added the keys of " UINT64_FORMAT " rows to the shared filter in %.1f ms",
						done.nrows, done.microseconds / 1000.0),
				 errhidestmt(true), errhidecontext(true)));
}

/*
 * Go on adding keys, until all are added or it is time to stop.
 */
static void
coverage_add_slice(Relation rel, uint64 begun)
{
	SharedDatabase *entry = coverage_make_database();
	BufferAccessStrategy strategy;
	Snapshot	snapshot = NULL;
	uint64		xmin = 0;
	BlockNumber block;
	BlockNumber nblocks;
	bool		may_fill;
	bool		fill_cache;
	uint64		now = begun;

	no_room = entry == NULL;
	if (no_room)
	{
		coverage_say_no_room();
		return;
	}

	/* the table may have been truncated, but not while we have it open */
	block = coverage_begin_load(entry, rel);
	nblocks = Min(entry->nblocks, RelationGetNumberOfBlocks(rel));
	/* in parallel mode no snapshot can be taken */
	may_fill = fill_cache = entry->fill_cache && !IsInParallelMode();
	if (fill_cache)
	{
		snapshot = RegisterSnapshot(GetLatestSnapshot());
		xmin = cache_xmin(snapshot->xmin);
	}
	strategy = GetAccessStrategy(BAS_BULKREAD);
	while (block < nblocks && now - begun < SLICE)
	{
		int			nrows = coverage_add_block(rel, block, strategy, snapshot, xmin, &fill_cache);
		uint64		before = now;

		now = shared_clock();
		if (!coverage_note_block(entry, block, nrows, may_fill && !fill_cache, now - before))
			break;
		/* whoever adds the last ones says so */
		if (++block < nblocks)
			CHECK_FOR_INTERRUPTS();
	}
	FreeAccessStrategy(strategy);
	if (snapshot != NULL)
		UnregisterSnapshot(snapshot);
	if (block >= nblocks)
		coverage_note_end(entry, block);
}

/*
 * See that this database's keys are added, unless somebody else is doing so, or
 * it is not our turn.
 */
static void
coverage_load(void)
{
	LOCKTAG		tag;
	Relation	rel;
	uint64		begun = shared_clock();

	if (begun < load_not_before)
		return;
	if (coverage_is_loaded())
	{
		version_loaded = true;
		return;
	}

	/* an error releases this lock */
	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, TriggerRelationId, version.trigger, 0);
	if (LockAcquire(&tag, ExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
	{
		load_not_before = begun + BUSY_DELAY;
		return;
	}
	rel = tables_open("opt_out_period", AccessShareLock);

	/* opening it has told us of what others have done to it, if anything */
	if (version_valid && !CheckRelationLockedByMe(rel, ShareRowExclusiveLock, true))
	{
		if (!coverage_is_loaded())
			coverage_add_slice(rel, begun);
		if (no_room)
			load_not_before = begun + NO_ROOM_DELAY;
		else
		{
			uint64		now = shared_clock();

			load_not_before = now + (now - begun);
			version_loaded = coverage_is_loaded();
		}
	}
	table_close(rel, NoLock);
	LockRelease(&tag, ExclusiveLock, false);
}

/*
 * Lock the state table until the transaction ends so that coverage stays as it
 * is, if that can be done without waiting.  The caller has seen to it that the
 * lock belongs to the transaction, not to a subtransaction.
 */
bool
coverage_hold(void)
{
	/* what is known of the table is void as soon as it is dropped */
	Oid			table = version_valid ? version.table : tables_find("opt_out_period");

	while (ConditionalLockRelationOid(table, RowExclusiveLock))
	{
		Oid			found = tables_find("opt_out_period");

		if (found == table)
		{
			/* the planner may have asked before, without the lock */
			locked_transaction = MyLocalTransactionId;
			coverage_command = InvalidCommandId;
			return true;
		}
		/* it has been dropped, and another made */
		UnlockRelationOid(table, RowExclusiveLock);
		table = found;
	}
	return false;
}

/*
 * What coverage_now() says where there is more to be done.
 */
Coverage
coverage_check(void)
{
	if (!filter_enabled || RecoveryInProgress())
		return COVERAGE_UNKNOWN;
	if (!version_valid)
		coverage_read_version();
	if (!version_enabled)
		return COVERAGE_UNKNOWN;

	if (coverage_command != GetCurrentCommandId(false))
	{
		coverage_is_full = false;
		sees_pending_rows = coverage_sees_pending_rows();
		coverage_command = GetCurrentCommandId(false);
	}
	if (sees_pending_rows)
		return COVERAGE_UNKNOWN;

	if (!version_loaded && shared_attach_to_read())
		coverage_load();
	/* an invalidation may have come meanwhile */
	coverage_is_full = complete() && complete_is_valid && version_valid && version_loaded;
	if (!coverage_is_full)
		return COVERAGE_PARTIAL;
	if (locked_transaction == MyLocalTransactionId)
	{
		coverage_held_transaction = MyLocalTransactionId;
		coverage_held_command = coverage_command;
	}
	return COVERAGE_FULL;
}

/*
 * What optout.status shows as shared_filter.
 */
const char *
coverage_state(void)
{
	Coverage	covered;

	/* find out, be it our turn or not */
	load_not_before = 0;
	covered = coverage_now();
	if (!complete())
		return "incomplete";
	if (!filter_enabled)
		return "off";
	if (shared_blocks[0] == NULL)
		return "absent";
	if (covered == COVERAGE_FULL)
		return "ready";
	if (covered == COVERAGE_UNKNOWN)
		return "not used";
	return no_room ? "no room" : "loading";
}

/*
 * How far the adding of this database's keys has come; false if it has not begun
 * or is done.
 */
bool
coverage_loading(SharedDatabase *load)
{
	SharedDatabase *entry;

	if (shared_blocks[0] == NULL)
		return false;
	LWLockAcquire(&shared->lock, LW_SHARED);
	entry = coverage_find_database();
	if (entry != NULL)
		*load = *entry;
	LWLockRelease(&shared->lock);
	return entry != NULL && !coverage_is_complete(load);
}

/*
 * Have every backend empty its memo once the change is committed, and this one
 * with the end of the command and when it is undone.
 *
 * An invalidation of the state table itself would work, but would make all of
 * them read its definition anew.  So we invalidate a relation that nobody has read.
 * They learn of it where they read the trigger's version, which they do again when
 * the relation is created, because the table is altered along with that.
 */
static void
coverage_tell_of_change(Relation rel)
{
	Oid			relation = version_valid ? change_relation :
		get_relname_relid(CHANGE_RELATION, RelationGetNamespace(rel));

	if (OidIsValid(relation))
		CacheInvalidateRelcacheByRelid(relation);
	else
		CacheInvalidateRelcache(rel);
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
	if (!tables_is(trigdata->tg_relation, "opt_out_period"))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" cannot be a trigger of relation \"%s\"",
						"optout.add_to_filter",
						RelationGetRelationName(trigdata->tg_relation)),
				 errdetail("It is for the table optout.opt_out_period only.")));

	if (shared_attach_to_write())
	{
		/* of an update or a deletion the old row, of an insertion the new one */
		UserKey		key = periods_key(trigdata->tg_trigtuple);

		cache_invalidate(&key);
		if (TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event))
		{
			key = periods_key(trigdata->tg_newtuple);
			cache_invalidate(&key);
		}
		if (!TRIGGER_FIRED_BY_DELETE(trigdata->tg_event))
			filter_add(&key, 1);
	}
	coverage_tell_of_change(trigdata->tg_relation);
	progress_count_row();
	return PointerGetDatum(NULL);
}
