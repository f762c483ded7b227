/*
 * purge.c
 *		What was stored before: optout.stored_events() and optout.purge().
 *
 * purge() deletes what guarded tables hold of users who are opted out.  Its promise:
 * when it has committed, no guarded table holds an event of theirs, and none can
 * come while they are out.  That rests on this order:
 *
 * 1. It locks the guarded tables like any DELETE, until the end, and then looks
 *	  whether all guards fire always.  Whoever wants to alter one waits.
 * 2. It locks the users' open periods, until the end, so that they stay open:
 *	  opt_in() and forget() wait.  So do link() and unlink(), which lock a user's
 *	  periods as well, so these users keep the aliases that are read next.
 * 3. It waits until those who have written these periods have told other sessions
 *	  to forget what they remember.  Their commit can be seen a moment before.
 *	  They do it before they release their locks.
 * 4. It waits for all who have asked the filter by now (settle.c).  Whoever asks
 *	  later finds the users and aliases opted out.
 * 5. It deletes, in each table under a snapshot taken then, which shows all that was
 *	  let through before.
 *
 * Nobody may wait for us in step 2 whom we wait for in step 4.  So whoever waits for
 * a row of the state table does not yet have the lock on the table by which step 4
 * knows those who have asked (lock.c).  A transaction that has it from an earlier
 * command, as one that has ingested, can deadlock with us, and one of the two fails.
 *
 * A DELETE runs triggers, rules and functions that the table's owner has chosen.  So
 * it runs as the owner, in a security-restricted operation, for otherwise they could
 * act with the rights of whoever calls us.  What the caller may do themselves is
 * checked before.  Statements are analyzed as the caller, who has USAGE on the schemas
 * that they name, which an owner need not have.
 *
 * Deferred triggers would run at the end of the transaction, as the caller.  The
 * server refuses to queue them, so constraints are checked at once.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "authority.h"
#include "compat.h"
#include "complete.h"
#include "guard.h"
#include "links.h"
#include "match.h"
#include "periods.h"
#include "progress.h"
#include "settle.h"
#include "tables.h"

PG_FUNCTION_INFO_V1(optout_purge);
PG_FUNCTION_INFO_V1(optout_stored_events);

/* what a statement is about, and as whom it runs */
typedef struct PurgePart
{
	char	   *from;			/* a table with all that inherits from it, or ONLY
								 * one */
	Oid			owner;			/* InvalidOid: the caller, and as a query */
	bool		forces_rls;		/* on the owner, too */
} PurgePart;

/* a guarded table, which is locked */
typedef struct PurgeTable
{
	Oid			relid;
	char	   *name;			/* qualified */
	MatchHolder holder;
	bool		is_foreign;
	List	   *parts;
	List	   *foreign_tables; /* names of those among its children */
	bool		may_keep;		/* a trigger or rule may keep rows */
	char	   *condition;		/* NULL where no row can be theirs */
	List	   *sources;
	uint64		deleted;
} PurgeTable;

/* what a query gives, and where it is to be kept */
typedef struct PurgeOids
{
	MemoryContext context;
	List	   *oids;
} PurgeOids;

static void purge_check_transaction(void);
static List *purge_guarded(void);
static List *purge_select_oids(const char *query, int nargs, Oid *argtypes, Datum *values);
static void purge_save_oids(void *arg);
static Relation purge_open(Oid relid, LOCKMODE lockmode, PurgeTable *table, text *organization);
static void purge_check_tables(List *guarded, text *organization);
static void purge_check_visible(Relation rel, const char *routine);
static void purge_deny(Relation rel, const char *detail);
static List *purge_lock_tables(List *guarded, text *organization, LOCKMODE lockmode);
static void purge_check_guards(Relation rel, LOCKMODE lockmode);
static void purge_check_users(text *organization, const UserIds *users, bool dry_run);
static void purge_wait_for_writers(text *organization, const UserIds *users, const UserIds *aliases);
static void purge_check_constraints_at_once(void);
static void purge_describe(PurgeTable *table, List *guarded, Match *match);
static List *purge_guarded_children(List *children, List *guarded);
static List *purge_guarded_parents(Oid relid, List *guarded);
static char *purge_oid_array(List *oids);
static PurgePart *purge_part(Relation rel, bool only);
static bool purge_may_keep(Relation rel);
static void purge_table(PurgeTable *table, Match *match, Match *sample, bool dry_run);
static bool purge_skips(const PurgeTable *table, text *organization);
static void purge_tell_of_scans(const PurgeTable *table, Match *sample);
static bool purge_scans(const PurgeTable *table, const MatchSource *source, Match *sample);
static uint64 purge_count(const PurgeTable *table, Match *match);
static uint64 purge_run(const char *command, Match *match, const PurgePart *part);
static uint64 purge_result(int rc);
static bool purge_line_scans(const char *line);
static void purge_check_left(List *tables, Match *match);
static void purge_record(List *tables, text *organization);

