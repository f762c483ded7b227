/*
 * tables.c
 *		Access to the extension's tables under the latest snapshot.
 *
 * A user is opted out if that has been committed by now, whatever was so when
 * the statement or the transaction began.  So every look-up here takes a
 * snapshot of its own, at any isolation level; it sees the changes that the
 * transaction's earlier commands made, and no others that are not committed.
 *
 * Only two things act with other rights than the caller's: the look-ups, which
 * check no privilege at all, and tables_execute(), which acts as the tables'
 * owner.  Callers check authority first.
 *
 * For tables of others, tables_become_owner() is how to act with no more rights
 * than their owners have.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "tables.h"

/* what tables_select_oids() finds, and where it is to be kept */
typedef struct SelectedOids
{
	MemoryContext context;
	List	   *oids;
} SelectedOids;

/* so many rows are read until one has the id that is looked for; more is far */
#define WALK_STEPS 8

/* so many ids are searched for, each by itself, before that is tried again */
#define WALK_LEAST_FAR 16
#define WALK_MOST_FAR 1024

static Oid	tables_namespace(bool missing_ok);
static Oid	tables_relid(const char *relname);
static void tables_walk_search(TablesWalk *walk);
static int	tables_walk_compare(const TablesWalk *walk, text *id);
static void tables_save_count(void *arg);
static void tables_save_oids(void *arg);

/* of which it is known that it is the extension's, whatever its name may be by now */
static Oid	verified_namespace = InvalidOid;

/*
 * The owner of the extension.
 */
Oid
tables_owner(void)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			owner = InvalidOid;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber,
				F_NAMEEQ, CStringGetDatum("optout"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);

	if (!OidIsValid(owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"%s\" does not exist", "optout")));
	return owner;
}

/*
 * The extension's schema.  Somebody who renames it leaves its name to others,
 * whose tables must not be taken for the extension's.  So make sure that a schema
 * of this name is the extension's, once for each that is met.
 */
static Oid
tables_namespace(bool missing_ok)
{
	Oid			nspid = get_namespace_oid("optout", missing_ok);

	if (nspid != verified_namespace && OidIsValid(nspid))
	{
		Oid			extension = get_extension_oid("optout", true);

		if (OidIsValid(extension) &&
			getExtensionOfObject(NamespaceRelationId, nspid) == extension)
			verified_namespace = nspid;
		else if (missing_ok)
			return InvalidOid;
		else
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_SCHEMA),
					 errmsg("schema \"%s\" is not that of the extension", "optout")));
	}
	return nspid;
}

static Oid
tables_relid(const char *relname)
{
	Oid			nspid = tables_namespace(false);
	Oid			relid = get_relname_relid(relname, nspid);

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s.%s\" does not exist", "optout", relname)));
	return relid;
}

/*
 * One of the extension's tables, not locked.
 */
Oid
tables_find(const char *table)
{
	return tables_relid(table);
}

/*
 * Open one of the extension's tables.
 */
Relation
tables_open(const char *table, LOCKMODE lockmode)
{
	Relation	rel;

	/* whoever had it locked may have dropped it, and made another */
	while ((rel = try_table_open(tables_relid(table), lockmode)) == NULL)
		CHECK_FOR_INTERRUPTS();
	return rel;
}

/*
 * The same, but NULL where there is none.
 */
Relation
tables_try_open(const char *table, LOCKMODE lockmode)
{
	Oid			nspid = tables_namespace(true);
	Oid			relid = OidIsValid(nspid) ? get_relname_relid(table, nspid) : InvalidOid;

	return OidIsValid(relid) ? try_table_open(relid, lockmode) : NULL;
}

/*
 * Whether there are aliases and actors, which came with 1.2: until ALTER EXTENSION
 * UPDATE the SQL objects are an older version's.
 */
bool
tables_has_aliases(void)
{
	return OidIsValid(get_relname_relid("user_alias", tables_namespace(false)));
}

/*
 * Whether the relation is this one of the extension's tables.
 */
bool
tables_is(Relation rel, const char *table)
{
	Oid			nspid = RelationGetNamespace(rel);

	/* triggers ask this for each row, and a look-up by name has its price */
	return strcmp(RelationGetRelationName(rel), table) == 0 &&
		(nspid == verified_namespace || nspid == tables_namespace(true));
}

