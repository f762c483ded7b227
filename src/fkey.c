/*
 * fkey.c
 *		Whether a foreign key's action changes a row.
 *
 * When a referenced row is updated or deleted, the foreign key's action may
 * update the rows that refer to it.  Discarding such an update would leave
 * rows that violate the key.  The server marks the action's query by a flag
 * of the security context, InNoForceRLSOperation(), but whatever runs beneath
 * the query inherits the flag: triggers of users, functions in their
 * constraints and defaults, rules.  Nothing that a trigger can see of the
 * executor tells the query itself from what runs beneath it.  So we compare
 * values.  A change passes if there is a foreign key such that
 *
 * 1. all guarded columns that change are columns of the key;
 * 2. this transaction has removed the referenced row of the old values, by
 *	  DELETE or by an UPDATE of its key, and no row has that key again; that is,
 *	  the row would violate the key if it stayed as it is; and
 * 3. the new values are those that the action gives: for CASCADE the key that
 *	  the UPDATE gave to the very same referenced row, which we find as the next
 *	  version of that row in the heap (or, where the UPDATE moved it to another
 *	  partition, as the row that the same command inserted there); for SET NULL
 *	  and SET DEFAULT null or the column's default.
 *
 * Where a trigger beneath the action makes a change that satisfies all three,
 * the action makes the same change to the same row, before or after it:
 * actions cannot be deferred.  So nothing passes that would not happen
 * anyway, with one exception: while the key's check is deferred, somebody may
 * insert a row with the old key after the action has run.  The change gives
 * it what the action gave to the others, without which the check would fail.
 * The reverse holds as well: the action's own change satisfies them, since
 * the referenced row's versions cannot be removed while our transaction goes
 * on.  There are two exceptions, and discarding is safe for both.  Where a
 * row has the old key again, the row that stays refers to that one.  Where a
 * default is volatile, we cannot know its value; SET DEFAULT itself then
 * finds the row that has stayed, and reports the violation.  (A BEFORE
 * trigger that alters what the action writes makes another change, which is
 * discarded.  The row then violates the key, as it does wherever a trigger
 * skips an action's change.)
 *
 * A referenced table of another access method than heap shows no versions.
 * So every change of such keys beneath the flag passes, because we must not
 * violate the key.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/skey.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_inherits.h"
#include "executor/executor.h"
#include "nodes/parsenodes.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "rewrite/rewriteHandler.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "fkey.h"

/* what we need of a foreign key beside its columns */
typedef struct FkeyActions
{
	Oid			index;			/* of the referenced key */
	Oid			table;			/* what the action updates */
	bool		cascade;
	bool		set_null;
	bool		set_default;
} FkeyActions;

/* what became of the referenced row that had the old values */
typedef struct FkeyFate
{
	bool		removed;		/* by us */
	bool		exists;			/* a row has the key again */
	bool		renamed;		/* to the new values, by us */
	bool		unknown;		/* the table is no heap */
} FkeyFate;

static bool fkey_includes(const ForeignKeyCacheInfo *fkey, const AttrNumber *changed, int nchanged);
static bool fkey_explains(const ForeignKeyCacheInfo *fkey,
						  TupleTableSlot *before, TupleTableSlot *after,
						  const AttrNumber *changed, int nchanged);
static FkeyActions fkey_get_actions(Oid constraint);
static bool fkey_get_keys(const ForeignKeyCacheInfo *fkey, Oid indexid, TupleTableSlot *slot, ScanKey keys);
static void fkey_find_fate(Oid indexid, const FkeyActions *actions, int nkeys,
						   const ScanKeyData *old_keys, const ScanKeyData *new_keys, FkeyFate *fate);
static Relation fkey_open(Oid indexid, Relation *index);
static SysScanDesc fkey_beginscan(Relation rel, Relation index, int nkeys, const ScanKeyData *keys);
static bool fkey_removed_by_us(HeapTupleHeader tuple);
static bool fkey_has_key(TupleTableSlot *slot, Relation index, int nkeys, const ScanKeyData *keys);
static bool fkey_moved_here(Oid indexid, int nkeys, const ScanKeyData *keys, CommandId command);
static bool fkey_sets(const FkeyActions *actions, TupleTableSlot *after,
					  const AttrNumber *changed, int nchanged);