/*
 * optout.purge(user_ids, organization, dry_run)
 */
Datum
optout_purge(PG_FUNCTION_ARGS)
{
	UserIds		users = user_ids_from_array(PG_ARGISNULL(0) ? NULL : PG_GETARG_ARRAYTYPE_P(0));
	text	   *organization = organization_resolve(PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1));
	bool		dry_run = !PG_ARGISNULL(2) && PG_GETARG_BOOL(2);
	List	   *guarded;
	List	   *tables;
	UserIds		aliases;
	Match		match;
	Match		sample;
	ListCell   *cell;

	authority_require_administer(organization);
	if (!dry_run)
		tables_prevent_if_read_only(fcinfo);
	purge_check_transaction();
	complete_check();

	guarded = purge_guarded();
	if (guarded == NIL)
		ereport(NOTICE,
				(errmsg("no table is guarded"),
				 errhint("optout.purge() deletes from tables under optout.guard().")));
	progress_begin(PROGRESS_PURGE, PROGRESS_LOCKING_TABLES, list_length(guarded));
	purge_check_tables(guarded, organization);
	tables = purge_lock_tables(guarded, organization, dry_run ? AccessShareLock : RowExclusiveLock);

	progress_phase(PROGRESS_LOCKING_OPEN_PERIODS, users.count);
	links_refuse_known_aliases(organization, &users);
	purge_check_users(organization, &users, dry_run);
	aliases = links_find_known(organization, &users);
	if (!dry_run)
	{
		progress_phase(PROGRESS_SETTLING, 0);
		purge_wait_for_writers(organization, &users, &aliases);
		settle();
	}

	progress_phase(PROGRESS_PURGING, list_length(tables));
	match_users(&match, organization, &users, &aliases, PG_INT32_MAX);
	match_users(&sample, organization, &users, &aliases, 1);
	purge_check_constraints_at_once();
	foreach(cell, tables)
	{
		PurgeTable *table = lfirst(cell);

		CHECK_FOR_INTERRUPTS();
		progress_set(foreach_current_index(cell));
		if (purge_skips(table, organization))
		{
			tables = foreach_delete_current(tables, cell);
			continue;
		}
		purge_describe(table, guarded, &match);
		purge_table(table, &match, &sample, dry_run);
	}
	if (!dry_run)
	{
		purge_check_left(tables, &match);
		purge_record(tables, organization);
	}
	progress_end();
	PG_RETURN_VOID();
}

/*
 * optout.stored_events(user_ids, organization)
 *
 * It counts as the caller, who may do so in the same way themselves.  So it looks
 * into foreign tables as well.
 */