/*
 * One of the table's indexes.  The table is open, so the index stays.
 */
Oid
tables_index(Relation rel, const char *index)
{
	Oid			indexid = tables_relid(index);

	/* the schema may have been renamed since, and another have the name */
	if (IndexGetRelation(indexid, true) != RelationGetRelid(rel))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("\"%s\" is not an index of relation \"%s\"",
						index, RelationGetRelationName(rel))));
	return indexid;
}

/*
 * One of the extension's functions without arguments; InvalidOid where there is
 * none.  LookupFuncName() would ask for the caller's USAGE on the schema, and
 * whoever writes to a guarded table needs none.
 */
Oid
tables_function(const char *function)
{
	Oid			nspid = tables_namespace(true);

	return !OidIsValid(nspid) ? InvalidOid :
		GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
						CStringGetDatum(function),
						PointerGetDatum(buildoidvector(NULL, 0)),
						ObjectIdGetDatum(nspid));
}

/*
 * The latest snapshot, registered.  No newer one than the query's can be taken in
 * parallel mode.
 */
Snapshot
tables_snapshot(void)
{
	return RegisterSnapshot(IsInParallelMode() ? GetActiveSnapshot() : GetLatestSnapshot());
}

/*
 * A key for tables_beginscan(): the table's column, of type text, equals the value.
 */
void
tables_key(ScanKey key, AttrNumber attnum, text *value)
{
	ScanKeyInit(key, attnum, BTEqualStrategyNumber, F_TEXTEQ, PointerGetDatum(value));
}

/*
 * Scan an index of the table for rows that equal the keys, under the latest
 * snapshot.  The keys come in the order of the index's columns.
 */
void
tables_beginscan(TablesScan *scan, Relation rel, Oid index,
				 int nkeys, const ScanKeyData *keys)
{
	/* some versions of systable_beginscan() write into the keys */
	ScanKeyData copy[INDEX_MAX_KEYS];

	Assert(nkeys <= INDEX_MAX_KEYS);
	memcpy(copy, keys, nkeys * sizeof(ScanKeyData));

	scan->rel = rel;
	scan->snapshot = tables_snapshot();
	scan->scan = systable_beginscan(rel, index, true, scan->snapshot,
									nkeys, copy);
}

/* the next row, or NULL; valid until the next call */
HeapTuple
tables_getnext(TablesScan *scan)
{
	return systable_getnext(scan->scan);
}

void
tables_endscan(TablesScan *scan)
{
	systable_endscan(scan->scan);
	UnregisterSnapshot(scan->snapshot);
}

/*
 * Begin to look for the rows of many ids of the organization, under the given
 * snapshot or, if it is NULL, the latest one.  The table's first column is the
 * organization.  The first two of the index are the organization and the id.
 *
 * If the ids are asked for in their order, and are a good part of the table's, it
 * is best to read the index from one to the next.  Else it is best to search it for
 * each id, and for that only: a search for whatever follows reads a whole page.  We
 * try the one after a number of searches, which is the larger the less it has been
 * worth it.  Where the index has the id before the organization, other
 * organizations' rows are in the way, so there are only searches.
 */
void
tables_beginwalk(TablesWalk *walk, Relation rel, Oid index,
				 text *organization, Snapshot snapshot)
{
	ScanKeyData keys[2];

	memset(walk, 0, sizeof(TablesWalk));
	walk->rel = rel;
	walk->index = index_open(index, AccessShareLock);
	walk->organization = organization;
	walk->id_first = walk->index->rd_index->indkey.values[0] != 1;
	walk->attnum = walk->index->rd_index->indkey.values[walk->id_first ? 0 : 1];
	walk->own_snapshot = snapshot == NULL;
	walk->snapshot = snapshot != NULL ? snapshot : tables_snapshot();
	walk->searches = walk->far = WALK_LEAST_FAR;

	/* here columns are numbered as in the table, later as in the index */
	tables_key(&keys[walk->id_first ? 1 : 0], 1, organization);
	tables_key(&keys[walk->id_first ? 0 : 1], walk->attnum, organization);
	walk->scan = systable_beginscan_ordered(rel, walk->index, walk->snapshot, 2, keys);
}

