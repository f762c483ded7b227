/*
 * periods.c
 *		The state table, optout.opt_out_period: look up, open and close periods.
 *
 * A user never has two open periods, and a user's periods never overlap.
 * This rests on the order in which the administration functions act:
 *
 *	1. lock the users' rows in the directory, in order of their ids;
 *	2. lock their open periods, in the same order;
 *	3. read the clock, take a snapshot, decide and write.
 *
 * To open a period step 1 is enough, since a user who is not in the directory
 * cannot be opted out: whoever else changes a user of the directory holds the
 * same lock.  Step 2 serves users who have left the directory while opted out;
 * forget(), link() and unlink() lock their ended periods as well.
 * Should all that fail, the unique index on open periods raises an error.
 *
 * Clocks may go back, even between sessions.  So a period starts no earlier
 * than the user's last one ended, and ends at least a microsecond after it
 * started.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "lock.h"
#include "periods.h"
#include "tables.h"

/* columns of optout.opt_out_period */
#define Anum_period_organization 1
#define Anum_period_user_id 2
#define Anum_period_opted_out_at 3
#define Anum_period_opted_in_at 4

static uint64 periods_execute(const char *command, text *organization, const UserIds *users,
							  TimestampTz at, text *reason);

/* what goes into opted_out_by and opted_in_by: the effective caller */
Datum
periods_caller(void)
{
	return CStringGetTextDatum(GetUserNameFromId(GetUserId(), false));
}

/*
 * Whose row it is.  It may be read from a dead row as well, since the columns are
 * never toasted.
 *
 * They are the first two and never null, so they can be found without looking at
 * the table's definition, which costs less than half.
 */
void
periods_ids(HeapTuple tuple, text **organization, text **user_id)
{
	char	   *data = (char *) tuple->t_data + tuple->t_data->t_hoff;
	Size		offset = VARSIZE_ANY(data);

	StaticAssertStmt(Anum_period_organization == 1 && Anum_period_user_id == 2,
					 "columns are read in this order");
	*organization = DatumGetTextPP(PointerGetDatum(data));
	offset = att_align_pointer(offset, TYPALIGN_INT, -1, data + offset);
	*user_id = DatumGetTextPP(PointerGetDatum(data + offset));
}

/*
 * The key under which filter, cache and memo know a row's user.
 */
UserKey
periods_key(HeapTuple tuple)
{
	text	   *organization;
	text	   *user_id;

	periods_ids(tuple, &organization, &user_id);
	return key_of(user_id, key_seed(organization));
}

/*
 * Whether a row's period has not ended.
 */
bool
periods_is_open(Relation rel, HeapTuple tuple)
{
	return heap_attisnull(tuple, Anum_period_opted_in_at, RelationGetDescr(rel));
}

/*
 * What a row says.
 */
PeriodRow
periods_row(Relation rel, HeapTuple tuple)
{
	PeriodRow	row;
	Datum		opted_in_at;
	bool		isnull;

	row.user = periods_key(tuple);
	row.period.opted_out_at = DatumGetTimestampTz(heap_getattr(tuple, Anum_period_opted_out_at,
															   RelationGetDescr(rel), &isnull));
	opted_in_at = heap_getattr(tuple, Anum_period_opted_in_at,
							   RelationGetDescr(rel), &row.open);
	/* where times are passed by reference, a null has none to read */
	row.period.opted_in_at = row.open ? 0 : DatumGetTimestampTz(opted_in_at);
	return row;
}

/*
 * Add a row's period to those of its user.
 */
void
periods_add(Periods *periods, const PeriodRow *row, MemoryContext context)
{
	int			n = periods->nclosed;

	if (row->open)
	{
		periods->open = true;
		return;
	}
	if (n == 0)
		periods->closed = MemoryContextAlloc(context, sizeof(Period));
	else if ((n & (n - 1)) == 0)
		periods->closed = repalloc_huge(periods->closed, (Size) n * 2 * sizeof(Period));
	periods->closed[periods->nclosed++] = row->period;
}

/*
 * Whether they say that the user is opted out now, or was at the given time (if
 * not NULL).
 */
