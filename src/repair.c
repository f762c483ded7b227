/*
 * repair.c
 *		optout.repair(), which lets guards and the extension's own triggers fire
 *		again where they do not.
 *
 * After pg_restore --disable-triggers, for example, or ALTER TABLE ...
 * ENABLE TRIGGER, they do not fire always.  Only triggers that are off are
 * altered, and only their tables are locked.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_event_trigger.h"
#include "catalog/pg_trigger.h"
#include "commands/tablecmds.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/rel.h"

#include "compat.h"
#include "guards.h"
#include "tables.h"

PG_FUNCTION_INFO_V1(optout_repair);

static int64 repair_own(const char *table, const char *function, char fires);
static int64 repair_event_trigger(void);
static List *repair_relations_off(Oid function);
static int64 repair_enable(Oid relid, Oid function, char fires);

/*
 * optout.repair()
 *
 * The state table comes first: while its trigger does not fire, ingest waits
 * for nobody, but whoever holds the lock of an event table and waits for that of
 * the state table can deadlock with those who ingest.
 */
Datum
optout_repair(PG_FUNCTION_ARGS)
{
	Oid			discard = guards_function();
	int64		count = 0;
	ListCell   *cell;

	if (!has_privs_of_role(GetUserId(), tables_owner()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser or owner of extension \"%s\" to repair guards",
						"optout")));
	tables_prevent_if_read_only(fcinfo);

	count += repair_own("opt_out_period", "add_to_filter", TRIGGER_FIRES_ALWAYS);
	if (tables_has_aliases())
	{
		/* what replication brings has been through them where it was written */
		count += repair_own("opt_out_period", "delete_alias_periods", TRIGGER_FIRES_ON_ORIGIN);
		count += repair_own("product_user", "refuse_aliases", TRIGGER_FIRES_ON_ORIGIN);
		count += repair_event_trigger();
	}
	foreach(cell, repair_relations_off(discard))
		count += repair_enable(lfirst_oid(cell), discard, TRIGGER_FIRES_ALWAYS);
	PG_RETURN_INT64(count);
}

/*
 * Let a trigger of one of the extension's tables fire again, if it does not.
 * Returns how many were off.  The table is locked only then.
 */
static int64
repair_own(const char *table, const char *function, char fires)
{
	Relation	rel = tables_open(table, AccessShareLock);
	Oid			relid = RelationGetRelid(rel);
	Oid			funcid = tables_function(function);
	bool		off = guards_find_all(rel, funcid, fires).off != NIL;

	table_close(rel, AccessShareLock);
	return off ? repair_enable(relid, funcid, fires) : 0;
}

/*
 * Let the event trigger of rules.c fire always again; returns whether it did not.
 * ALTER EVENT TRIGGER would take ownership of it, which the extension's owner need
 * not have: it is a superuser's.
 */
static int64
repair_event_trigger(void)
{
	Relation	rel = table_open(EventTriggerRelationId, RowExclusiveLock);
	Oid			function = tables_function("apply_rules");
	int64		count = 0;
	SysScanDesc scan;
	HeapTuple	tuple;

	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_event_trigger form = (Form_pg_event_trigger) GETSTRUCT(tuple);

		if (form->evtfoid != function || form->evtenabled == TRIGGER_FIRES_ALWAYS)
			continue;
		tuple = heap_copytuple(tuple);
		((Form_pg_event_trigger) GETSTRUCT(tuple))->evtenabled = TRIGGER_FIRES_ALWAYS;
		CatalogTupleUpdate(rel, &tuple->t_self, tuple);
		count++;
	}
	systable_endscan(scan);
	table_close(rel, NoLock);
	return count;
}

/*
 * The relations on which triggers of the function do not fire always, in the
 * order of their OIDs.
 */
static List *
repair_relations_off(Oid function)
{
	Relation	pg_trigger = table_open(TriggerRelationId, AccessShareLock);
	List	   *result = NIL;
	SysScanDesc scan;
	HeapTuple	tuple;

	scan = systable_beginscan(pg_trigger, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_trigger trigger = (Form_pg_trigger) GETSTRUCT(tuple);

		if (trigger->tgfoid == function && trigger->tgenabled != TRIGGER_FIRES_ALWAYS)
			result = lappend_oid(result, trigger->tgrelid);
	}
	systable_endscan(scan);
	table_close(pg_trigger, AccessShareLock);

	list_sort(result, list_oid_cmp);
	list_deduplicate_oid(result);
	return result;
}

/*
 * Let the relation's triggers of the function that are off fire as "fires" says;
 * returns how many there were.  ALTER TABLE would ask for rights on the table and
 * its schema, which the caller need not have, nor always has the table's owner;
 * and TimescaleDB would refuse it for a chunk.
 */
static int64
repair_enable(Oid relid, Oid function, char fires)
{
	Relation	rel = try_relation_open(relid, ShareRowExclusiveLock);
	List	   *off;
	ListCell   *cell;

	if (rel == NULL)
		return 0;
	/* another session's temporary table cannot be altered */
	off = RELATION_IS_OTHER_TEMP(rel) ? NIL : guards_find_all(rel, function, fires).off;
	if (off != NIL)
		CheckTableNotInUse(rel, "ALTER TABLE");
	foreach(cell, off)
		EnableDisableTrigger(rel, lfirst(cell), InvalidOid, fires,
							 false, false, ShareRowExclusiveLock);
	relation_close(rel, NoLock);
	return list_length(off);
}
