/*
 * ledger.c
 *		How many events were discarded: optout.discard_ledger.
 *
 * Discards are counted in the backend, apart for each subtransaction, so that
 * what is rolled back is not counted.  As the transaction commits, or is
 * prepared, the counts are added to the table, as part of it: they are there if
 * and only if it commits.
 *
 * Transactions never wait for each other here.  Each backend adds to rows of
 * its own: their numbers ("slots") are in a range that no other running
 * backend has.  If such a row is locked nevertheless, the backend starts
 * another one.  A transaction that is prepared would keep the row locked, so
 * its counts go into a row whose slot is the transaction's id, as a negative
 * number.  These numbers are the lower half of a slot.  The upper half says
 * which server and database it is, so that a server can hold the rows of
 * others beside its own.
 *
 * This has to be cheap, because every transaction that discards pays for it.
 * So the backend remembers where its rows are, and adds to a row only if the
 * page has room for another version of it.  Usually the older versions are
 * pruned to make room.  While an old snapshot prevents that, the backend
 * starts another row whenever a page is full.  So no query has to step over
 * more dead versions of a row than fit into a page.
 *
 * The remembered place is only a hint.  Whatever has happened to the table
 * meanwhile, we can add to any row that we find there if it is of that
 * organization and hour, is the latest version, and nobody has it locked.
 * Nobody can truncate the table after that check, because we hold a lock on
 * it.
 *
 * The rows are written below the executor, like those of a system catalog:
 * there are no triggers, generated columns or indexes on expressions on this
 * table.  Nor are there serialization failures at any isolation level, since
 * the transaction's snapshot plays no part.
 *
 * A transaction that is READ ONLY when it discards does not count, for it
 * cannot write.  Nor does planning, which may call STABLE functions to estimate.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/index.h"
#include "catalog/indexing.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "optimizer/planner.h"
#include "storage/bufmgr.h"
#include "storage/proc.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "ledger.h"
#include "tables.h"

/* columns of optout.discard_ledger */
#define Anum_ledger_organization 1
#define Anum_ledger_hour 2
#define Anum_ledger_slot 3
#define Anum_ledger_discarded 4
#define Natts_ledger 4

typedef struct Count
{
	text	   *organization;
	int64		discarded;
	ItemPointerData row;		/* where it has been written to */
	char		status;			/* for simplehash */
} Count;

static inline uint32 ledger_hash_text(text *value);
static inline bool ledger_equal_texts(text *a, text *b);

#define SH_PREFIX counts
#define SH_ELEMENT_TYPE Count
#define SH_KEY_TYPE text *
#define SH_KEY organization
#define SH_HASH_KEY(tb, k) ledger_hash_text(k)
#define SH_EQUAL(tb, a, b) ledger_equal_texts(a, b)
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* the discards of one (sub)transaction; in the memory of the transaction */
typedef struct Level
{
	struct Level *up;			/* of a transaction around it */
	int			nesting;
	MemoryContext context;
	counts_hash *counts;
	Count	   *last;			/* the count added to last; NULL if unknown */
	bool		broken;			/* ran out of memory within ledger_merge() */
} Level;

/* the innermost that has discarded something */
static Level *innermost = NULL;

/*
 * Where this backend's rows are: for each organization, at the place that its
 * hash gives, the row that the last transaction to commit wrote.
 */
#define PLACES 64
static ItemPointerData places[PLACES];

/*
 * When told not to wait, heap_update() returns TM_BeingModified for a row that
 * somebody else has locked, but it asserts that no caller meets one.  So where
 * assertions are compiled in, lock the row before.  Elsewhere that would only cost
 * a WAL record.
 */
#ifdef USE_ASSERT_CHECKING
#define LOCKS_FIRST true
#else
#define LOCKS_FIRST false
#endif

static int	planning = 0;
static planner_hook_type prev_planner_hook = NULL;

