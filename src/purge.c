/*
 * purge.c
 *		optout.purge(), which deletes what was stored before.
 *
 * Its promise: when it has committed, no guarded table holds an event of these users,
 * and none can come while they are opted out.  That rests on this order:
 *
 * 1. It locks the guarded tables like any DELETE, until the end, and then looks
 *	  whether all guards fire always.  Whoever wants to alter one waits.
 * 2. It locks the users' open periods, until the end, so that they stay open:
 *	  opt_in() and forget() wait.  So do link() and unlink(), which lock a user's
 *	  periods as well, so these users keep the aliases that are read next.
 * 3. It tells other sessions to forget what they remember, as those do who have
 *	  written these periods, but a moment after their commit can be seen.  They
 *	  cannot be waited for: of one who has done so in a subtransaction nothing
 *	  tells whether the moment is over.
 * 4. It waits for all who have asked the filter by now (settle.c).  Whoever asks
 *	  later finds the users and aliases opted out.
 * 5. It looks again for guarded tables, and does as in step 1 with what is new: those
 *	  waited for may have created them.
 * 6. It deletes, in each table under a snapshot taken then, which shows all that was
 *	  let through before.
 *
 * In step 4 we must not wait for a session that waits for us because of step 2.
 * So a session that waits for a row of the state table does not yet hold the lock
 * on the table by which step 4 knows those who have asked (lock.c).  A transaction
 * that holds it from an earlier command, because it has ingested, for example, can
 * deadlock with us; one of the two fails.
 *
 * Each DELETE runs as the owner of its table (stored.c).  Deferred triggers would run
 * at the end of the transaction, as the caller.  The server refuses to queue them in
 * such an operation, so constraints are checked at once.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "authority.h"
#include "complete.h"
#include "coverage.h"
#include "guards.h"
#include "links.h"
#include "match.h"
#include "periods.h"
#include "progress.h"
#include "settle.h"
#include "stored.h"
#include "tables.h"

PG_FUNCTION_INFO_V1(optout_purge);

static bool purge_dry_run(FunctionCallInfo fcinfo);
static void purge_check_transaction(void);
static void purge_check_tables(List *guarded, text *organization);
static List *purge_lock_tables(List *guarded, List *locked, text *organization, LOCKMODE lockmode);
static StoredTable *purge_find_table(List *tables, Oid relid);
static List *purge_add_tables(List **guarded, List *tables, text *organization);
static void purge_check_guards(Relation rel, LOCKMODE lockmode);
static void purge_check_users(text *organization, const UserIds *users, bool dry_run);
static void purge_check_constraints_at_once(void);
static void purge_table(StoredTable *table, Match *match, Match *sample, text *organization, bool dry_run);
static void purge_tell_of_scans(const StoredTable *table, Match *sample);
static bool purge_scans(const StoredTable *table, const MatchSource *source, Match *sample);
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
	bool		dry_run = purge_dry_run(fcinfo);
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

	guarded = stored_guarded();
	if (guarded == NIL)
		ereport(NOTICE,
				(errmsg("no table is guarded"),
				 errhint("optout.purge() deletes from tables under optout.guard().")));
	progress_begin(PROGRESS_PURGE, PROGRESS_LOCKING_TABLES, list_length(guarded));
	purge_check_tables(guarded, organization);
	tables = purge_lock_tables(guarded, NIL, organization, dry_run ? AccessShareLock : RowExclusiveLock);

	progress_phase(PROGRESS_LOCKING_OPEN_PERIODS, users.count);
	links_refuse_known_aliases(organization, &users);
	purge_check_users(organization, &users, dry_run);
	aliases = links_find_known(organization, &users);
	if (!dry_run)
	{
		progress_phase(PROGRESS_SETTLING, 0);
		coverage_tell_of_changes_now();
		settle();
		tables = purge_add_tables(&guarded, tables, organization);
		purge_check_constraints_at_once();
	}

	progress_phase(PROGRESS_PURGING, list_length(tables));
	match_users(&match, organization, &users, &aliases, PG_INT32_MAX);
	match_users(&sample, organization, &users, &aliases, 1);
	foreach(cell, tables)
	{
		StoredTable *table = lfirst(cell);

		CHECK_FOR_INTERRUPTS();
		progress_set(foreach_current_index(cell));
		if (stored_skips(table, organization))
		{
			tables = foreach_delete_current(tables, cell);
			continue;
		}
		stored_describe(table, guarded, &match);
		purge_table(table, &match, &sample, organization, dry_run);
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
 * Nobody shall lose events for want of an argument.
 */
static bool
purge_dry_run(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("dry_run must not be null")));
	return PG_GETARG_BOOL(2);
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
 * Raise an error (42501) unless the caller may delete from all tables that are to
 * be purged.  They are not kept locked, for whoever may not shall not lock them.
 */
static void
purge_check_tables(List *guarded, text *organization)
{
	ListCell   *cell;

	foreach(cell, guarded)
	{
		StoredTable table;
		Relation	rel = stored_open(lfirst_oid(cell), AccessShareLock, &table, organization);

		if (rel == NULL)
			continue;
		if (table.holder == MATCH_OURS && !table.is_foreign)
		{
			stored_check_visible(rel, "optout.purge()");
			if (pg_class_aclcheck(table.relid, GetUserId(), ACL_SELECT) != ACLCHECK_OK ||
				pg_class_aclcheck(table.relid, GetUserId(), ACL_DELETE) != ACLCHECK_OK)
				stored_deny(rel, "optout.purge() needs SELECT and DELETE on every guarded table.");
		}
		relation_close(rel, AccessShareLock);
	}
}

