/*
 * links.c
 *		Aliases: the other ids of a user, optout.user_alias, and their periods.
 *
 * An alias has a copy of each of its user's rows in the state table, under its
 * own id and with the user's in alias_of.  So filter, cache, memo, guards and
 * replication know nothing of aliases: an alias is a user like any other there,
 * and answering for one takes one look-up.
 *
 * That no alias ever has other periods than its user rests on four rules:
 *
 * 1. Whoever writes a user's periods, or links or unlinks an alias of the
 *	  user, first locks the user as periods.c says: the row of the directory,
 *	  then the open period.  (The directory's row alone is not enough: for a
 *	  user who has left the directory, the period is the only row that
 *	  opt_in() and link() both lock.)  link(), unlink() and forget() lock all
 *	  periods, one user after the other, so that nobody deletes one that is
 *	  about to be copied.
 * 2. Then it locks the rows of the user's aliases, in order of their ids,
 *	  before it takes the snapshot to read aliases by.  This is because a user
 *	  can have aliases, but no row that rule 1 could lock: another session may
 *	  enroll and opt out that user while unlink() is running.  With these
 *	  locks one of the two waits for the other, and then opt_out() finds the
 *	  alias gone, or unlink() finds the user opted out.
 * 3. An id is not a user and an alias at once.  link() writes the alias's
 *	  row, and then looks for a user of that id in the directory; the
 *	  directory's trigger does the same the other way around.  Both look with
 *	  a dirty snapshot and wait for whoever has written what they find.  Of
 *	  two at once, at least one sees the other; if both do, one fails with a
 *	  deadlock.  After that check, nobody can open a period of the id's own,
 *	  and those that exist are visible.  The primary key keeps two users from
 *	  having the same alias.
 * 4. A row of the state table may be deleted by hand, as for retention, and the
 *	  snapshot of that DELETE does not show a copy that link() made while the
 *	  DELETE waited for the row.  So a trigger of the state table deletes the
 *	  copies that are there when the row is gone.
 *
 * If a user has been entered by other means under the id of an alias, the
 * id's own open period is left alone, and verify() counts the id.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "links.h"
#include "lock.h"
#include "periods.h"
#include "progress.h"
#include "tables.h"

/* columns of optout.user_alias */
#define Anum_alias_organization 1
#define Anum_alias_alias 2
#define Anum_alias_user_id 3

/* columns of optout.product_user and optout.opt_out_period */
#define Anum_organization 1
#define Anum_user_id 2
#define Anum_opted_out_at 3
#define Anum_alias_of 8

PG_FUNCTION_INFO_V1(optout_refuse_aliases);
PG_FUNCTION_INFO_V1(optout_delete_alias_periods);
PG_FUNCTION_INFO_V1(optout_verify_1_2);

/* of another file */
extern Datum optout_verify(PG_FUNCTION_ARGS);

/* read by the upgrade script only */
static bool subscribers_updated = false;

static int	links_compare(const Link *a, const Link *b);
static int	links_compare_users(const Link *a, const Link *b);
static Links links_make(Datum *users, Datum *aliases, int count);
static Datum *links_column(const Links *links, bool users);
static Datum links_array(const Links *links, bool users);
static void links_refuse_alias(text *organization, Datum alias, Datum user);
static void links_refuse_foreign(text *organization, const Links *links);
static text *links_first_with_row(const char *table, const char *index, text *organization,
								  const UserIds *ids, bool dirty);

#define ST_SORT links_sort
#define ST_ELEMENT_TYPE Link
#define ST_COMPARE(a, b) links_compare(a, b)
#define ST_SCOPE static
#define ST_CHECK_FOR_INTERRUPTS
#define ST_DEFINE
#include "lib/sort_template.h"

#define ST_SORT links_sort_by_user
#define ST_ELEMENT_TYPE Link
#define ST_COMPARE(a, b) links_compare_users(a, b)
#define ST_SCOPE static
#define ST_CHECK_FOR_INTERRUPTS
#define ST_DEFINE
#include "lib/sort_template.h"

/*
 * Define the settings this file owns.
 */