Datum
optout_stored_events(PG_FUNCTION_ARGS)
{
	UserIds		users = user_ids_from_array(PG_ARGISNULL(0) ? NULL : PG_GETARG_ARRAYTYPE_P(0));
	text	   *organization = organization_resolve(PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1));
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	List	   *guarded;
	UserIds		aliases;
	Match		match;
	ListCell   *cell;

	authority_require_read(organization);
	complete_check();
	InitMaterializedSRF(fcinfo, 0);

	links_refuse_known_aliases(organization, &users);
	aliases = links_find_known(organization, &users);
	match_users(&match, organization, &users, &aliases, PG_INT32_MAX);
	guarded = purge_guarded();
	foreach(cell, guarded)
	{
		PurgeTable	table;
		Relation	rel = purge_open(lfirst_oid(cell), AccessShareLock, &table, organization);
		PurgePart	caller = {NULL, InvalidOid, false};
		Datum		values[2];
		bool		nulls[2] = {false};
		uint64		count;

		if (rel == NULL)
			continue;
		if (table.holder == MATCH_OURS)
			purge_check_visible(rel, "optout.stored_events()");
		relation_close(rel, NoLock);
		if (purge_skips(&table, organization))
			continue;

		purge_describe(&table, guarded, &match);
		caller.from = table.name;
		table.parts = list_make1(&caller);
		count = purge_count(&table, &match);
		if (count == 0)
			continue;
		values[0] = ObjectIdGetDatum(table.relid);
		values[1] = Int64GetDatum((int64) count);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * Raise an error in a transaction in which the promise could not be kept.
 */
static void
purge_check_transaction(void)
{
	settle_check_transaction("optout.purge()");
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("optout.purge() cannot run at isolation level %s",
						XactIsoLevel == XACT_SERIALIZABLE ? "SERIALIZABLE" : "REPEATABLE READ"),
				 errdetail("It would not see events that are stored while it waits for other transactions."),
				 errhint("Call it at READ COMMITTED.")));
}

/*
 * The tables with a guard of their own.  What partitions inherit is their root's, and
 * so is what TimescaleDB copies to its chunks.
 *
 * A table comes before those that it refers to, through whatever other tables, so
 * that details of events are gone before the events.  Where tables refer to each
 * other in a circle, their order is as good as any.
 */
static List *
purge_guarded(void)
{
	Oid			argtypes[1] = {OIDOID};
	Datum		values[1];

	values[0] = ObjectIdGetDatum(guard_function());
	return purge_select_oids("WITH RECURSIVE guarded AS ("
							 "SELECT DISTINCT t.tgrelid AS relid FROM pg_trigger t "
							 "WHERE t.tgfoid = $1 AND t.tgparentid = 0 AND NOT EXISTS ("
							 "SELECT FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid "
							 "JOIN pg_trigger p ON p.tgrelid = i.inhparent "
							 "WHERE c.oid = t.tgrelid AND p.tgfoid = t.tgfoid "
							 "AND c.relnamespace = to_regnamespace('_timescaledb_internal'))"
							 "), reference AS MATERIALIZED ("
							 "SELECT DISTINCT COALESCE(pg_partition_root(k.conrelid), k.conrelid)::oid AS relid, "
							 "COALESCE(pg_partition_root(k.confrelid), k.confrelid)::oid AS to_relid "
							 "FROM pg_constraint k WHERE k.contype = 'f'"
							 "), reached (relid, through, steps) AS ("
							 "SELECT g.relid, COALESCE(pg_partition_root(g.relid), g.relid)::oid, 0 FROM guarded g "
							 "UNION SELECT r.relid, f.to_relid, r.steps + 1 "
							 "FROM reached r JOIN reference f ON f.relid = r.through AND f.to_relid <> f.relid "
							 "WHERE r.steps < 100"
							 ") SELECT r.relid FROM reached r GROUP BY r.relid ORDER BY max(r.steps) DESC, r.relid",
							 1, argtypes, values);
}

/*
 * What a query gives that returns one column of type oid or xid.
 */
static List *
purge_select_oids(const char *query, int nargs, Oid *argtypes, Datum *values)
{
	PurgeOids	selected;

	selected.context = CurrentMemoryContext;
	selected.oids = NIL;
	tables_execute_under(query, nargs, argtypes, values, NULL, NULL, purge_save_oids, &selected);
	return selected.oids;
}

static void
purge_save_oids(void *arg)
{
	PurgeOids  *selected = arg;
	MemoryContext old_context = MemoryContextSwitchTo(selected->context);

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;

		selected->oids = lappend_oid(selected->oids,
									 DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i],
																	SPI_tuptable->tupdesc, 1, &isnull)));
	}
	MemoryContextSwitchTo(old_context);
}