static Level *ledger_current_level(void);
static void ledger_check_level(const Level *level);
static void ledger_add(Level *level, text *organization, int64 discarded);
static void ledger_merge(void);
static void ledger_write_counts(bool preparing);
static void ledger_write_count(Relation rel, Count *count, TimestampTz hour, bool preparing);
static int64 ledger_server_part(void);
static bool ledger_has_parts(Relation rel);
static Datum ledger_slot(Relation rel, int32 number);
static bool ledger_add_to_newest_row(Relation rel, Count *count, TimestampTz hour,
									 int32 *next_slot);
static bool ledger_add_to_row(Relation rel, ItemPointer tid, Count *count, TimestampTz hour);
static bool ledger_lock_row(Relation rel, ItemPointer tid);
static HeapTuple ledger_copy_row(Relation rel, ItemPointer tid);
static void ledger_insert_row(Relation rel, Count *count, TimestampTz hour, int32 slot);
static void ledger_index_row(Relation rel, HeapTuple row);
static inline ItemPointer ledger_place(const Count *count);
static void ledger_remember_rows(void);
static void ledger_end_transaction(XactEvent event, void *arg);
static void ledger_end_subtransaction(SubXactEvent event, SubTransactionId subid,
									  SubTransactionId parent, void *arg);
static PlannedStmt *ledger_plan(PLANNER_PARAMETERS);

void
ledger_install_hooks(void)
{
	RegisterXactCallback(ledger_end_transaction, NULL);
	RegisterSubXactCallback(ledger_end_subtransaction, NULL);
	prev_planner_hook = planner_hook;
	planner_hook = ledger_plan;
}

static inline uint32
ledger_hash_text(text *value)
{
	return hash_bytes((unsigned char *) VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
}

static inline bool
ledger_equal_texts(text *a, text *b)
{
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

/*
 * An event of a user of this organization is discarded.
 */
void
ledger_count(text *organization)
{
	if (XactReadOnly || IsInParallelMode() || planning > 0)
		return;
	ledger_check_level(ledger_current_level());
	ledger_add(innermost, organization, 1);
}

/*
 * Whether the planner is running, rather than a command.
 */
bool
ledger_is_planning(void)
{
	return planning > 0;
}

/*
 * The counts of the current (sub)transaction.
 */
static Level *
ledger_current_level(void)
{
	int			nesting = GetCurrentTransactionNestLevel();

	if (innermost == NULL || innermost->nesting != nesting)
	{
		MemoryContext context = AllocSetContextCreate(TopTransactionContext,
													  "optout discards",
													  ALLOCSET_SMALL_SIZES);
		Level	   *level = MemoryContextAlloc(context, sizeof(Level));

		level->context = context;
		level->nesting = nesting;
		level->counts = counts_create(context, 8, NULL);
		level->last = NULL;
		level->up = innermost;
		level->broken = false;
		innermost = level;
	}
	return innermost;
}

/*
 * Counts that are not exact must not be used.
 */
static void
ledger_check_level(const Level *level)
{
	if (level->broken)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not count discarded events"),
				 errdetail("There was not enough memory to count those of a subtransaction."),
				 errhint("Roll back the transaction.")));
}

static void
ledger_add(Level *level, text *organization, int64 discarded)
{
	Count	   *count = level->last;
	bool		found;

	if (count == NULL || !ledger_equal_texts(count->organization, organization))
		count = counts_lookup(level->counts, organization);
	if (count == NULL)
	{
		Size		size = VARSIZE_ANY(organization);
		text	   *copy = MemoryContextAlloc(level->context, size);

		memcpy(copy, organization, size);
		/* it may move the others */
		level->last = NULL;
		count = counts_insert(level->counts, copy, &found);
		count->discarded = 0;
		ItemPointerSetInvalid(&count->row);
	}
	level->last = count;
	count->discarded += discarded;
}

/*
 * Add the innermost counts to those of the transaction around it.
 */
static void
ledger_merge(void)
{
	Level	   *from = innermost;
	counts_iterator iterator;
	Count	   *count;

	ledger_check_level(from);
	ledger_check_level(from->up);
	from->up->broken = true;
	counts_start_iterate(from->counts, &iterator);
	while ((count = counts_iterate(from->counts, &iterator)) != NULL)
		ledger_add(from->up, count->organization, count->discarded);
	from->up->broken = false;
	innermost = from->up;
	MemoryContextDelete(from->context);
}