bool
periods_include(const Periods *periods, const TimestampTz *occurred_at)
{
	if (periods->open)
		return true;
	if (occurred_at == NULL)
		return false;
	for (int i = 0; i < periods->nclosed; i++)
	{
		const Period *period = &periods->closed[i];

		if (period->opted_out_at <= *occurred_at && *occurred_at < period->opted_in_at)
			return true;
	}
	return false;
}

/*
 * Read all periods of a user.  Returns the xmin of the snapshot used.
 *
 * The table stays locked until the transaction ends, as after any query.
 */
TransactionId
periods_read(Periods *periods, text *organization, text *user_id)
{
	Relation	rel = tables_open("opt_out_period", AccessShareLock);
	ScanKeyData keys[2];
	TablesScan	scan;
	HeapTuple	tuple;
	TransactionId xmin;

	memset(periods, 0, sizeof(Periods));
	tables_key(&keys[0], Anum_period_user_id, user_id);
	tables_key(&keys[1], Anum_period_organization, organization);
	tables_beginscan(&scan, rel, tables_index(rel, "opt_out_period_pkey"), 2, keys);
	while (HeapTupleIsValid(tuple = tables_getnext(&scan)))
	{
		PeriodRow	row = periods_row(rel, tuple);

		periods->user = row.user;
		periods_add(periods, &row, CurrentMemoryContext);
	}
	xmin = scan.snapshot->xmin;
	tables_endscan(&scan);
	table_close(rel, NoLock);
	return xmin;
}

/*
 * Whether the user is opted out now or was at the given time (if not NULL), by
 * the table.
 */
bool
periods_cover(text *organization, text *user_id, const TimestampTz *occurred_at)
{
	Periods		periods;

	periods_read(&periods, organization, user_id);
	return periods_include(&periods, occurred_at);
}

/*
 * About how many rows the table has.
 */
double
periods_estimate(void)
{
	Relation	rel = tables_open("opt_out_period", AccessShareLock);
	double		pages = RelationGetNumberOfBlocks(rel);
	double		rows_per_page = 60;

	if (rel->rd_rel->reltuples > 0 && rel->rd_rel->relpages > 0)
		rows_per_page = rel->rd_rel->reltuples / rel->rd_rel->relpages;
	table_close(rel, NoLock);
	return pages * rows_per_page;
}

/*
 * Lock the open periods of those users who have one, and return these users.
 * The caller has locked the users' rows of the directory, in the same order.
 */
UserIds
periods_lock_open(text *organization, const UserIds *users)
{
	return lock_users("opt_out_period", "opt_out_period_open_key", organization, users,
					  LockTupleNoKeyExclusive, NULL);
}

/*
 * The same for whoever wants them to stay open and changes nothing: others may do
 * so as well.  The directory does not matter then.
 */
UserIds
periods_share_open(text *organization, const UserIds *users)
{
	return lock_users("opt_out_period", "opt_out_period_open_key", organization, users,
					  LockTupleShare, NULL);
}

/*
 * The transactions that have written the open periods of these ids.
 */
List *
periods_writers(text *organization, const UserIds *ids)
{
	Relation	rel = tables_open("opt_out_period", AccessShareLock);
	List	   *result = NIL;
	TablesWalk	walk;

	tables_beginwalk(&walk, rel, tables_index(rel, "opt_out_period_open_key"), organization, NULL);
	for (int i = 0; i < ids->count; i++)
	{
		HeapTuple	tuple = tables_walk_to(&walk, DatumGetTextPP(ids->ids[i]));
		TransactionId xmin = tuple != NULL ? HeapTupleHeaderGetRawXmin(tuple->t_data) : InvalidTransactionId;

		CHECK_FOR_INTERRUPTS();
		/* most have been written along with the one before */
		if (TransactionIdIsNormal(xmin) && (result == NIL || llast_oid(result) != xmin))
			result = lappend_oid(result, xmin);
	}
	tables_endwalk(&walk);
	table_close(rel, NoLock);
	return result;
}

/*
 * Those of the users who have an open period, which may end at any time.
 */
