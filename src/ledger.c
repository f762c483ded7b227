/*
 * ledger.c
 *		How many events were discarded: optout.discard_ledger.
 *
 * Discards are counted in the backend, apart for each subtransaction, so that
 * what is rolled back is not counted.  As the transaction commits, or is
 * prepared, the counts are added to the table, as part of it: they are there if
 * and only if it commits.
 *
 * Nobody waits for anybody.  A backend adds to the row of the current hour that
 * has its own number ("slot"), which no other running backend has.  Where that
 * row is locked nevertheless, by somebody who tidies up, say, and always where
 * the transaction is prepared, since it would keep the row locked, the counts
 * go into a row whose slot is the transaction's id, as a negative number.
 * These numbers are the lower half of a slot.  The upper half says which server
 * and database it is, so that a server can hold the rows of others beside its own.
 *
 * The rows are found under the latest snapshot, so that there is no
 * serialization failure at any isolation level.  They are written below the
 * executor, like those of a system catalog: there are no triggers, generated
 * columns or indexes on expressions on this table.
 *
 * A transaction that is READ ONLY when it discards does not count, for it
 * cannot write.  Nor does planning, which may call STABLE functions to estimate.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "optimizer/planner.h"
#include "storage/proc.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "ledger.h"
#include "state.h"

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
	char		status;			/* for simplehash */
} Count;

static inline uint32 hash_text(text *value);
static inline bool equal_texts(text *a, text *b);

#define SH_PREFIX counts
#define SH_ELEMENT_TYPE Count
#define SH_KEY_TYPE text *
#define SH_KEY organization
#define SH_HASH_KEY(tb, k) hash_text(k)
#define SH_EQUAL(tb, a, b) equal_texts(a, b)
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
	bool		broken;			/* ran out of memory within merge() */
} Level;

/* the innermost that has discarded something */
static Level *innermost = NULL;

static int	planning = 0;
static planner_hook_type prev_planner_hook = NULL;

static Level *current_level(void);
static void check_level(const Level *level);
static void add(Level *level, text *organization, int64 discarded);
static void merge(void);
static int64 server_part(void);
static bool slots_have_parts(Relation rel);
static void write_counts(bool preparing);
static bool add_to_row(Relation rel, CatalogIndexState indexes,
					   const Count *count, TimestampTz hour, int64 slot);
static void insert_row(Relation rel, CatalogIndexState indexes,
					   const Count *count, TimestampTz hour, int64 slot);
static void end_transaction(XactEvent event, void *arg);
static void end_subtransaction(SubXactEvent event, SubTransactionId subid,
							   SubTransactionId parent, void *arg);
static PlannedStmt *plan(PLANNER_PARAMETERS);

void
ledger_install_hooks(void)
{
	RegisterXactCallback(end_transaction, NULL);
	RegisterSubXactCallback(end_subtransaction, NULL);
	prev_planner_hook = planner_hook;
	planner_hook = plan;
}

static inline uint32
hash_text(text *value)
{
	return hash_bytes((unsigned char *) VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
}

static inline bool
equal_texts(text *a, text *b)
{
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

/*
 * An event of a user of this organisation is discarded.
 */
void
ledger_count(text *organization)
{
	if (XactReadOnly || IsInParallelMode() || planning > 0)
		return;
	check_level(current_level());
	add(innermost, organization, 1);
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
current_level(void)
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
check_level(const Level *level)
{
	if (level->broken)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("discarded events could not be counted"),
				 errdetail("There was no memory to count those of a subtransaction."),
				 errhint("Roll back the transaction.")));
}

static void
add(Level *level, text *organization, int64 discarded)
{
	Count	   *count;
	bool		found;

	count = counts_lookup(level->counts, organization);
	if (count == NULL)
	{
		Size		size = VARSIZE_ANY(organization);
		text	   *copy = MemoryContextAlloc(level->context, size);

		memcpy(copy, organization, size);
		count = counts_insert(level->counts, copy, &found);
		count->discarded = 0;
	}
	count->discarded += discarded;
}

/*
 * Add the innermost counts to those of the transaction around it.
 */
static void
merge(void)
{
	Level	   *from = innermost;
	counts_iterator iterator;
	Count	   *count;

	check_level(from);
	check_level(from->up);
	from->up->broken = true;
	counts_start_iterate(from->counts, &iterator);
	while ((count = counts_iterate(from->counts, &iterator)) != NULL)
		add(from->up, count->organization, count->discarded);
	from->up->broken = false;
	innermost = from->up;
	MemoryContextDelete(from->context);
}

/*
 * Subtransaction callback.  Counts exist only for those levels that have
 * discarded something.
 */
static void
end_subtransaction(SubXactEvent event,
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
			merge();
	}
}

/*
 * Transaction callback.
 */
static void
end_transaction(XactEvent event, void *arg pg_attribute_unused())
{
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE)
	{
		if (innermost != NULL)
			write_counts(event == XACT_EVENT_PRE_PREPARE);
	}
	else if (event != XACT_EVENT_PARALLEL_PRE_COMMIT)
	{
		/* the memory goes with the transaction's */
		innermost = NULL;
		planning = 0;
	}
}