/*
 * Subtransaction callback.  Counts exist only for those levels that have
 * discarded something.
 */
static void
ledger_end_subtransaction(SubXactEvent event,
						  SubTransactionId subid pg_attribute_unused(),
						  SubTransactionId parent pg_attribute_unused(),
						  void *arg pg_attribute_unused())
{
	Level	   *ending = innermost;

	if (ending == NULL || ending->nesting < GetCurrentTransactionNestLevel())
		return;

	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		innermost = ending->up;
		MemoryContextDelete(ending->context);
	}
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		/* the level around it may have discarded nothing */
		if (ending->up == NULL || ending->up->nesting < ending->nesting - 1)
			ending->nesting--;
		else
			ledger_merge();
	}
}

/*
 * Transaction callback.
 */
static void
ledger_end_transaction(XactEvent event, void *arg pg_attribute_unused())
{
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE)
	{
		if (innermost != NULL)
			ledger_write_counts(event == XACT_EVENT_PRE_PREPARE);
	}
	else if (event != XACT_EVENT_PARALLEL_PRE_COMMIT)
	{
		if (innermost != NULL && event == XACT_EVENT_COMMIT)
			ledger_remember_rows();

		/* the memory goes with the transaction's */
		innermost = NULL;
		planning = 0;
	}
}

/*
 * Add the transaction's counts to the table.
 */
static void
ledger_write_counts(bool preparing)
{
	Relation	rel = tables_try_open("discard_ledger", RowExclusiveLock);
	int64		now = GetCurrentTimestamp();
	TimestampTz hour = now - now % USECS_PER_HOUR;
	Snapshot	snapshot;
	counts_iterator iterator;
	Count	   *count;

	/* the extension has been dropped by this very transaction */
	if (rel == NULL)
		return;
	ledger_check_level(innermost);

	/* whoever writes to a table that has a TOAST table must hold one */
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	counts_start_iterate(innermost->counts, &iterator);
	while ((count = counts_iterate(innermost->counts, &iterator)) != NULL)
		ledger_write_count(rel, count, hour, preparing);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
}

static void
ledger_write_count(Relation rel, Count *count, TimestampTz hour, bool preparing)
{
	/* of a row that nobody else can have */
	int32		slot = -1 - (int32) (GetTopTransactionId() & 0x7fffffff);

	if (preparing ||
		(!ledger_add_to_row(rel, ledger_place(count), count, hour) &&
		 !ledger_add_to_newest_row(rel, count, hour, &slot)))
		ledger_insert_row(rel, count, hour, slot);
}

/*
 * The upper half of this server's and database's slots.
 */
static int64
ledger_server_part(void)
{
	static int64 part = 0;

	if (part == 0)
	{
		uint64		identity[2] = {GetSystemIdentifier(), MyDatabaseId};

		/* positive, and not 0, which the rows of 1.1 have */
		part = (int64) (hash_bytes_extended((unsigned char *) identity, sizeof(identity), 0) >> 33 | 1) << 32;
	}
	return part;
}

/*
 * The tables of 1.0 and 1.1 have room for the lower half only.
 */
static bool
ledger_has_parts(Relation rel)
{
	return TupleDescAttr(RelationGetDescr(rel), Anum_ledger_slot - 1)->atttypid == INT8OID;
}

/*
 * The slot of this server that has the number.
 */
static Datum
ledger_slot(Relation rel, int32 number)
{
	return ledger_has_parts(rel) ? Int64GetDatum(ledger_server_part() | (uint32) number) :
		Int32GetDatum(number);
}

/*
 * Look in the index for the row that this backend, or one that had its number
 * before, has started last, and add to it.  Returns false, and the slot for
 * another row, if there is none or it cannot be added to.  If the backend has no
 * slots left, next_slot stays as it is.
 *
 * The slots are counted down, so that the last row comes first in the index.
 * Fetching it prunes its page where that is possible.
 */