void
links_define_settings(void)
{
	DefineCustomBoolVariable("optout.subscribers_updated",
							 "States that subscribers to optout.opt_out_period have the columns of optout 1.2.",
							 "Lets ALTER EXTENSION optout UPDATE add these columns while a publication sends all columns.",
							 &subscribers_updated,
							 false,
							 PGC_SUSET,
							 0,
							 NULL, NULL, NULL);
}

static int
links_compare(const Link *a, const Link *b)
{
	int			cmp = ident_compare(a->alias, b->alias);

	return cmp != 0 ? cmp : ident_compare(a->user, b->user);
}

static int
links_compare_users(const Link *a, const Link *b)
{
	/* those of one user often share the datum */
	return a->user == b->user ? 0 : ident_compare(a->user, b->user);
}

/*
 * Raise an error for an alias that is its own user (22023), and sort the links.
 */
static Links
links_make(Datum *users, Datum *aliases, int count)
{
	Links		result;

	result.links = palloc_extended(Max(count, 1) * sizeof(Link), MCXT_ALLOC_HUGE);
	for (int i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (ident_compare(users[i], aliases[i]) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"%s\" cannot be an alias of itself",
							ident_for_message(DatumGetTextPP(aliases[i])))));
		result.links[i].user = users[i];
		result.links[i].alias = aliases[i];
	}

	result.count = 0;
	if (count > 0)
		links_sort(result.links, count);
	for (int i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (i == 0 ||
			links_compare(&result.links[i], &result.links[result.count - 1]) != 0)
			result.links[result.count++] = result.links[i];
	}
	return result;
}

/*
 * The links that two arrays give by position.  Error 2202E if one is longer.
 */
Links
links_from_arrays(ArrayType *users, ArrayType *aliases)
{
	int			nusers;
	int			naliases;
	Datum	   *user_ids = idents_from_array("user_ids", "user_id", users, &nusers);
	Datum	   *alias_ids = idents_from_array("aliases", "alias", aliases, &naliases);

	if (nusers != naliases)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("user_ids and aliases must have the same length"),
				 errdetail("There are %d user_ids and %d aliases.", nusers, naliases)));
	return links_make(user_ids, alias_ids, nusers);
}

/*
 * The links of several aliases to one user.
 */
Links
links_from_user(text *user, ArrayType *aliases)
{
	UserIds		users = user_ids_from_text(user);
	int			count;
	Datum	   *alias_ids = idents_from_array("aliases", "alias", aliases, &count);
	Datum	   *user_ids = palloc_extended(Max(count, 1) * sizeof(Datum), MCXT_ALLOC_HUGE);

	for (int i = 0; i < count; i++)
		user_ids[i] = users.ids[0];
	return links_make(user_ids, alias_ids, count);
}

/*
 * Their users or their aliases, in the order of the links.
 */
static Datum *
links_column(const Links *links, bool users)
{
	Datum	   *ids = palloc_extended(Max(links->count, 1) * sizeof(Datum), MCXT_ALLOC_HUGE);

	for (int i = 0; i < links->count; i++)
		ids[i] = users ? links->links[i].user : links->links[i].alias;
	return ids;
}

/*
 * The set of their users.
 */
UserIds
links_users(const Links *links)
{
	return user_ids_from_datums(links_column(links, true), links->count);
}

/*
 * The set of their aliases.
 */
UserIds
links_aliases(const Links *links)
{
	return user_ids_from_datums(links_column(links, false), links->count);
}

/* their users or their aliases as a text[], in the order of the links */
static Datum
links_array(const Links *links, bool users)
{
	UserIds		ids = {links->count, links_column(links, users)};

	return PointerGetDatum(user_ids_to_array(&ids));
}

/*
 * Raise an error (42704) if one of these users is an alias.
 */
void
links_refuse_aliases(text *organization, const UserIds *users)
{
	Links		found;

	if (!tables_has_aliases())
		return;
	found = links_read(organization, users);
	if (found.count > 0)
		links_refuse_alias(organization, found.links[0].alias, found.links[0].user);
}