/*
 * The upper half of this server's and database's slots.
 */
static int64
server_part(void)
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
slots_have_parts(Relation rel)
{
	return TupleDescAttr(RelationGetDescr(rel), Anum_ledger_slot - 1)->atttypid == INT8OID;
}

/*
 * Add the transaction's counts to the table.
 */
static void
write_counts(bool preparing)
{
	Relation	rel = state_try_open("discard_ledger", RowExclusiveLock);
	CatalogIndexState indexes;
	int64		now = GetCurrentTimestamp();
	TimestampTz hour = now - now % USECS_PER_HOUR;
	int32		own_slot = -1 - (int32) (GetTopTransactionId() & 0x7fffffff);
	int64		part = server_part();
	Snapshot	snapshot;
	counts_iterator iterator;
	Count	   *count;

	/* the extension has been dropped by this very transaction */
	if (rel == NULL)
		return;
	check_level(innermost);

	/* whoever writes to a table that has a TOAST table must hold one */
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	indexes = CatalogOpenIndexes(rel);
	counts_start_iterate(innermost->counts, &iterator);
	while ((count = counts_iterate(innermost->counts, &iterator)) != NULL)
	{
		if (preparing || !add_to_row(rel, indexes, count, hour, part | MyProcNumber))
			insert_row(rel, indexes, count, hour, part | (uint32) own_slot);
	}
	CatalogCloseIndexes(indexes);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
}

/*
 * Add to the row of this slot, which is made if there is none.  Returns false
 * where that would mean waiting.
 */
static bool
add_to_row(Relation rel, CatalogIndexState indexes,
		   const Count *count, TimestampTz hour, int64 slot)
{
	bool		has_parts = slots_have_parts(rel);
	ScanKeyData keys[3];
	StateScan	scan;
	HeapTuple	tuple;
	bool		locked = true;

	state_key(&keys[0], Anum_ledger_organization, count->organization);
	ScanKeyInit(&keys[1], Anum_ledger_hour, BTEqualStrategyNumber,
				F_TIMESTAMP_EQ, TimestampTzGetDatum(hour));
	ScanKeyInit(&keys[2], Anum_ledger_slot, BTEqualStrategyNumber,
				has_parts ? F_INT8EQ : F_INT4EQ,
				has_parts ? Int64GetDatum(slot) : Int32GetDatum((int32) slot));
	state_beginscan(&scan, rel, state_index("discard_ledger_pkey"), 3, keys);
	tuple = state_getnext(&scan);
	if (HeapTupleIsValid(tuple))
	{
		TupleTableSlot *locked_row = table_slot_create(rel, NULL);
		TM_FailureData tmfd;

		locked = table_tuple_lock(rel, &tuple->t_self, scan.snapshot, locked_row,
								  GetCurrentCommandId(true), LockTupleNoKeyExclusive,
								  LockWaitSkip, 0, &tmfd) == TM_Ok;
		ExecDropSingleTupleTableSlot(locked_row);
		if (locked)
		{
			Datum		values[Natts_ledger] = {0};
			bool		nulls[Natts_ledger] = {false};
			bool		replaces[Natts_ledger] = {false};
			bool		isnull;
			int64		discarded = DatumGetInt64(heap_getattr(tuple, Anum_ledger_discarded,
															   RelationGetDescr(rel), &isnull));
			HeapTuple	new;

			values[Anum_ledger_discarded - 1] = Int64GetDatum(discarded + count->discarded);
			replaces[Anum_ledger_discarded - 1] = true;
			new = heap_modify_tuple(tuple, RelationGetDescr(rel), values, nulls, replaces);
			CatalogTupleUpdateWithInfo(rel, &tuple->t_self, new, indexes);
			heap_freetuple(new);
		}
	}
	else
		insert_row(rel, indexes, count, hour, slot);
	state_endscan(&scan);
	return locked;
}

static void
insert_row(Relation rel, CatalogIndexState indexes,
		   const Count *count, TimestampTz hour, int64 slot)
{
	Datum		values[Natts_ledger];
	bool		nulls[Natts_ledger] = {false};
	HeapTuple	tuple;

	values[Anum_ledger_organization - 1] = PointerGetDatum(count->organization);
	values[Anum_ledger_hour - 1] = TimestampTzGetDatum(hour);
	values[Anum_ledger_slot - 1] = slots_have_parts(rel) ? Int64GetDatum(slot) : Int32GetDatum((int32) slot);
	values[Anum_ledger_discarded - 1] = Int64GetDatum(count->discarded);
	tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
	CatalogTupleInsertWithInfo(rel, tuple, indexes);
	heap_freetuple(tuple);
}

/*
 * Planner hook: what is called while planning discards nothing.
 */
static PlannedStmt *
plan(PLANNER_PARAMETERS)
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