static bool
ledger_add_to_newest_row(Relation rel, Count *count, TimestampTz hour, int32 *next_slot)
{
	int32		nslots = PG_INT32_MAX / MaxBackends;
	int32		first = MyProcNumber * nslots;
	ScanKeyData keys[4];
	TablesScan	scan;
	HeapTuple	newest;
	bool		added = false;

	tables_key(&keys[0], Anum_ledger_organization, count->organization);
	ScanKeyInit(&keys[1], Anum_ledger_hour, BTEqualStrategyNumber,
				F_TIMESTAMP_EQ, TimestampTzGetDatum(hour));
	ScanKeyInit(&keys[2], Anum_ledger_slot, BTGreaterEqualStrategyNumber,
				ledger_has_parts(rel) ? F_INT8GE : F_INT4GE, ledger_slot(rel, first));
	ScanKeyInit(&keys[3], Anum_ledger_slot, BTLessStrategyNumber,
				ledger_has_parts(rel) ? F_INT8LT : F_INT4LT, ledger_slot(rel, first + nslots));
	tables_beginscan(&scan, rel, tables_index(rel, "discard_ledger_pkey"), 4, keys);
	newest = tables_getnext(&scan);
	if (HeapTupleIsValid(newest))
	{
		bool		isnull;
		Datum		value = heap_getattr(newest, Anum_ledger_slot, RelationGetDescr(rel), &isnull);
		int32		slot = ledger_has_parts(rel) ? (int32) DatumGetInt64(value) : DatumGetInt32(value);

		if (slot > first)
			*next_slot = slot - 1;
		added = ledger_add_to_row(rel, &newest->t_self, count, hour);
	}
	else
		*next_slot = first + nslots - 1;
	tables_endscan(&scan);
	return added;
}

/*
 * Add to the row that is there, if it is one of this organization and hour.
 * Returns false if it is not, or cannot be added to without waiting or within its
 * page.
 */
static bool
ledger_add_to_row(Relation rel, ItemPointer tid, Count *count, TimestampTz hour)
{
	HeapTuple	row = ledger_copy_row(rel, tid);
	Datum		values[Natts_ledger];
	bool		nulls[Natts_ledger];
	HeapTuple	new;
	TM_FailureData tmfd;
	LockTupleMode lockmode;
	TU_UpdateIndexes update_indexes;

	if (row == NULL)
		return false;
	heap_deform_tuple(row, RelationGetDescr(rel), values, nulls);
	if ((ledger_has_parts(rel) &&
		 DatumGetInt64(values[Anum_ledger_slot - 1]) >> 32 != ledger_server_part() >> 32) ||
		DatumGetTimestampTz(values[Anum_ledger_hour - 1]) != hour ||
		!ledger_equal_texts(DatumGetTextPP(values[Anum_ledger_organization - 1]),
							count->organization))
		return false;

	values[Anum_ledger_discarded - 1] =
		Int64GetDatum(DatumGetInt64(values[Anum_ledger_discarded - 1]) + count->discarded);
	new = heap_form_tuple(RelationGetDescr(rel), values, nulls);

	/* it fails where somebody has locked or changed the row since that look */
	if (LOCKS_FIRST && !ledger_lock_row(rel, &row->t_self))
		return false;
	if (heap_update(rel, &row->t_self, new, GetCurrentCommandId(true), 0,
					InvalidSnapshot, LOCKS_FIRST, &tmfd, &lockmode, &update_indexes) != TM_Ok)
		return false;

	/* somebody else has taken the room in the page */
	if (!HeapTupleIsHeapOnly(new))
		ledger_index_row(rel, new);
	count->row = new->t_self;
	return true;
}

/*
 * Lock the row, unless somebody else has locked or changed it.
 */
static bool
ledger_lock_row(Relation rel, ItemPointer tid)
{
	HeapTupleData row;
	Buffer		buffer;
	TM_FailureData tmfd;
	TM_Result	result;

	row.t_self = *tid;
	result = heap_lock_tuple(rel, &row, GetCurrentCommandId(true), LockTupleNoKeyExclusive,
							 LockWaitSkip, false, &buffer, &tmfd);
	ReleaseBuffer(buffer);
	return result == TM_Ok;
}

/*
 * A copy of the row that is there, if it can be updated right now: it is the
 * latest version, nobody has it locked, and its page has room for another
 * version.
 */