static void
links_refuse_alias(text *organization, Datum alias, Datum user)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("\"%s\" of organization \"%s\" is an alias, not a user",
					ident_for_message(DatumGetTextPP(alias)), ident_for_message(organization)),
			 errhint("Pass its user, \"%s\".", ident_for_message(DatumGetTextPP(user)))));
}

/*
 * The same on a subscriber, too, which knows aliases by their periods only.
 */
void
links_refuse_known_aliases(text *organization, const UserIds *users)
{
	Relation	rel = tables_open("opt_out_period", AccessShareLock);
	TablesWalk	walk;

	links_refuse_aliases(organization, users);
	tables_beginwalk(&walk, rel, tables_index(rel, "opt_out_period_pkey"), organization, NULL);
	for (int i = 0; i < users->count; i++)
	{
		HeapTuple	tuple = tables_walk_to(&walk, DatumGetTextPP(users->ids[i]));

		CHECK_FOR_INTERRUPTS();
		if (tuple != NULL && !heap_attisnull(tuple, Anum_alias_of, RelationGetDescr(rel)))
			links_refuse_alias(organization, users->ids[i], tables_walk_value(&walk, Anum_alias_of));
	}
	tables_endwalk(&walk);
	table_close(rel, NoLock);
}

/*
 * The aliases of the users, likewise.
 */
UserIds
links_find_known(text *organization, const UserIds *users)
{
	Links		links = links_find(organization, users);
	UserIds		known = links_aliases(&links);
	Relation	rel = tables_open("opt_out_period", AccessShareLock);
	TablesWalk	walk;
	Datum	   *ids = known.ids;
	int			count = known.count;
	int			room = Max(count, 1);

	tables_beginwalk(&walk, rel, tables_index(rel, "opt_out_period_alias_of_idx"), organization, NULL);
	for (int i = 0; i < users->count; i++)
	{
		for (HeapTuple tuple = tables_walk_to(&walk, DatumGetTextPP(users->ids[i]));
			 tuple != NULL; tuple = tables_walk_on(&walk))
		{
			CHECK_FOR_INTERRUPTS();
			if (count == room)
			{
				room *= 2;
				ids = repalloc_huge(ids, room * sizeof(Datum));
			}
			ids[count++] = tables_walk_value(&walk, Anum_user_id);
		}
		CHECK_FOR_INTERRUPTS();
	}
	tables_endwalk(&walk);
	table_close(rel, NoLock);
	return user_ids_from_datums(ids, count);
}

/*
 * The users' links.  The caller has locked the users; links_lock() and
 * links_in_both() say which of these they still have.
 */
Links
links_find(text *organization, const UserIds *users)
{
	Links		result = {0, NULL};
	int			room = 64;
	Relation	rel;
	TablesWalk	walk;

	if (!tables_has_aliases())
		return result;
	result.links = palloc(room * sizeof(Link));
	rel = tables_open("user_alias", AccessShareLock);
	tables_beginwalk(&walk, rel, tables_index(rel, "user_alias_user_id_idx"), organization, NULL);
	for (int i = 0; i < users->count; i++)
	{
		for (HeapTuple tuple = tables_walk_to(&walk, DatumGetTextPP(users->ids[i]));
			 tuple != NULL; tuple = tables_walk_on(&walk))
		{
			if (result.count == room)
			{
				room *= 2;
				result.links = repalloc_huge(result.links, room * sizeof(Link));
			}
			result.links[result.count].alias = tables_walk_value(&walk, Anum_alias_alias);
			result.links[result.count++].user = users->ids[i];
			CHECK_FOR_INTERRUPTS();
		}
		CHECK_FOR_INTERRUPTS();
	}
	tables_endwalk(&walk);
	table_close(rel, NoLock);
	links_sort(result.links, result.count);
	return result;
}

/*
 * Lock the rows of these aliases, and return those that are aliases still.  The
 * caller has locked their users.
 */
UserIds
links_lock(text *organization, const UserIds *aliases)
{
	return lock_users("user_alias", "user_alias_pkey", organization, aliases,
					  LockTupleNoKeyExclusive, NULL);
}