/*
 * Lock the guarded tables but those that are, and see that no event can get past
 * their guards.
 */
static List *
purge_lock_tables(List *guarded, List *locked, text *organization, LOCKMODE lockmode)
{
	List	   *result = NIL;
	ListCell   *cell;

	foreach(cell, guarded)
	{
		StoredTable *table = purge_find_table(locked, lfirst_oid(cell));
		Relation	rel;

		CHECK_FOR_INTERRUPTS();
		progress_set(foreach_current_index(cell));
		if (table != NULL)
		{
			result = lappend(result, table);
			continue;
		}
		table = palloc(sizeof(StoredTable));
		rel = stored_open(lfirst_oid(cell), lockmode, table, organization);
		if (rel == NULL)
			continue;
		if (table->holder == MATCH_OURS && !table->is_foreign)
			purge_check_guards(rel, lockmode);
		relation_close(rel, NoLock);
		result = lappend(result, table);
	}
	return result;
}

static StoredTable *
purge_find_table(List *tables, Oid relid)
{
	ListCell   *cell;

	foreach(cell, tables)
	{
		if (((StoredTable *) lfirst(cell))->relid == relid)
			return lfirst(cell);
	}
	return NULL;
}

/*
 * Add the tables that have become guarded since.  Who has created one in the
 * transaction in which they had been let through, we have waited for.
 */
static List *
purge_add_tables(List **guarded, List *tables, text *organization)
{
	List	   *now = stored_guarded();
	List	   *added = list_difference_oid(now, *guarded);

	if (added == NIL)
		return tables;
	progress_phase(PROGRESS_LOCKING_TABLES, list_length(now));
	purge_check_tables(added, organization);
	*guarded = now;
	return purge_lock_tables(now, tables, organization, RowExclusiveLock);
}

/*
 * Lock what inherits from the table as well.  Raise an error (55000) for a guard
 * that does not fire always or misses events, and warn of children that have none.
 */
static void
purge_check_guards(Relation rel, LOCKMODE lockmode)
{
	ListCell   *cell;

	foreach(cell, find_all_inheritors(RelationGetRelid(rel), lockmode, NULL))
	{
		Relation	child = relation_open(lfirst_oid(cell), NoLock);
		List	   *off = guards_find(child).off;

		if (off != NIL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("guard \"%s\" of table %s does not fire always",
							(char *) linitial(off), tables_relation_name(child)),
					 errdetail("Events can get past it."),
					 errhint("Call optout.repair(), as a superuser or the owner of the extension.")));
		guards_refuse_gaps(child);
		if (rel->rd_rel->relkind == RELKIND_RELATION && guards_shapes(child) == NIL)
			ereport(WARNING,
					(errmsg("table %s, which inherits from %s, is not guarded",
							tables_relation_name(child), tables_relation_name(rel)),
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
				 errdetail("Events of this user can still be stored."),
				 errhint("Call optout.opt_out() and commit first.")));
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
 * Purge one table.
 */
static void
purge_table(StoredTable *table, Match *match, Match *sample, text *organization, bool dry_run)
{
	ListCell   *cell;

	foreach(cell, table->foreign_parts)
		ereport(NOTICE,
				(errmsg("skipping foreign table %s", ((StoredPart *) lfirst(cell))->name),
				 errdetail("optout.purge() does not delete from foreign tables.")));
	if (table->is_foreign)
		return;

	stored_tell_of_unnamed(table, organization);
	purge_tell_of_scans(table, sample);
	if (dry_run)
		table->deleted = stored_count(table, match);
	else if (table->condition != NULL)
	{
		foreach(cell, table->parts)
		{
			StoredPart *part = lfirst(cell);

			CHECK_FOR_INTERRUPTS();
			table->deleted += stored_run(psprintf("DELETE FROM %s AS e WHERE %s", part->from, table->condition),
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
 * Say so where ids are looked for in a place that no index helps to find them in.
 */
static void
purge_tell_of_scans(const StoredTable *table, Match *sample)
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
				(errmsg("no index of table %s can be used to find events by %s", table->name, names.data),
				 errdetail("All of the table is read."),
				 errhint("%s", commands.data)));
}

/*
 * Whether all of the table has to be read for the ids in one place: the planner
 * does so even though it is told not to.
 */
static bool
purge_scans(const StoredTable *table, const MatchSource *source, Match *sample)
{
	ListCell   *cell;

	foreach(cell, table->parts)
	{
		StoredPart *part = lfirst(cell);

		if (stored_run(psprintf("EXPLAIN (COSTS OFF) SELECT FROM %s AS e WHERE %s", part->from, source->condition),
					   sample, part) > 0)
			return true;
	}
	return false;
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
		may_keep |= ((StoredTable *) lfirst(cell))->may_keep;
	foreach(cell, may_keep ? tables : NIL)
	{
		StoredTable *table = lfirst(cell);
		uint64		left = stored_count(table, match);

		if (left > 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg_plural("%llu event of these users remains in table %s",
								   "%llu events of these users remain in table %s",
								   (unsigned long) left, (unsigned long long) left, table->name),
					 errdetail("A trigger, a rule or a foreign key's action keeps them there. Nothing has been deleted."),
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
		StoredTable *table = lfirst(cell);

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