static HeapTuple
ledger_copy_row(Relation rel, ItemPointer tid)
{
	HeapTupleData row;
	HeapTuple	copy = NULL;
	Buffer		buffer;
	Page		page;

	if (!ItemPointerIsValid(tid) ||
		ItemPointerGetBlockNumber(tid) >= RelationGetNumberOfBlocks(rel))
		return NULL;

	buffer = ReadBuffer(rel, ItemPointerGetBlockNumber(tid));
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	if (ItemPointerGetOffsetNumber(tid) <= PageGetMaxOffsetNumber(page))
	{
		ItemId		item = PageGetItemId(page, ItemPointerGetOffsetNumber(tid));

		row.t_self = *tid;
		row.t_tableOid = RelationGetRelid(rel);
		row.t_len = ItemIdGetLength(item);
		if (ItemIdIsNormal(item) && PageGetHeapFreeSpace(page) >= MAXALIGN(row.t_len))
		{
			row.t_data = (HeapTupleHeader) PageGetItem(page, item);
			if (HeapTupleSatisfiesUpdate(&row, GetCurrentCommandId(false), buffer) == TM_Ok)
				copy = heap_copytuple(&row);
		}
	}
	UnlockReleaseBuffer(buffer);
	return copy;
}

static void
ledger_insert_row(Relation rel, Count *count, TimestampTz hour, int32 slot)
{
	Datum		values[Natts_ledger];
	bool		nulls[Natts_ledger] = {false};
	HeapTuple	row;

	values[Anum_ledger_organization - 1] = PointerGetDatum(count->organization);
	values[Anum_ledger_hour - 1] = TimestampTzGetDatum(hour);
	values[Anum_ledger_slot - 1] = ledger_slot(rel, slot);
	values[Anum_ledger_discarded - 1] = Int64GetDatum(count->discarded);
	row = heap_form_tuple(RelationGetDescr(rel), values, nulls);
	simple_heap_insert(rel, row);
	ledger_index_row(rel, row);
	count->row = row->t_self;
	heap_freetuple(row);
}

/*
 * Insert a row, or a version of it that is in another page, into the indexes.
 */
static void
ledger_index_row(Relation rel, HeapTuple row)
{
	CatalogIndexState indexes = CatalogOpenIndexes(rel);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsHeapTuple);

	ExecStoreHeapTuple(row, slot, false);
	for (int i = 0; i < indexes->ri_NumIndices; i++)
	{
		Relation	index = indexes->ri_IndexRelationDescs[i];
		IndexInfo  *info = indexes->ri_IndexRelationInfo[i];
		Datum		values[INDEX_MAX_KEYS];
		bool		nulls[INDEX_MAX_KEYS];

		if (!info->ii_ReadyForInserts)
			continue;
		FormIndexDatum(info, slot, NULL, values, nulls);
		index_insert(index, values, nulls, &row->t_self, rel,
					 index->rd_index->indisunique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO,
					 false, info);
	}
	ExecDropSingleTupleTableSlot(slot);
	CatalogCloseIndexes(indexes);
}

static inline ItemPointer
ledger_place(const Count *count)
{
	return &places[ledger_hash_text(count->organization) % PLACES];
}

/*
 * The transaction has committed: remember where its counts are.
 */
static void
ledger_remember_rows(void)
{
	counts_iterator iterator;
	Count	   *count;

	counts_start_iterate(innermost->counts, &iterator);
	while ((count = counts_iterate(innermost->counts, &iterator)) != NULL)
	{
		if (ItemPointerIsValid(&count->row))
			*ledger_place(count) = count->row;
	}
}

/*
 * Planner hook: what is called while planning discards nothing.
 */
static PlannedStmt *
ledger_plan(PLANNER_PARAMETERS)
{
	PlannedStmt *result;

	planning++;
	PG_TRY();
	{
		result = (prev_planner_hook ? prev_planner_hook : standard_planner) (PLANNER_ARGUMENTS);
	}
	PG_FINALLY();
	{
		planning--;
	}
	PG_END_TRY();
	return result;
}