/*
 * Open a guarded table; NULL where there is none any more, or it is another
 * session's temporary table, which cannot be read.
 */
static Relation
purge_open(Oid relid, LOCKMODE lockmode, PurgeTable *table, text *organization)
{
	Relation	rel = try_relation_open(relid, lockmode);
	List	   *shapes = NIL;

	if (rel != NULL && !RELATION_IS_OTHER_TEMP(rel))
		shapes = guard_shapes(rel);
	if (shapes == NIL)
	{
		if (rel != NULL)
			relation_close(rel, lockmode);
		return NULL;
	}
	memset(table, 0, sizeof(PurgeTable));
	table->relid = relid;
	table->name = guard_relation_name(rel);
	table->is_foreign = rel->rd_rel->relkind == RELKIND_FOREIGN_TABLE;
	table->holder = match_holder(shapes, organization);
	return rel;
}

/*
 * Raise an error (42501) unless the caller may delete from all tables that are to
 * be purged.  They are not kept locked, for whoever may not shall not lock them.
 */
static void
purge_check_tables(List *guarded, text *organization)
{
	ListCell   *cell;

	foreach(cell, guarded)
	{
		PurgeTable	table;
		Relation	rel = purge_open(lfirst_oid(cell), AccessShareLock, &table, organization);

		if (rel == NULL)
			continue;
		if (table.holder == MATCH_OURS && !table.is_foreign)
		{
			purge_check_visible(rel, "optout.purge()");
			if (pg_class_aclcheck(table.relid, GetUserId(), ACL_SELECT) != ACLCHECK_OK ||
				pg_class_aclcheck(table.relid, GetUserId(), ACL_DELETE) != ACLCHECK_OK)
				purge_deny(rel, "optout.purge() needs SELECT and DELETE on every guarded table.");
		}
		relation_close(rel, AccessShareLock);
	}
}

/*
 * Raise an error (42501) where the caller would not see the table, or not all of
 * its rows.
 */
static void
purge_check_visible(Relation rel, const char *routine)
{
	if (object_aclcheck(NamespaceRelationId, RelationGetNamespace(rel), GetUserId(), ACL_USAGE) != ACLCHECK_OK)
		purge_deny(rel, psprintf("%s needs USAGE on the schema of every guarded table.", routine));
	if (check_enable_rls(RelationGetRelid(rel), GetUserId(), true) == RLS_ENABLED)
		purge_deny(rel, psprintf("Row-level security of the table would apply, and %s would miss what it hides.", routine));
}

static void
purge_deny(Relation rel, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for table %s", guard_relation_name(rel)),
			 errdetail_internal("%s", detail)));
}

/*
 * Lock the guarded tables, and see that no event can get past their guards.
 */
static List *
purge_lock_tables(List *guarded, text *organization, LOCKMODE lockmode)
{
	List	   *result = NIL;
	ListCell   *cell;

	foreach(cell, guarded)
	{
		PurgeTable *table = palloc(sizeof(PurgeTable));
		Relation	rel = purge_open(lfirst_oid(cell), lockmode, table, organization);

		CHECK_FOR_INTERRUPTS();
		progress_set(foreach_current_index(cell));
		if (rel == NULL)
			continue;
		if (table->holder == MATCH_OURS && !table->is_foreign)
			purge_check_guards(rel, lockmode);
		relation_close(rel, NoLock);
		result = lappend(result, table);
	}
	return result;
}

/*
 * Lock what inherits from the table as well.  Raise an error (55000) for a guard
 * that does not fire always, and warn of children that have none.
 */