/*
 * Which of these ids are aliases, and whose.
 */
Links
links_read(text *organization, const UserIds *ids)
{
	Relation	rel = tables_open("user_alias", AccessShareLock);
	TablesWalk	walk;
	Links		result;

	result.count = 0;
	result.links = palloc_extended(Max(ids->count, 1) * sizeof(Link), MCXT_ALLOC_HUGE);
	tables_beginwalk(&walk, rel, tables_index(rel, "user_alias_pkey"), organization, NULL);
	for (int i = 0; i < ids->count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (tables_walk_to(&walk, DatumGetTextPP(ids->ids[i])) == NULL)
			continue;
		result.links[result.count].alias = ids->ids[i];
		result.links[result.count++].user = tables_walk_value(&walk, Anum_alias_user_id);
	}
	tables_endwalk(&walk);
	table_close(rel, NoLock);
	return result;
}

/*
 * Those that are in both.
 */
Links
links_in_both(const Links *a, const Links *b)
{
	Links		result;
	int			j = 0;

	result.count = 0;
	result.links = palloc_extended(Max(a->count, 1) * sizeof(Link), MCXT_ALLOC_HUGE);
	for (int i = 0; i < a->count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		while (j < b->count && links_compare(&b->links[j], &a->links[i]) < 0)
			j++;
		if (j < b->count && links_compare(&b->links[j], &a->links[i]) == 0)
			result.links[result.count++] = a->links[i];
	}
	return result;
}

/*
 * Raise an error (23505) for an alias that somebody else has.
 */
static void
links_refuse_foreign(text *organization, const Links *links)
{
	UserIds		aliases = links_aliases(links);
	Links		existing = links_read(organization, &aliases);
	int			e = 0;

	for (int i = 0; i < links->count && e < existing.count; i++)
	{
		if (ident_compare(existing.links[e].alias, links->links[i].alias) != 0)
			continue;
		if (ident_compare(existing.links[e].user, links->links[i].user) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNIQUE_VIOLATION),
					 errmsg("\"%s\" of organization \"%s\" is an alias of user \"%s\"",
							ident_for_message(DatumGetTextPP(existing.links[e].alias)),
							ident_for_message(organization),
							ident_for_message(DatumGetTextPP(existing.links[e].user))),
					 errhint("If it is that user's no more, take it away with optout.unlink() first.")));
		e++;
	}
}

/*
 * Those links that do not exist yet.
 */
Links
links_missing(text *organization, const Links *links)
{
	UserIds		aliases = links_aliases(links);
	Links		existing;
	Links		result;
	int			e = 0;

	for (int i = 1; i < links->count; i++)
	{
		if (ident_compare(links->links[i - 1].alias, links->links[i].alias) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNIQUE_VIOLATION),
					 errmsg("\"%s\" cannot be an alias of both \"%s\" and \"%s\"",
							ident_for_message(DatumGetTextPP(links->links[i].alias)),
							ident_for_message(DatumGetTextPP(links->links[i - 1].user)),
							ident_for_message(DatumGetTextPP(links->links[i].user)))));
	}

	existing = links_read(organization, &aliases);
	existing = links_in_both(&existing, links);
	result.count = 0;
	result.links = palloc_extended(Max(links->count, 1) * sizeof(Link), MCXT_ALLOC_HUGE);
	for (int i = 0; i < links->count; i++)
	{
		if (e < existing.count && ident_compare(existing.links[e].alias, links->links[i].alias) == 0)
			e++;
		else
			result.links[result.count++] = links->links[i];
	}
	return result;
}

/*
 * Write new links.  Their users are locked, so nobody else can write the same
 * ones.  For another user's alias wait for whoever is just linking or unlinking
 * it; if it remains, that is an error.
 */