static bool fkey_is_default(Oid table, Form_pg_attribute att, Datum value, bool isnull);

/*
 * Whether the update of a row is, or equals, one that a foreign key's action
 * makes.  "changed" are the columns that matter.  To be called beneath
 * InNoForceRLSOperation() only.
 */
bool
fkey_action_changes(Relation rel, TupleTableSlot *before, TupleTableSlot *after,
					const AttrNumber *changed, int nchanged)
{
	/* the relation cache may drop its own at any look-up in a catalog */
	List	   *fkeys = list_copy_deep(RelationGetFKeyList(rel));
	ListCell   *cell;

	foreach(cell, fkeys)
	{
		ForeignKeyCacheInfo *fkey = lfirst_node(ForeignKeyCacheInfo, cell);

		if (FKEY_IS_ENFORCED(fkey) && fkey_includes(fkey, changed, nchanged) &&
			fkey_explains(fkey, before, after, changed, nchanged))
			return true;
	}
	return false;
}

static bool
fkey_includes(const ForeignKeyCacheInfo *fkey, const AttrNumber *changed, int nchanged)
{
	for (int i = 0; i < nchanged; i++)
	{
		int			k = 0;

		while (k < fkey->nkeys && fkey->conkey[k] != changed[i])
			k++;
		if (k == fkey->nkeys)
			return false;
	}
	return true;
}

/*
 * Whether the key's action explains the change: points 2 and 3 above.
 */
static bool
fkey_explains(const ForeignKeyCacheInfo *fkey,
			  TupleTableSlot *before, TupleTableSlot *after,
			  const AttrNumber *changed, int nchanged)
{
	FkeyActions actions = fkey_get_actions(fkey->conoid);
	FkeyFate	fate = {false};
	ScanKeyData old_keys[INDEX_MAX_KEYS];
	ScanKeyData new_keys[INDEX_MAX_KEYS];
	List	   *indexes;
	ListCell   *cell;

	if (!(actions.cascade || actions.set_null || actions.set_default) ||
		!fkey_get_keys(fkey, actions.index, before, old_keys))
		return false;
	if (!fkey_get_keys(fkey, actions.index, after, new_keys))
		actions.cascade = false;

	/* the index, or those of the partitions, of which one held the old key */
	indexes = find_all_inheritors(actions.index, NoLock, NULL);
	foreach(cell, indexes)
		fkey_find_fate(lfirst_oid(cell), &actions, fkey->nkeys, old_keys, new_keys, &fate);

	if (fate.unknown)
		return true;
	return fate.removed && !fate.exists &&
		((actions.cascade && fate.renamed) || fkey_sets(&actions, after, changed, nchanged));
}

/*
 * A partition's foreign key may be its partitioned table's, whose rows the
 * action updates then.
 */
static FkeyActions
fkey_get_actions(Oid constraint)
{
	FkeyActions result = {InvalidOid};

	while (OidIsValid(constraint))
	{
		HeapTuple	tuple = SearchSysCache1(CONSTROID, ObjectIdGetDatum(constraint));
		Form_pg_constraint con;

		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for constraint %u", constraint);
		con = (Form_pg_constraint) GETSTRUCT(tuple);
		if (!OidIsValid(result.index))
			result.index = con->conindid;
		result.table = con->conrelid;
		result.cascade = con->confupdtype == FKCONSTR_ACTION_CASCADE;
		result.set_null = con->confupdtype == FKCONSTR_ACTION_SETNULL ||
			con->confdeltype == FKCONSTR_ACTION_SETNULL;
		result.set_default = con->confupdtype == FKCONSTR_ACTION_SETDEFAULT ||
			con->confdeltype == FKCONSTR_ACTION_SETDEFAULT;
		constraint = con->conparentid;
		ReleaseSysCache(tuple);
	}
	return result;
}

/*
 * The referenced key that a row of the referencing table has, as keys for a scan
 * of the index.  False where a column is null, for such a row refers to nothing.
 */