static void
purge_check_guards(Relation rel, LOCKMODE lockmode)
{
	ListCell   *cell;

	foreach(cell, find_all_inheritors(RelationGetRelid(rel), lockmode, NULL))
	{
		Relation	child = relation_open(lfirst_oid(cell), NoLock);
		const char *off = guard_find_off(child);

		if (off != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("guard \"%s\" of table %s does not fire always",
							off, guard_relation_name(child)),
					 errdetail("Events can get past it."),
					 errhint("Call optout.repair(), as a superuser or the owner of the extension.")));
		if (rel->rd_rel->relkind == RELKIND_RELATION && guard_shapes(child) == NIL)
			ereport(WARNING,
					(errmsg("table %s, which inherits from %s, is not guarded",
							guard_relation_name(child), guard_relation_name(rel)),
					 errdetail("What is deleted from it now can come again."),
					 errhint("Call optout.guard() for it.")));
		relation_close(child, NoLock);
	}
}

/*
 * Raise an error (55000) for a user who is not opted out, and see that those who
 * are stay so.  A dry run, which deletes nothing, makes nobody wait.
 */
static void
purge_check_users(text *organization, const UserIds *users, bool dry_run)
{
	UserIds		opted_out = dry_run ? periods_find_open(organization, users) :
		periods_share_open(organization, users);

	for (int i = 0; i < users->count; i++)
	{
		if (i < opted_out.count && ident_compare(users->ids[i], opted_out.ids[i]) == 0)
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("user \"%s\" of organization \"%s\" is not opted out",
						ident_for_message(DatumGetTextPP(users->ids[i])),
						ident_for_message(organization)),
				 errdetail("Their events would go on to be stored."),
				 errhint("Call optout.opt_out(), and commit, first.")));
	}
}

/*
 * Wait until those who have written the users' open periods have released their
 * locks.  Their transactions have ended, and mostly long ago.
 */
static void
purge_wait_for_writers(text *organization, const UserIds *users, const UserIds *aliases)
{
	Oid			argtypes[3] = {TEXTOID, TEXTARRAYOID, TEXTARRAYOID};
	Datum		values[3];
	List	   *writers;
	ListCell   *cell;

	values[0] = PointerGetDatum(organization);
	values[1] = PointerGetDatum(user_ids_to_array(users));
	values[2] = PointerGetDatum(user_ids_to_array(aliases));
	writers = purge_select_oids("SELECT DISTINCT p.xmin FROM unnest($2 || $3) AS u (user_id) "
								"CROSS JOIN LATERAL (SELECT p.xmin FROM optout.opt_out_period p "
								"WHERE p.organization = $1 AND p.user_id = u.user_id "
								"AND p.opted_in_at IS NULL OFFSET 0) AS p",
								3, argtypes, values);
	foreach(cell, writers)
	{
		TransactionId xid = (TransactionId) lfirst_oid(cell);
		LOCKTAG		tag;

		/* of one that has ended long ago nobody holds this lock */
		SET_LOCKTAG_TRANSACTION(tag, xid);
		(void) LockAcquire(&tag, ShareLock, false, false);
		LockRelease(&tag, ShareLock, false);
	}
}

/*
 * SET CONSTRAINTS ALL IMMEDIATE
 */
static void
purge_check_constraints_at_once(void)
{
	ConstraintsSetStmt *statement = makeNode(ConstraintsSetStmt);

	statement->constraints = NIL;
	statement->deferred = false;
	AfterTriggerSetState(statement);
}

/*
 * How to find the events in a table, which is locked.
 *
 * Children that have a guard of their own come in their own turn, with all that
 * inherits from them.  There, what the guards of their parents read counts as well,
 * for one sees their rows through the parents, too.  Of a table with foreign ones
 * among its children each of the others is looked into by itself.
 */