UserIds
periods_find_open(text *organization, const UserIds *users)
{
	Relation	rel = tables_open("opt_out_period", AccessShareLock);
	TablesWalk	walk;
	UserIds		result;

	result.count = 0;
	result.ids = palloc_extended(Max(users->count, 1) * sizeof(Datum), MCXT_ALLOC_HUGE);
	tables_beginwalk(&walk, rel, tables_index(rel, "opt_out_period_open_key"), organization, NULL);
	for (int i = 0; i < users->count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (tables_walk_to(&walk, DatumGetTextPP(users->ids[i])) != NULL)
			result.ids[result.count++] = users->ids[i];
	}
	tables_endwalk(&walk);
	table_close(rel, NoLock);
	return result;
}

/*
 * Lock all periods of the users, ended or not, for whoever deletes them.
 * Returns how many.
 */
uint64
periods_lock(text *organization, const UserIds *users)
{
	uint64		nperiods;

	(void) lock_users("opt_out_period", "opt_out_period_pkey", organization, users,
					  LockTupleNoKeyExclusive, &nperiods);
	return nperiods;
}

/*
 * Execute a command that opens ($5 being the reason to) or closes the users'
 * periods: organization, users, time, role, reason and actor are its parameters.
 */
static uint64
periods_execute(const char *command, text *organization, const UserIds *users,
				TimestampTz at, text *reason)
{
	Oid			argtypes[6] = {TEXTOID, TEXTARRAYOID, TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[6];
	char		nulls[6] = {' ', ' ', ' ', ' ', ' ', ' '};
	text	   *actor = ident_actor();

	values[0] = PointerGetDatum(organization);
	values[1] = PointerGetDatum(user_ids_to_array(users));
	values[2] = TimestampTzGetDatum(at);
	values[3] = periods_caller();
	values[4] = PointerGetDatum(reason);
	values[5] = PointerGetDatum(actor);
	if (reason == NULL)
		nulls[4] = 'n';
	if (actor == NULL)
		nulls[5] = 'n';
	return tables_execute(command, 6, argtypes, values, nulls);
}

/*
 * Open a period for each of the users who has none open.  Returns how many.
 * The caller has locked all the users' rows of the directory.
 */
uint64
periods_open(text *organization, const UserIds *users, text *reason)
{
	bool		has_actor = tables_has_aliases();

	return periods_execute(psprintf("INSERT INTO optout.opt_out_period "
									"(organization, user_id, opted_out_at, opted_out_by, reason%s) "
									"SELECT $1, u.user_id, GREATEST($3, p.last_opted_in_at), $4, $5%s "
									"FROM unnest($2) AS u (user_id) "
									"LEFT JOIN (SELECT p.user_id, max(p.opted_in_at) AS last_opted_in_at, "
									"bool_or(p.opted_in_at IS NULL) AS opted_out "
									"FROM unnest($2) AS v (user_id) "
									"JOIN optout.opt_out_period p USING (user_id) "
									"WHERE p.organization = $1 "
									"GROUP BY p.user_id) AS p USING (user_id) "
									"WHERE p.opted_out IS NOT TRUE",
									has_actor ? ", opted_out_actor" : "",
									has_actor ? ", $6" : ""),
						   organization, users, GetCurrentTimestamp(), reason);
}

/*
 * Close the open periods of the users or, likewise, of aliases of theirs, at this
 * time.  Returns how many.  The caller has locked these periods, or the aliases.
 */
uint64
periods_close(text *organization, const UserIds *users, bool aliases, TimestampTz at, text *reason)
{
	bool		has_actor = tables_has_aliases();

	return periods_execute(psprintf("UPDATE optout.opt_out_period AS p "
									"SET opted_in_at = GREATEST($3, p.opted_out_at + interval '1 microsecond'), "
									"opted_in_by = $4%s "
									"FROM unnest($2) AS u (user_id) "
									"WHERE p.organization = $1 AND p.user_id = u.user_id "
									"AND p.opted_in_at IS NULL%s",
									has_actor ? ", opted_in_reason = $5, opted_in_actor = $6" : "",
									aliases ? " AND p.alias_of IS NOT NULL" : ""),
						   organization, users, at, reason);
}