/*
 * The first row with this id, or NULL; valid until the next call.  The id itself
 * has to stay as long.
 */
HeapTuple
tables_walk_to(TablesWalk *walk, text *id)
{
	if (walk->walking && ident_compare(PointerGetDatum(id), PointerGetDatum(walk->id)) > 0)
	{
		for (int steps = 0; steps < WALK_STEPS; steps++)
		{
			int			cmp = walk->tuple != NULL ? tables_walk_compare(walk, id) : 1;

			if (cmp >= 0)
			{
				walk->id = id;
				walk->walked++;
				return cmp == 0 ? walk->tuple : NULL;
			}
			walk->tuple = systable_getnext_ordered(walk->scan, ForwardScanDirection);
		}
		walk->far = walk->walked > walk->far ? WALK_LEAST_FAR : Min(walk->far * 2, WALK_MOST_FAR);
		walk->searches = walk->far;
	}

	walk->id = id;
	walk->walking = !walk->id_first && walk->searches == 0;
	walk->walked = 0;
	if (walk->searches > 0)
		walk->searches--;
	tables_walk_search(walk);
	return walk->tuple != NULL && tables_walk_compare(walk, id) == 0 ? walk->tuple : NULL;
}

/*
 * Search the index for the first row with this id or, if we walk on from there, a
 * higher one.
 */
static void
tables_walk_search(TablesWalk *walk)
{
	int			o = walk->id_first ? 1 : 0;
	ScanKeyData keys[2];

	ScanKeyInit(&keys[o], o + 1, BTEqualStrategyNumber, F_TEXTEQ, PointerGetDatum(walk->organization));
	ScanKeyInit(&keys[1 - o], 2 - o,
				walk->walking ? BTGreaterEqualStrategyNumber : BTEqualStrategyNumber,
				walk->walking ? F_TEXT_GE : F_TEXTEQ, PointerGetDatum(walk->id));
	index_rescan(walk->scan->iscan, keys, 2, NULL, 0);
	walk->tuple = systable_getnext_ordered(walk->scan, ForwardScanDirection);
}

/*
 * Another row with the same id as the last one, or NULL.
 */
HeapTuple
tables_walk_on(TablesWalk *walk)
{
	walk->tuple = systable_getnext_ordered(walk->scan, ForwardScanDirection);
	return walk->tuple != NULL && tables_walk_compare(walk, walk->id) == 0 ? walk->tuple : NULL;
}

/*
 * How the row that was reached compares to the id.
 */
static int
tables_walk_compare(const TablesWalk *walk, text *id)
{
	bool		isnull;
	Datum		value = heap_getattr(walk->tuple, walk->attnum, RelationGetDescr(walk->rel), &isnull);
	text	   *found = DatumGetTextPP(value);
	int			cmp = ident_compare(PointerGetDatum(found), PointerGetDatum(id));

	if ((Pointer) found != DatumGetPointer(value))
		pfree(found);
	return cmp;
}

/*
 * A copy of a text in the row that was found.
 */
Datum
tables_walk_value(const TablesWalk *walk, AttrNumber attnum)
{
	bool		isnull;

	return PointerGetDatum(DatumGetTextPCopy(heap_getattr(walk->tuple, attnum,
														  RelationGetDescr(walk->rel), &isnull)));
}

void
tables_endwalk(TablesWalk *walk)
{
	systable_endscan_ordered(walk->scan);
	index_close(walk->index, AccessShareLock);
	if (walk->own_snapshot)
		UnregisterSnapshot(walk->snapshot);
}

/*
 * Raise an error if the SQL function that was called cannot write now.  For
 * those that lock before they execute any command, which would raise it.
 */
void
tables_prevent_if_read_only(FunctionCallInfo fcinfo)
{
	char	   *function = psprintf("optout.%s()", get_func_name(fcinfo->flinfo->fn_oid));

	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
}

/*
 * Execute a command as the owner of the tables, under a snapshot taken now.
 * Returns how many rows it changed.  The caller's search_path is in force, so
 * the SQL function must have pinned it.
 */
uint64
tables_execute(const char *command, int nargs, Oid *argtypes,
			   Datum *values, const char *nulls)
{
	return tables_execute_under(command, nargs, argtypes, values, nulls, NULL, NULL, NULL);
}