static void
purge_describe(PurgeTable *table, List *guarded, Match *match)
{
	Relation	rel = relation_open(table->relid, NoLock);
	List	   *children = find_all_inheritors(table->relid, AccessShareLock, NULL);
	List	   *except = purge_guarded_children(children, guarded);
	List	   *parts = NIL;
	ListCell   *cell;

	foreach(cell, children)
	{
		Relation	child = relation_open(lfirst_oid(cell), NoLock);

		if (list_member_oid(except, RelationGetRelid(child)))
			 /* not here */ ;
		else if (child->rd_rel->relkind == RELKIND_FOREIGN_TABLE)
			table->foreign_tables = lappend(table->foreign_tables, guard_relation_name(child));
		else if (child->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
			parts = lappend(parts, purge_part(child, true));
		table->may_keep |= purge_may_keep(child);
		relation_close(child, NoLock);
	}
	table->parts = table->foreign_tables != NIL ? parts : list_make1(purge_part(rel, false));
	table->condition = match_condition(rel, guard_shapes(rel), match, &table->sources);
	foreach(cell, purge_guarded_parents(table->relid, guarded))
	{
		Relation	parent = relation_open(lfirst_oid(cell), AccessShareLock);
		List	   *sources;
		char	   *condition = match_condition(parent, guard_shapes(parent), match, &sources);

		if (condition != NULL)
			table->condition = table->condition != NULL ?
				psprintf("%s OR %s", table->condition, condition) : condition;
		table->sources = list_concat(table->sources, sources);
		relation_close(parent, NoLock);
	}
	if (table->condition != NULL && except != NIL)
		table->condition = psprintf("(%s) AND e.tableoid <> ALL (%s)", table->condition, purge_oid_array(except));
	relation_close(rel, NoLock);
}

/*
 * Those of a table and its children that a guarded child stands for.
 */
static List *
purge_guarded_children(List *children, List *guarded)
{
	List	   *result = NIL;
	ListCell   *cell;

	foreach(cell, children)
	{
		if (foreach_current_index(cell) > 0 && list_member_oid(guarded, lfirst_oid(cell)))
			result = list_concat_unique_oid(result, find_all_inheritors(lfirst_oid(cell), NoLock, NULL));
	}
	return result;
}

/*
 * The guarded tables that a table inherits from, other than as a partition, which
 * has got their guards.
 */
static List *
purge_guarded_parents(Oid relid, List *guarded)
{
	List	   *result = NIL;
	ListCell   *cell;

	foreach(cell, guarded)
	{
		Oid			parent = lfirst_oid(cell);

		if (parent != relid && has_subclass(parent) &&
			get_rel_relkind(parent) != RELKIND_PARTITIONED_TABLE &&
			list_member_oid(find_all_inheritors(parent, NoLock, NULL), relid))
			result = lappend_oid(result, parent);
	}
	return result;
}

static char *
purge_oid_array(List *oids)
{
	StringInfoData result;
	ListCell   *cell;

	initStringInfo(&result);
	foreach(cell, oids)
		appendStringInfo(&result, "%s%u", foreach_current_index(cell) > 0 ? "," : "'{", lfirst_oid(cell));
	appendStringInfoString(&result, "}'::oid[]");
	return result.data;
}

static PurgePart *
purge_part(Relation rel, bool only)
{
	PurgePart  *result = palloc(sizeof(PurgePart));

	result->from = psprintf("%s%s", only ? "ONLY " : "", guard_relation_name(rel));
	result->owner = rel->rd_rel->relowner;
	result->forces_rls = rel->rd_rel->relforcerowsecurity;
	return result;
}

/*
 * Whether there is anything that can keep a DELETE from deleting, or put something
 * in its place.  Of foreign keys, those that set other values can.
 */
static bool
purge_may_keep(Relation rel)
{
	TriggerDesc *trigdesc = rel->trigdesc;

	if (rel->rd_rel->relhasrules ||
		(rel->rd_rel->relkind == RELKIND_RELATION && rel->rd_rel->relam != HEAP_TABLE_AM_OID))
		return true;
	for (int i = 0; trigdesc != NULL && i < trigdesc->numtriggers; i++)
	{
		Trigger    *trigger = &trigdesc->triggers[i];

		if (TRIGGER_FOR_DELETE(trigger->tgtype) && trigger->tgfoid != F_RI_FKEY_CASCADE_DEL &&
			trigger->tgfoid != F_RI_FKEY_NOACTION_DEL && trigger->tgfoid != F_RI_FKEY_RESTRICT_DEL)
			return true;
	}
	return false;
}

/*
 * Purge one table.
 */
static void
purge_table(PurgeTable *table, Match *match, Match *sample, bool dry_run)
{
	ListCell   *cell;

	foreach(cell, table->foreign_tables)
		ereport(NOTICE,
				(errmsg("skipping foreign table %s", (char *) lfirst(cell)),
				 errdetail("optout.purge() does not delete from foreign tables.")));
	if (table->is_foreign)
		return;

	purge_tell_of_scans(table, sample);
	if (dry_run)
		table->deleted = purge_count(table, match);
	else if (table->condition != NULL)
	{
		foreach(cell, table->parts)
		{
			PurgePart  *part = lfirst(cell);

			CHECK_FOR_INTERRUPTS();
			table->deleted += purge_run(psprintf("DELETE FROM %s AS e WHERE %s", part->from, table->condition),
										match, part);
		}
	}
	if (dry_run)
		ereport(NOTICE,
				(errmsg_plural("would delete %llu event from table %s",
							   "would delete %llu events from table %s",
							   (unsigned long) table->deleted,
							   (unsigned long long) table->deleted, table->name)));
	else
		ereport(NOTICE,
				(errmsg_plural("deleted %llu event from table %s",
							   "deleted %llu events from table %s",
							   (unsigned long) table->deleted,
							   (unsigned long long) table->deleted, table->name)));
}

/*
 * Whether the table holds no event of the organization's.  If that is only because
 * of the caller's setting, say so.
 */
static bool
purge_skips(const PurgeTable *table, text *organization)
{
	if (table->holder == MATCH_WRITERS)
		ereport(NOTICE,
				(errmsg("skipping table %s", table->name),
				 errdetail("Its events count as those of organization \"%s\", which the setting optout.organization names.",
						   ident_for_message(organization_setting_text)),
				 errhint("If they are those of organization \"%s\", change the setting, or guard the table with a fixed_organization.",
						 ident_for_message(organization))));
	return table->holder != MATCH_OURS;
}

/*
 * Say so where ids are looked for in a place that no index helps to find them in.
 */
static void
purge_tell_of_scans(const PurgeTable *table, Match *sample)
{
	StringInfoData names;
	StringInfoData commands;
	ListCell   *cell;

	initStringInfo(&names);
	initStringInfo(&commands);
	foreach(cell, table->sources)
	{
		MatchSource *source = lfirst(cell);

		if (!purge_scans(table, source, sample))
			continue;
		appendStringInfo(&names, "%s\"%s\"", names.len > 0 ? ", " : "", source->name);
		appendStringInfo(&commands, "%sCREATE INDEX ON %s (%s);", commands.len > 0 ? " " : "",
						 table->name, source->index);
	}
	if (names.len > 0)
		ereport(NOTICE,
				(errmsg("no index of table %s serves to find events by %s", table->name, names.data),
				 errdetail("All of the table is read."),
				 errhint("%s", commands.data)));
}

/*
 * Whether all of the table has to be read for the ids in one place: the planner
 * does so even though it is told not to.
 */
static bool
purge_scans(const PurgeTable *table, const MatchSource *source, Match *sample)
{
	ListCell   *cell;

	foreach(cell, table->parts)
	{
		PurgePart  *part = lfirst(cell);

		if (purge_run(psprintf("EXPLAIN (COSTS OFF) SELECT FROM %s AS e WHERE %s", part->from, source->condition),
					  sample, part) > 0)
			return true;
	}
	return false;
}

static uint64
purge_count(const PurgeTable *table, Match *match)
{
	uint64		count = 0;
	ListCell   *cell;

	if (table->condition == NULL)
		return 0;
	foreach(cell, table->parts)
	{
		PurgePart  *part = lfirst(cell);

		CHECK_FOR_INTERRUPTS();
		count += purge_run(psprintf("SELECT count(*) FROM %s AS e WHERE %s", part->from, table->condition),
						   match, part);
	}
	return count;
}

/*
 * Analyze a statement as the caller, and run it as the owner of the table, if there
 * is one to run it as.  Returns how many rows it has deleted or counted, or of how
 * many tables a plan reads all.
 */
static uint64
purge_run(const char *command, Match *match, const PurgePart *part)
{
	Oid			save_userid;
	int			save_sec_context;
	int			save_nestlevel;
	SPIPlanPtr	plan;
	uint64		result;

	SPI_connect();
	plan = SPI_prepare(command, MATCH_PARAMETERS, match->types);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));

	/* an error resets this at the end of the (sub)transaction */
	save_nestlevel = NewGUCNestLevel();
	GetUserIdAndSecContext(&save_userid, &save_sec_context);
	if (OidIsValid(part->owner))
		SetUserIdAndSecContext(part->owner,
							   save_sec_context | SECURITY_RESTRICTED_OPERATION |
							   (part->forces_rls ? SECURITY_NOFORCE_RLS : 0));
	if (strncmp(command, "EXPLAIN", strlen("EXPLAIN")) == 0)
		(void) set_config_option("enable_seqscan", "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	result = purge_result(SPI_execute_plan(plan, match->values, match->nulls,
										   !OidIsValid(part->owner), 0));
	SetUserIdAndSecContext(save_userid, save_sec_context);
	AtEOXact_GUC(false, save_nestlevel);
	SPI_finish();
	return result;
}