static bool
fkey_get_keys(const ForeignKeyCacheInfo *fkey, Oid indexid, TupleTableSlot *slot, ScanKey keys)
{
	Relation	index = index_open(indexid, AccessShareLock);
	int			nkeys = 0;

	for (int j = 0; j < IndexRelationGetNumberOfKeyAttributes(index); j++)
	{
		for (int i = 0; i < fkey->nkeys; i++)
		{
			Oid			type;
			Oid			left;
			Oid			right;
			Oid			cast;
			Datum		value;
			bool		isnull;

			if (fkey->confkey[i] != index->rd_index->indkey.values[j])
				continue;
			value = slot_getattr(slot, fkey->conkey[i], &isnull);
			if (isnull)
				break;

			/* where no operator takes the column's type, the key casts it */
			type = getBaseType(TupleDescAttr(slot->tts_tupleDescriptor, fkey->conkey[i] - 1)->atttypid);
			op_input_types(fkey->conpfeqop[i], &left, &right);
			if (type != right &&
				find_coercion_pathway(right, type, COERCION_IMPLICIT, &cast) == COERCION_PATH_FUNC)
				value = OidFunctionCall3(cast, value, Int32GetDatum(-1), BoolGetDatum(false));

			ScanKeyEntryInitialize(&keys[nkeys++], 0, j + 1, BTEqualStrategyNumber,
								   right, index->rd_indcollation[j],
								   get_opcode(fkey->conpfeqop[i]), value);
			break;
		}
	}
	/* what is no B-tree belongs to a key with a period, which has no action */
	if (index->rd_rel->relam != BTREE_AM_OID)
		nkeys = 0;
	index_close(index, AccessShareLock);
	return nkeys == fkey->nkeys;
}

/*
 * Find out what became of the rows that had the old key in this partition, or in
 * the one table.
 */
static void
fkey_find_fate(Oid indexid, const FkeyActions *actions, int nkeys,
			   const ScanKeyData *old_keys, const ScanKeyData *new_keys, FkeyFate *fate)
{
	Relation	index;
	Relation	rel = fkey_open(indexid, &index);
	TupleTableSlot *slot;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (rel == NULL)
		return;
	if (index == NULL)
	{
		fate->unknown = true;
		table_close(rel, AccessShareLock);
		return;
	}

	slot = table_slot_create(rel, NULL);
	scan = fkey_beginscan(rel, index, nkeys, old_keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		HeapTupleHeader version = tuple->t_data;
		ItemPointerData next = version->t_ctid;

		if (!fkey_removed_by_us(version))
		{
			/* others cannot have inserted it, they would wait for us */
			if (TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(version)))
				fate->exists = true;
			continue;
		}
		fate->removed = true;
		if (!actions->cascade || fate->renamed)
			continue;
		if (HeapTupleHeaderIndicatesMovedPartitions(version))
			fate->renamed = fkey_moved_here(actions->index, nkeys, new_keys, HeapTupleHeaderGetCmax(version));
		else if (!ItemPointerEquals(&next, &tuple->t_self) &&
				 table_tuple_fetch_row_version(rel, &next, SnapshotAny, slot))
			fate->renamed = fkey_has_key(slot, index, nkeys, new_keys);
	}
	systable_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
}

/*
 * Open the table and its index, if it is a heap.  NULL where there is no table
 * with rows: it is partitioned, or has just been detached and dropped.
 */