void
links_write(text *organization, const Links *links, text *reason)
{
	Oid			argtypes[6] = {TEXTOID, TEXTARRAYOID, TEXTARRAYOID, TIMESTAMPTZOID, TEXTOID, TEXTOID};
	Datum		values[6];
	char		nulls[6] = {' ', ' ', ' ', ' ', ' ', ' '};
	uint64		written = 0;

	values[0] = PointerGetDatum(organization);
	values[1] = links_array(links, false);
	values[2] = links_array(links, true);
	values[3] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[4] = periods_caller();
	values[5] = PointerGetDatum(reason);
	if (reason == NULL)
		nulls[5] = 'n';

	while ((written += tables_execute("INSERT INTO optout.user_alias "
									  "(organization, alias, user_id, linked_at, linked_by, reason) "
									  "SELECT $1, l.alias, l.user_id, $4, $5, $6 "
									  "FROM unnest($2, $3) AS l (alias, user_id) "
									  "ON CONFLICT (organization, alias) DO NOTHING",
									  6, argtypes, values, nulls)) < (uint64) links->count)
	{
		CHECK_FOR_INTERRUPTS();
		links_refuse_foreign(organization, links);
	}
}

/*
 * The first of these ids that has a row in the table, or NULL.  With "dirty", what
 * others have not committed counts as soon as they have.
 */
static text *
links_first_with_row(const char *table, const char *index, text *organization,
					 const UserIds *ids, bool dirty)
{
	Relation	rel = tables_open(table, AccessShareLock);
	Oid			indexid = tables_index(rel, index);
	SnapshotData snapshot;
	TablesWalk	walk;
	text	   *found = NULL;
	int			i = 0;

	InitDirtySnapshot(snapshot);
	tables_beginwalk(&walk, rel, indexid, organization, dirty ? &snapshot : NULL);
	while (i < ids->count && found == NULL)
	{
		text	   *id = DatumGetTextPP(ids->ids[i]);
		TransactionId writer = InvalidTransactionId;

		CHECK_FOR_INTERRUPTS();
		if (dirty && ids->count >= MANY_USERS)
			progress_set(i);
		if (tables_walk_to(&walk, id) == NULL)
		{
			i++;
			continue;
		}
		/* a dirty snapshot says who is writing the last row that it has shown */
		if (dirty)
			writer = TransactionIdIsValid(snapshot.xmin) ? snapshot.xmin : snapshot.xmax;
		if (!TransactionIdIsValid(writer))
			found = id;
		else
		{
			tables_endwalk(&walk);
			XactLockTableWait(writer, NULL, NULL, XLTW_None);
			tables_beginwalk(&walk, rel, indexid, organization, &snapshot);
		}
	}
	tables_endwalk(&walk);
	table_close(rel, NoLock);
	return found;
}

/*
 * Raise an error for a new alias that is a user (23505), or has periods or aliases
 * of its own (55000).  The caller has written the aliases' rows.
 */
void
links_refuse_persons(text *organization, const UserIds *aliases)
{
	text	   *found;

	/*
	 * A dirty snapshot may miss a row that is just being updated: its old
	 * version is dead by the time it is looked at, and the new one was
	 * entered into the index behind us.  The second look misses none that has
	 * been committed, and whatever had not been at the time of the first,
	 * that has seen.
	 */
	found = links_first_with_row("product_user", "product_user_pkey", organization, aliases, true);
	if (found == NULL)
		found = links_first_with_row("product_user", "product_user_pkey", organization, aliases, false);
	if (found != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 errmsg("\"%s\" is enrolled as a user in organization \"%s\"",
						ident_for_message(found), ident_for_message(organization))));

	/* only now, for while somebody could be enrolled they could opt out */
	found = links_first_with_row("opt_out_period", "opt_out_period_pkey", organization, aliases, false);
	if (found == NULL)
		found = links_first_with_row("user_alias", "user_alias_user_id_idx", organization, aliases, false);
	if (found != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"%s\" of organization \"%s\" has opt-outs or aliases of its own",
						ident_for_message(found), ident_for_message(organization)),
				 errhint("In one transaction, opt out the user if need be, call optout.forget() for the id with force => true, and then link it.")));
}

/*
 * Copy the users' periods to their aliases, all or only the open ones.  The caller
 * has locked these links, or written them.
 *
 * There are no statistics to plan a join by, and all but looking the periods up in
 * the index, one user after the other, can take forever.  In order of the users
 * that touches few pages, and so does the writing in order of the aliases.
 */