/*
 * The same for a query that returns one row with one bigint, which is returned.
 */
uint64
tables_select_count(const char *query, int nargs, Oid *argtypes,
					Datum *values, const char *nulls)
{
	return tables_select_count_under(query, nargs, argtypes, values, nulls, NULL);
}

uint64
tables_select_count_under(const char *query, int nargs, Oid *argtypes,
						  Datum *values, const char *nulls, Snapshot snapshot)
{
	uint64		count;

	tables_execute_under(query, nargs, argtypes, values, nulls, snapshot, tables_save_count, &count);
	return count;
}

static void
tables_save_count(void *arg)
{
	bool		isnull;

	*(uint64 *) arg = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
												  SPI_tuptable->tupdesc, 1, &isnull));
	Assert(!isnull);
}

/*
 * The same for a query that returns oids or xids.
 */
List *
tables_select_oids(const char *query, int nargs, Oid *argtypes, Datum *values)
{
	SelectedOids selected;

	selected.context = CurrentMemoryContext;
	selected.oids = NIL;
	tables_execute_under(query, nargs, argtypes, values, NULL, NULL, tables_save_oids, &selected);
	return selected.oids;
}

static void
tables_save_oids(void *arg)
{
	SelectedOids *selected = arg;
	MemoryContext old_context = MemoryContextSwitchTo(selected->context);

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		Datum		oid = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);

		selected->oids = lappend_oid(selected->oids, DatumGetObjectId(oid));
	}
	MemoryContextSwitchTo(old_context);
}

/*
 * The same under the given snapshot or, if it is NULL, one taken now.  What it returns is
 * for "rows" to look at.
 */
uint64
tables_execute_under(const char *command, int nargs, Oid *argtypes,
					 Datum *values, const char *nulls,
					 Snapshot snapshot, void (*rows) (void *arg), void *arg)
{
	Oid			save_userid;
	int			save_sec_context;
	SPIPlanPtr	plan;
	Snapshot	own_snapshot = NULL;
	int			rc;
	uint64		processed;

	/* an error resets this at the end of the (sub)transaction */
	GetUserIdAndSecContext(&save_userid, &save_sec_context);
	SetUserIdAndSecContext(tables_owner(),
						   save_sec_context | SECURITY_LOCAL_USERID_CHANGE);

	SPI_connect();
	plan = SPI_prepare(command, nargs, argtypes);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));

	if (snapshot == NULL)
		snapshot = own_snapshot = tables_snapshot();
	rc = SPI_execute_snapshot(plan, values, nulls, snapshot, InvalidSnapshot,
							  false, true, 0);
	if (rc < 0)
		elog(ERROR, "SPI_execute_snapshot failed: %s", SPI_result_code_string(rc));
	if (own_snapshot != NULL)
		UnregisterSnapshot(own_snapshot);

	processed = SPI_processed;
	if (rows != NULL)
		rows(arg);

	SPI_finish();
	SetUserIdAndSecContext(save_userid, save_sec_context);
	return processed;
}

/*
 * The name of any relation, qualified and quoted.
 */
char *
tables_relation_name(Relation rel)
{
	return quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
									  RelationGetRelationName(rel));
}

/*
 * Go on as the owner of a table of somebody else's, in a security-restricted operation
 * and, if given, further flags.  What the owner has put into the table can run then: it
 * gets nobody else's rights, and the settings that it changes are reset.  An error ends
 * this at the end of the (sub)transaction.  If the owner is InvalidOid, we stay the
 * caller, and only settings are reset.
 */
TablesCaller
tables_become_owner(Oid owner, int sec_context)
{
	TablesCaller caller;

	GetUserIdAndSecContext(&caller.userid, &caller.sec_context);
	if (OidIsValid(owner))
		SetUserIdAndSecContext(owner, caller.sec_context | SECURITY_RESTRICTED_OPERATION | sec_context);
	caller.nestlevel = NewGUCNestLevel();
	return caller;
}

/*
 * Go on as the caller again.
 */
void
tables_become_caller(const TablesCaller *caller)
{
	AtEOXact_GUC(false, caller->nestlevel);
	SetUserIdAndSecContext(caller->userid, caller->sec_context);
}