static uint64
purge_result(int rc)
{
	uint64		result = 0;
	bool		isnull;

	switch (rc)
	{
		case SPI_OK_DELETE:
			return SPI_processed;
		case SPI_OK_SELECT:
			return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
		case SPI_OK_UTILITY:
			for (uint64 i = 0; i < SPI_processed; i++)
				result += purge_line_scans(SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1));
			return result;
		default:
			/* a rule has made something else of it */
			if (rc < 0)
				elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(rc));
			return 0;
	}
}

/*
 * Whether this is the line of a plan that reads all of a table.
 */
static bool
purge_line_scans(const char *line)
{
	line += strspn(line, " ->");
	return strncmp(line, "Seq Scan on ", strlen("Seq Scan on ")) == 0;
}

/*
 * Raise an error (55000) if a table still holds events.
 *
 * Without triggers and rules it cannot: the snapshot of the DELETE showed all that
 * had been let through before, and nothing has been since.
 */
static void
purge_check_left(List *tables, Match *match)
{
	bool		may_keep = false;
	ListCell   *cell;

	foreach(cell, tables)
		may_keep |= ((PurgeTable *) lfirst(cell))->may_keep;
	foreach(cell, may_keep ? tables : NIL)
	{
		PurgeTable *table = lfirst(cell);
		uint64		left = purge_count(table, match);

		if (left > 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg_plural("%llu event of these users remains in table %s",
								   "%llu events of these users remain in table %s",
								   (unsigned long) left, (unsigned long long) left, table->name),
					 errdetail("A trigger or rule keeps events from being deleted. Nothing has been deleted."),
					 errhint("See \"\\d %s\" in psql.", table->name)));
	}
}

/*
 * Record how many have been deleted.
 */
static void
purge_record(List *tables, text *organization)
{
	Oid			argtypes[5] = {TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTARRAYOID, INT8ARRAYOID};
	Datum		values[5];
	Datum	   *names = palloc(list_length(tables) * sizeof(Datum) + 1);
	Datum	   *counts = palloc(list_length(tables) * sizeof(Datum) + 1);
	int			n = 0;
	ListCell   *cell;

	foreach(cell, tables)
	{
		PurgeTable *table = lfirst(cell);

		if (table->is_foreign)
			continue;
		names[n] = CStringGetTextDatum(table->name);
		counts[n++] = Int64GetDatum((int64) table->deleted);
	}
	values[0] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[1] = periods_caller();
	values[2] = PointerGetDatum(organization);
	values[3] = PointerGetDatum(construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT));
	values[4] = PointerGetDatum(construct_array(counts, n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	if (n > 0)
		tables_execute("INSERT INTO optout.purge_ledger (purged_at, purged_by, organization, relation, deleted) "
					   "SELECT $1, $2, $3, t.relation, t.deleted FROM unnest($4, $5) AS t (relation, deleted)",
					   5, argtypes, values, NULL);
}