void
links_copy_periods(text *organization, const Links *links, bool only_open)
{
	Oid			argtypes[3] = {TEXTOID, TEXTARRAYOID, TEXTARRAYOID};
	Datum		values[3];
	Links		by_user;

	by_user.count = links->count;
	by_user.links = palloc_extended(Max(links->count, 1) * sizeof(Link), MCXT_ALLOC_HUGE);
	memcpy(by_user.links, links->links, links->count * sizeof(Link));
	links_sort_by_user(by_user.links, by_user.count);

	values[0] = PointerGetDatum(organization);
	values[1] = links_array(&by_user, false);
	values[2] = links_array(&by_user, true);
	tables_execute(psprintf("INSERT INTO optout.opt_out_period "
							"(organization, user_id, opted_out_at, opted_in_at, "
							"opted_out_by, opted_in_by, reason, alias_of, "
							"opted_out_actor, opted_in_actor, opted_in_reason) "
							"SELECT p.organization, l.alias, p.opted_out_at, p.opted_in_at, "
							"p.opted_out_by, p.opted_in_by, p.reason, l.user_id, "
							"p.opted_out_actor, p.opted_in_actor, p.opted_in_reason "
							"FROM unnest($2, $3) AS l (alias, user_id) CROSS JOIN LATERAL "
							"(SELECT p.* FROM optout.opt_out_period p "
							"WHERE p.organization = $1 AND p.user_id = l.user_id%s OFFSET 0) AS p "
							"ORDER BY l.alias COLLATE \"C\" ON CONFLICT DO NOTHING",
							only_open ? " AND p.opted_in_at IS NULL" : ""),
				   3, argtypes, values, NULL);
}

/*
 * Raise an error (55000) if one of the links' users is opted out.
 */
void
links_refuse_opted_out(text *organization, const Links *links)
{
	UserIds		users = links_users(links);
	text	   *user = links_first_with_row("opt_out_period", "opt_out_period_open_key",
											organization, &users, false);

	for (int i = 0; user != NULL && i < links->count; i++)
	{
		if (ident_compare(links->links[i].user, PointerGetDatum(user)) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("user \"%s\" of organization \"%s\" is opted out",
							ident_for_message(user), ident_for_message(organization)),
					 errdetail("Once unlinked, events of \"%s\" would be accepted again.",
							   ident_for_message(DatumGetTextPP(links->links[i].alias))),
					 errhint("Opt the user in first, or pass force => true.")));
	}
}

/*
 * Delete aliases and their periods.  The caller has locked these aliases.
 * Returns how many there were.
 */
uint64
links_delete(text *organization, const UserIds *aliases)
{
	Oid			argtypes[2] = {TEXTOID, TEXTARRAYOID};
	Datum		values[2];

	values[0] = PointerGetDatum(organization);
	values[1] = PointerGetDatum(user_ids_to_array(aliases));
	return tables_select_count("WITH a AS ("
							   "DELETE FROM optout.user_alias a "
							   "WHERE a.organization = $1 AND a.alias = ANY ($2) RETURNING a.alias"
							   "), p AS ("
							   "DELETE FROM optout.opt_out_period p "
							   "WHERE p.organization = $1 AND p.user_id = ANY ($2) AND p.alias_of IS NOT NULL"
							   ") SELECT count(*) FROM a",
							   2, argtypes, values, NULL);
}

/*
 * optout.refuse_aliases(), a trigger of the directory: a user's id must not be an
 * alias.
 */