static Relation
fkey_open(Oid indexid, Relation *index)
{
	Oid			relid = IndexGetRelation(indexid, true);
	Relation	rel = OidIsValid(relid) ? try_table_open(relid, AccessShareLock) : NULL;

	*index = NULL;
	if (rel != NULL && rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
	{
		table_close(rel, AccessShareLock);
		return NULL;
	}
	if (rel != NULL && rel->rd_rel->relam == HEAP_TABLE_AM_OID)
		*index = index_open(indexid, AccessShareLock);
	return rel;
}

/*
 * Look for every version of the rows that have, or had, the key.
 */
static SysScanDesc
fkey_beginscan(Relation rel, Relation index, int nkeys, const ScanKeyData *keys)
{
	/* a copy, because it may write into the keys; by the table's columns */
	ScanKeyData copy[INDEX_MAX_KEYS];

	for (int i = 0; i < nkeys; i++)
	{
		copy[i] = keys[i];
		copy[i].sk_attno = index->rd_index->indkey.values[keys[i].sk_attno - 1];
	}
	return systable_beginscan(rel, RelationGetRelid(index), true, SnapshotAny, nkeys, copy);
}

/*
 * Whether our transaction has updated or deleted this version of a row.
 */
static bool
fkey_removed_by_us(HeapTupleHeader tuple)
{
	return !(tuple->t_infomask & HEAP_XMAX_INVALID) &&
		!HEAP_XMAX_IS_LOCKED_ONLY(tuple->t_infomask) &&
		TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetUpdateXid(tuple));
}

static bool
fkey_has_key(TupleTableSlot *slot, Relation index, int nkeys, const ScanKeyData *keys)
{
	for (int i = 0; i < nkeys; i++)
	{
		bool		isnull;
		Datum		value = slot_getattr(slot, index->rd_index->indkey.values[keys[i].sk_attno - 1], &isnull);
		FmgrInfo	equals = keys[i].sk_func;

		if (isnull ||
			!DatumGetBool(FunctionCall2Coll(&equals, keys[i].sk_collation,
											value, keys[i].sk_argument)))
			return false;
	}
	return true;
}

/*
 * Whether our command that moved the referenced row to another partition has
 * inserted it there under the new key.  The versions are not linked then.
 */
static bool
fkey_moved_here(Oid indexid, int nkeys, const ScanKeyData *keys, CommandId command)
{
	List	   *indexes = find_all_inheritors(indexid, NoLock, NULL);
	bool		found = false;
	ListCell   *cell;

	foreach(cell, indexes)
	{
		Relation	index;
		Relation	rel = fkey_open(lfirst_oid(cell), &index);

		if (index != NULL)
		{
			SysScanDesc scan = fkey_beginscan(rel, index, nkeys, keys);
			HeapTuple	tuple;

			while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
				found = (tuple->t_data->t_infomask & HEAP_UPDATED) == 0 &&
					TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data)) &&
					HeapTupleHeaderGetCmin(tuple->t_data) == command;
			systable_endscan(scan);
			index_close(index, AccessShareLock);
		}
		if (rel != NULL)
			table_close(rel, AccessShareLock);
	}
	return found;
}

/*
 * Whether SET NULL or SET DEFAULT gives these values.
 */
static bool
fkey_sets(const FkeyActions *actions, TupleTableSlot *after, const AttrNumber *changed, int nchanged)
{
	bool		null = actions->set_null;
	bool		dflt = actions->set_default;

	for (int i = 0; i < nchanged; i++)
	{
		bool		isnull;
		Datum		value = slot_getattr(after, changed[i], &isnull);

		null = null && isnull;
		dflt = dflt && fkey_is_default(actions->table,
									   TupleDescAttr(after->tts_tupleDescriptor, changed[i] - 1),
									   value, isnull);
	}
	return null || dflt;
}

/*
 * Whether this is the default of the table's column of that name.
 */
static bool
fkey_is_default(Oid table, Form_pg_attribute att, Datum value, bool isnull)
{
	Relation	rel = table_open(table, AccessShareLock);
	Node	   *expr = build_column_default(rel, get_attnum(table, NameStr(att->attname)));
	bool		result = false;

	if (expr == NULL)
		result = isnull;
	else if (!contain_volatile_functions(expr))
	{
		EState	   *estate = CreateExecutorState();
		ExprState  *state = ExecPrepareExpr((Expr *) expr, estate);
		bool		dfltnull;
		Datum		dflt = ExecEvalExprSwitchContext(state, GetPerTupleExprContext(estate), &dfltnull);

		result = dfltnull ? isnull :
			(!isnull && datum_image_eq(dflt, value, att->attbyval, att->attlen));
		FreeExecutorState(estate);
	}
	table_close(rel, AccessShareLock);
	return result;
}