Datum
optout_refuse_aliases(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	HeapTuple	tuple;
	text	   *organization;
	Datum		user_id;
	UserIds		ids = {1, &user_id};
	bool		isnull;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) ||
		TRIGGER_FIRED_BY_DELETE(trigdata->tg_event) ||
		!tables_is(trigdata->tg_relation, "product_user"))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" must be fired after a row of relation \"%s\" is written",
						"optout.refuse_aliases", "optout.product_user")));

	tuple = TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) ? trigdata->tg_newtuple : trigdata->tg_trigtuple;
	organization = DatumGetTextPP(heap_getattr(tuple, Anum_organization,
											   RelationGetDescr(trigdata->tg_relation), &isnull));
	user_id = heap_getattr(tuple, Anum_user_id, RelationGetDescr(trigdata->tg_relation), &isnull);
	if (links_first_with_row("user_alias", "user_alias_pkey", organization, &ids, true) != NULL)
	{
		Links		found = links_read(organization, &ids);

		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 errmsg("\"%s\" of organization \"%s\" is an alias of user \"%s\"",
						ident_for_message(DatumGetTextPP(user_id)), ident_for_message(organization),
						ident_for_message(DatumGetTextPP(found.links[0].user))),
				 errhint("Enroll the user, or take the alias away with optout.unlink().")));
	}
	return PointerGetDatum(NULL);
}

/*
 * optout.delete_alias_periods(), a trigger of the state table: a user's row has been
 * deleted, so delete its copies.  Mostly there are none left, for whoever deleted
 * it deleted them as well.
 */
Datum
optout_delete_alias_periods(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	Oid			argtypes[3] = {TEXTOID, TEXTOID, TIMESTAMPTZOID};
	Datum		values[3];
	UserIds		users = {1, &values[1]};
	bool		isnull;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) ||
		!TRIGGER_FIRED_BY_DELETE(trigdata->tg_event) ||
		!tables_is(trigdata->tg_relation, "opt_out_period"))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" must be fired after a row of relation \"%s\" is deleted",
						"optout.delete_alias_periods", "optout.opt_out_period")));

	for (int i = 0; i < (int) lengthof(values); i++)
		values[i] = heap_getattr(trigdata->tg_trigtuple, Anum_organization + i,
								 RelationGetDescr(trigdata->tg_relation), &isnull);

	/* so that what the same command has deleted is gone */
	CommandCounterIncrement();
	if (links_first_with_row("user_alias", "user_alias_user_id_idx", DatumGetTextPP(values[0]), &users, false) != NULL)
		tables_execute("DELETE FROM optout.opt_out_period AS c USING optout.user_alias a "
					   "WHERE a.organization = $1 AND a.user_id = $2 "
					   "AND c.organization = $1 AND c.user_id = a.alias "
					   "AND c.opted_out_at = $3 AND c.alias_of = $2",
					   3, argtypes, values, NULL);
	return PointerGetDatum(NULL);
}

/*
 * optout.verify()
 *
 * Besides what the shared filter would miss: aliases that have other periods than
 * their users, and those that are users as well.  A subscriber knows an alias by
 * its periods only.
 */
Datum
optout_verify_1_2(PG_FUNCTION_ARGS)
{
	int64		missed = DatumGetInt64(optout_verify(fcinfo));

	PG_RETURN_INT64(missed + (int64)
					tables_select_count("WITH link AS ("
										"SELECT organization, alias, user_id FROM optout.user_alias "
										"UNION SELECT organization, user_id, alias_of "
										"FROM optout.opt_out_period WHERE alias_of IS NOT NULL"
										"), expected AS ("
										"SELECT l.organization, l.alias, p.opted_out_at, p.opted_in_at "
										"FROM link l JOIN optout.opt_out_period p "
										"ON p.organization = l.organization AND p.user_id = l.user_id"
										"), found AS ("
										"SELECT l.organization, l.alias, p.opted_out_at, p.opted_in_at "
										"FROM link l JOIN optout.opt_out_period p "
										"ON p.organization = l.organization AND p.user_id = l.alias"
										") SELECT count(*) FROM ("
										"(SELECT organization, alias FROM "
										"(TABLE expected EXCEPT ALL TABLE found) AS missing) "
										"UNION (SELECT organization, alias FROM "
										"(TABLE found EXCEPT ALL TABLE expected) AS excess) "
										"UNION (SELECT l.organization, l.alias FROM link l "
										"JOIN optout.product_user u "
										"ON u.organization = l.organization AND u.user_id = l.alias)"
										") AS wrong",
										0, NULL, NULL, NULL));
}
