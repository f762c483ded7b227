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
 * 1. Whoever writes a user's periods, or links or unlinks an alias of the user,
 *	  first locks the user as periods.c says: the row of the directory, then the
 *	  open period.  (The directory's row alone would not do: opt_in() of a user
 *	  who has left the directory has only the period to meet link() at.)  link(),
 *	  unlink() and forget() lock all periods, one user after the other, so that
 *	  nobody deletes one that is about to be copied.
 * 2. Then it locks the rows of the user's aliases, in order of their ids, before
 *	  it takes the snapshot to read aliases by.  For a user can have aliases and
 *	  nothing that rule 1 could lock; somebody may enroll and opt out that user
 *	  while unlink() is on its way.  Now one of the two waits for the other, and
 *	  then opt_out() finds the alias gone, or unlink() the user opted out.
 * 3. An id is not a user and an alias at once.  link() writes the alias's row,
 *	  and then looks for a user of that id in the directory; the directory's
 *	  trigger does the same the other way around.  Both look with a dirty snapshot
 *	  and wait for whoever has written what they find.  Of two at once, at least
 *	  one sees the other; if both do, one fails with a deadlock.  After that look
 *	  nobody can open a period of the id's own, and those there are can be
 *	  seen.  That two users never have the same alias is up to the primary key.
 * 4. A row of the state table may be deleted by hand, as for retention, and the
 *	  snapshot of that DELETE does not show a copy that link() made while the
 *	  DELETE waited for the row.  So a trigger of the state table deletes the
 *	  copies that are there when the row is gone.
 *
 * Where a user has been entered by other means under the id of an alias, the id's
 * own open period is left alone, and verify() counts the id.
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

PG_FUNCTION_INFO_V1(optout_refuse_aliases);
PG_FUNCTION_INFO_V1(optout_delete_alias_periods);
PG_FUNCTION_INFO_V1(optout_verify_1_2);

/* of another file */
extern Datum optout_verify(PG_FUNCTION_ARGS);

/* read by the upgrade script only */
static bool subscribers_updated = false;

static uint64 links_execute(text *organization, const UserIds *ids, const char *command);
static uint64 links_select_count(text *organization, const UserIds *ids, const char *query);
static UserIds links_select_ids(text *organization, const UserIds *ids, const char *query);
static int	links_compare(const Link *a, const Link *b);
static Links links_make(Datum *users, Datum *aliases, int count);
static ArrayType *links_user_array(const Links *links);
static void links_refuse_found(text *organization, UserIds found);
static bool links_exist(text *organization, AttrNumber attnum, text *id);
static void links_refuse_foreign(text *organization, const Links *links);
static bool links_look_dirty(Relation rel, Oid index, text *organization, text *id,
							 AttrNumber attnum, text **value);

/*
 * What looks ids up in a table.  There are no statistics to plan a join by, and
 * all but looking them up in the index, one by one, can take forever.
 */
#define EACH_ALIAS "FROM unnest($2) AS l (alias) CROSS JOIN LATERAL " \
	"(SELECT a.alias, a.user_id FROM optout.user_alias a " \
	"WHERE a.organization = $1 AND a.alias = l.alias OFFSET 0) AS a "
#define EACH_LINK "FROM unnest($2, $3) AS l (alias, user_id) CROSS JOIN LATERAL " \
	"(SELECT a.alias, a.user_id FROM optout.user_alias a " \
	"WHERE a.organization = $1 AND a.alias = l.alias OFFSET 0) AS a "
#define EACH_PERIOD_OF(id) "CROSS JOIN LATERAL " \
	"(SELECT p.ctid, p.* FROM optout.opt_out_period p " \
	"WHERE p.organization = $1 AND p.user_id = " id " OFFSET 0) AS p "

#define ST_SORT links_sort
#define ST_ELEMENT_TYPE Link
#define ST_COMPARE(a, b) links_compare(a, b)
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
							 "Subscribers to optout.opt_out_period have the columns of optout 1.2.",
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
 * The set of their users.
 */
UserIds
links_users(const Links *links)
{
	Datum	   *ids = palloc_extended(Max(links->count, 1) * sizeof(Datum), MCXT_ALLOC_HUGE);

	for (int i = 0; i < links->count; i++)
		ids[i] = links->links[i].user;
	return user_ids_from_datums(ids, links->count);
}

/*
 * The set of their aliases.
 */
UserIds
links_aliases(const Links *links)
{
	Datum	   *ids = palloc_extended(Max(links->count, 1) * sizeof(Datum), MCXT_ALLOC_HUGE);

	for (int i = 0; i < links->count; i++)
		ids[i] = links->links[i].alias;
	return user_ids_from_datums(ids, links->count);
}

/* their users as a text[], in the order of the links */
static ArrayType *
links_user_array(const Links *links)
{
	UserIds		users;

	users.count = links->count;
	users.ids = palloc_extended(Max(links->count, 1) * sizeof(Datum), MCXT_ALLOC_HUGE);
	for (int i = 0; i < links->count; i++)
		users.ids[i] = links->links[i].user;
	return user_ids_to_array(&users);
}

/*
 * Are there aliases in this organization?  If an id is given, those with that id
 * in a column that an index has after the organization.
 */
static bool
links_exist(text *organization, AttrNumber attnum, text *id)
{
	Relation	rel = tables_open("user_alias", AccessShareLock);
	ScanKeyData keys[2];
	TablesScan	scan;
	bool		found;

	tables_key(&keys[0], Anum_alias_organization, organization);
	if (id != NULL)
		tables_key(&keys[1], attnum, id);
	tables_beginscan(&scan, rel,
					 tables_index(rel, attnum == Anum_alias_user_id ? "user_alias_user_id_idx" : "user_alias_pkey"),
					 id != NULL ? 2 : 1, keys);
	found = HeapTupleIsValid(tables_getnext(&scan));
	tables_endscan(&scan);
	table_close(rel, NoLock);
	return found;
}

/*
 * Commands whose parameters are the organization ($1) and an array of ids ($2):
 * these return how many rows were changed, a count, and ids.
 */
static uint64
links_execute(text *organization, const UserIds *ids, const char *command)
{
	Oid			argtypes[2] = {TEXTOID, TEXTARRAYOID};
	Datum		values[2];

	values[0] = PointerGetDatum(organization);
	values[1] = PointerGetDatum(user_ids_to_array(ids));
	return tables_execute(command, 2, argtypes, values, NULL);
}

static uint64
links_select_count(text *organization, const UserIds *ids, const char *query)
{
	Oid			argtypes[2] = {TEXTOID, TEXTARRAYOID};
	Datum		values[2];

	values[0] = PointerGetDatum(organization);
	values[1] = PointerGetDatum(user_ids_to_array(ids));
	return tables_select_count(query, 2, argtypes, values, NULL);
}

static UserIds
links_select_ids(text *organization, const UserIds *ids, const char *query)
{
	Oid			argtypes[2] = {TEXTOID, TEXTARRAYOID};
	Datum		values[2];

	values[0] = PointerGetDatum(organization);
	values[1] = PointerGetDatum(user_ids_to_array(ids));
	return tables_select_ids(query, 2, argtypes, values);
}

/*
 * Raise an error (42704) if one of these users is an alias.
 */
void
links_refuse_aliases(text *organization, const UserIds *users)
{
	if (!tables_has_aliases() ||
		!links_exist(organization, Anum_alias_alias,
					 users->count == 1 ? DatumGetTextPP(users->ids[0]) : NULL))
		return;

	links_refuse_found(organization,
					   links_select_ids(organization, users,
										"SELECT unnest(ARRAY[o.alias, o.user_id]) FROM "
										"(SELECT a.alias, a.user_id " EACH_ALIAS "ORDER BY a.alias) AS o"));
}

/*
 * Raise the error for the first of these, which are aliases, each followed by its
 * user.
 */
static void
links_refuse_found(text *organization, UserIds found)
{
	if (found.count > 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("\"%s\" of organization \"%s\" is an alias, not a user",
						ident_for_message(DatumGetTextPP(found.ids[0])),
						ident_for_message(organization)),
				 errhint("Pass its user, \"%s\".",
						 ident_for_message(DatumGetTextPP(found.ids[1])))));
}

/*
 * The aliases of the users.  The caller has locked the users; links_lock() says
 * which of these aliases they still have.
 */
UserIds
links_find(text *organization, const UserIds *users)
{
	UserIds		none = {0, NULL};

	if (users->count == 0 || !tables_has_aliases() ||
		!links_exist(organization, Anum_alias_user_id,
					 users->count == 1 ? DatumGetTextPP(users->ids[0]) : NULL))
		return none;

	return links_select_ids(organization, users,
							"SELECT a.alias FROM unnest($2) AS u (user_id) CROSS JOIN LATERAL "
							"(SELECT a.alias FROM optout.user_alias a "
							"WHERE a.organization = $1 AND a.user_id = u.user_id OFFSET 0) AS a "
							"ORDER BY a.alias");
}

/*
 * The aliases of the users, on a subscriber too, which knows them by their periods
 * only.
 */
UserIds
links_find_known(text *organization, const UserIds *users)
{
	return links_select_ids(organization, users,
							"SELECT k.alias FROM (SELECT a.alias FROM unnest($2) AS u (user_id) CROSS JOIN LATERAL "
							"(SELECT a.alias FROM optout.user_alias a "
							"WHERE a.organization = $1 AND a.user_id = u.user_id OFFSET 0) AS a "
							"UNION SELECT p.user_id FROM unnest($2) AS u (user_id) CROSS JOIN LATERAL "
							"(SELECT p.user_id FROM optout.opt_out_period p "
							"WHERE p.organization = $1 AND p.alias_of = u.user_id OFFSET 0) AS p) AS k "
							"ORDER BY k.alias");
}

/*
 * Raise an error (42704) if one of these users is an alias, likewise.
 */
void
links_refuse_known_aliases(text *organization, const UserIds *users)
{
	links_refuse_found(organization,
					   links_select_ids(organization, users,
										"SELECT unnest(ARRAY[o.alias, o.user_id]) FROM "
										"(SELECT a.alias, a.user_id " EACH_ALIAS
										"UNION SELECT p.user_id, p.alias_of FROM unnest($2) AS l (alias) "
										EACH_PERIOD_OF("l.alias") "WHERE p.alias_of IS NOT NULL "
										"ORDER BY 1) AS o"));
}

/*
 * The users whose aliases these are.
 */
UserIds
links_owners(text *organization, const UserIds *aliases)
{
	return links_select_ids(organization, aliases,
							"SELECT DISTINCT a.user_id " EACH_ALIAS "ORDER BY a.user_id");
}

/*
 * Lock the rows of these aliases, and return those that are aliases still.  The
 * caller has locked their users.
 */
UserIds
links_lock(text *organization, const UserIds *aliases)
{
	return lock_users("user_alias", "user_alias_pkey", false,
					  "SELECT a.ctid, l.n FROM unnest($2) WITH ORDINALITY AS l (alias, n) "
					  "CROSS JOIN LATERAL (SELECT a.ctid FROM optout.user_alias a "
					  "WHERE a.organization = $1 AND a.alias = l.alias OFFSET 0) AS a",
					  organization, aliases, LockTupleNoKeyExclusive, NULL);
}

/*
 * Raise an error (23505) for an alias that somebody else has.
 */
static void
links_refuse_foreign(text *organization, const Links *links)
{
	Oid			argtypes[3] = {TEXTOID, TEXTARRAYOID, TEXTARRAYOID};
	Datum		values[3];
	UserIds		aliases = links_aliases(links);
	UserIds		found;

	/* the alias and, after it, its user */
	values[0] = PointerGetDatum(organization);
	values[1] = PointerGetDatum(user_ids_to_array(&aliases));
	values[2] = PointerGetDatum(links_user_array(links));
	found = tables_select_ids("SELECT unnest(ARRAY[o.alias, o.user_id]) FROM "
							  "(SELECT a.alias, a.user_id " EACH_LINK
							  "WHERE a.user_id <> l.user_id ORDER BY a.alias) AS o",
							  3, argtypes, values);
	if (found.count > 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 errmsg("\"%s\" of organization \"%s\" is an alias of user \"%s\"",
						ident_for_message(DatumGetTextPP(found.ids[0])),
						ident_for_message(organization),
						ident_for_message(DatumGetTextPP(found.ids[1])))));
}

/*
 * Those links that do not exist yet.
 */
Links
links_missing(text *organization, const Links *links)
{
	Oid			argtypes[3] = {TEXTOID, TEXTARRAYOID, TEXTARRAYOID};
	Datum		values[3];
	UserIds		aliases;
	UserIds		existing;
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

	aliases = links_aliases(links);
	values[0] = PointerGetDatum(organization);
	values[1] = PointerGetDatum(user_ids_to_array(&aliases));
	values[2] = PointerGetDatum(links_user_array(links));
	existing = tables_select_ids("SELECT a.alias " EACH_LINK
								 "WHERE a.user_id = l.user_id ORDER BY a.alias",
								 3, argtypes, values);

	result.count = 0;
	result.links = palloc_extended(Max(links->count, 1) * sizeof(Link), MCXT_ALLOC_HUGE);
	for (int i = 0; i < links->count; i++)
	{
		if (e < existing.count &&
			ident_compare(existing.ids[e], links->links[i].alias) == 0)
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
	UserIds		aliases = links_aliases(links);
	uint64		written = 0;

	values[0] = PointerGetDatum(organization);
	values[1] = PointerGetDatum(user_ids_to_array(&aliases));
	values[2] = PointerGetDatum(links_user_array(links));
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
 * Look for the row with this id by an index on organization and id, as the first
 * two columns of the table.  What others have not committed counts as soon as
 * they have.  Returns the value of another column.
 */
static bool
links_look_dirty(Relation rel, Oid index, text *organization, text *id,
				 AttrNumber attnum, text **value)
{
	SnapshotData dirty;
	TransactionId xwait;
	bool		found;

	InitDirtySnapshot(dirty);
	do
	{
		ScanKeyData keys[2];
		SysScanDesc scan;
		HeapTuple	tuple;

		tables_key(&keys[0], 1, organization);
		tables_key(&keys[1], 2, id);
		scan = systable_beginscan(rel, index, true, &dirty, 2, keys);
		tuple = systable_getnext(scan);
		found = HeapTupleIsValid(tuple);
		xwait = InvalidTransactionId;
		if (found)
		{
			bool		isnull;

			xwait = TransactionIdIsValid(dirty.xmin) ? dirty.xmin : dirty.xmax;
			if (value != NULL)
				*value = DatumGetTextPCopy(heap_getattr(tuple, attnum, RelationGetDescr(rel), &isnull));
		}
		systable_endscan(scan);
		if (TransactionIdIsValid(xwait))
			XactLockTableWait(xwait, NULL, NULL, XLTW_None);
	} while (TransactionIdIsValid(xwait));
	return found;
}

/*
 * Raise an error for a new alias that is a user (23505), or has periods or aliases
 * of its own (55000).  The caller has written the alias's row.
 */
void
links_refuse_persons(text *organization, const UserIds *aliases)
{
	Relation	rel = tables_open("product_user", AccessShareLock);
	Oid			index = tables_index(rel, "product_user_pkey");
	Periods		periods;

	for (int i = 0; i < aliases->count; i++)
	{
		text	   *alias = DatumGetTextPP(aliases->ids[i]);

		CHECK_FOR_INTERRUPTS();
		if (aliases->count >= MANY_USERS)
			progress_set(i);
		if (links_look_dirty(rel, index, organization, alias, 0, NULL))
			ereport(ERROR,
					(errcode(ERRCODE_UNIQUE_VIOLATION),
					 errmsg("\"%s\" is enrolled as a user in organization \"%s\"",
							ident_for_message(alias), ident_for_message(organization))));
	}
	table_close(rel, NoLock);

	/* only now, for while somebody could be enrolled they could opt out */
	for (int i = 0; i < aliases->count; i++)
	{
		text	   *alias = DatumGetTextPP(aliases->ids[i]);

		CHECK_FOR_INTERRUPTS();
		periods_read(&periods, organization, alias);
		if (periods.open || periods.nclosed > 0 ||
			links_exist(organization, Anum_alias_user_id, alias))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("\"%s\" of organization \"%s\" has opt-outs or aliases of its own",
							ident_for_message(alias), ident_for_message(organization)),
					 errhint("In one transaction, opt out the user if need be, call optout.forget() for the id with force => true, and then link it.")));
	}
}

/*
 * Copy their users' periods to the aliases, all or only the open ones.  The caller
 * has locked these aliases, or written them.  Returns how many were copied.
 */
uint64
links_copy_periods(text *organization, const UserIds *aliases, bool only_open)
{
	return links_execute(organization, aliases,
						 psprintf("INSERT INTO optout.opt_out_period "
								  "(organization, user_id, opted_out_at, opted_in_at, "
								  "opted_out_by, opted_in_by, reason, alias_of, "
								  "opted_out_actor, opted_in_actor, opted_in_reason) "
								  "SELECT p.organization, a.alias, p.opted_out_at, p.opted_in_at, "
								  "p.opted_out_by, p.opted_in_by, p.reason, a.user_id, "
								  "p.opted_out_actor, p.opted_in_actor, p.opted_in_reason "
								  EACH_ALIAS EACH_PERIOD_OF("a.user_id")
								  "%s ON CONFLICT DO NOTHING",
								  only_open ? "WHERE p.opted_in_at IS NULL" : ""));
}

/*
 * Close the aliases' open periods as their users' have been closed.
 * The caller has locked these aliases.
 */
uint64
links_close_periods(text *organization, const UserIds *aliases)
{
	return links_execute(organization, aliases,
						 "UPDATE optout.opt_out_period AS u "
						 "SET opted_in_at = o.opted_in_at, opted_in_by = o.opted_in_by, "
						 "opted_in_actor = o.opted_in_actor, opted_in_reason = o.opted_in_reason "
						 "FROM (SELECT c.ctid, p.opted_in_at, p.opted_in_by, p.opted_in_actor, p.opted_in_reason "
						 EACH_ALIAS EACH_PERIOD_OF("a.user_id") "CROSS JOIN LATERAL "
						 "(SELECT c.ctid FROM optout.opt_out_period c "
						 "WHERE c.organization = $1 AND c.user_id = a.alias AND c.alias_of = a.user_id "
						 "AND c.opted_out_at = p.opted_out_at AND c.opted_in_at IS NULL OFFSET 0) AS c "
						 "WHERE p.opted_in_at IS NOT NULL) AS o WHERE u.ctid = o.ctid");
}

/*
 * Raise an error (55000) if the user of one of these aliases is opted out.
 */
void
links_refuse_opted_out(text *organization, const UserIds *aliases)
{
	UserIds		found;

	/* the alias and, after it, its user */
	found = links_select_ids(organization, aliases,
							 "SELECT unnest(ARRAY[o.alias, o.user_id]) FROM "
							 "(SELECT a.alias, a.user_id " EACH_ALIAS EACH_PERIOD_OF("a.user_id")
							 "WHERE p.opted_in_at IS NULL ORDER BY a.alias) AS o");
	if (found.count > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("user \"%s\" of organization \"%s\" is opted out",
						ident_for_message(DatumGetTextPP(found.ids[1])),
						ident_for_message(organization)),
				 errdetail("Once unlinked, events of \"%s\" would be accepted again.",
						   ident_for_message(DatumGetTextPP(found.ids[0]))),
				 errhint("Opt the user in first, or pass force => true.")));
}

/*
 * How many periods these aliases have.
 */
uint64
links_count_periods(text *organization, const UserIds *aliases)
{
	return links_select_count(organization, aliases,
							  "SELECT count(*) " EACH_ALIAS EACH_PERIOD_OF("a.user_id"));
}

/*
 * Delete aliases and their periods.  The caller has locked these aliases.
 * Returns how many there were.
 */
uint64
links_delete(text *organization, const UserIds *aliases)
{
	return links_select_count(organization, aliases,
							  "WITH a AS ("
							  "DELETE FROM optout.user_alias a "
							  "WHERE a.organization = $1 AND a.alias = ANY ($2) RETURNING a.alias"
							  "), p AS ("
							  "DELETE FROM optout.opt_out_period p "
							  "WHERE p.organization = $1 AND p.user_id = ANY ($2) AND p.alias_of IS NOT NULL"
							  ") SELECT count(*) FROM a");
}

/*
 * optout.refuse_aliases(), a trigger of the directory: a user's id must not be an
 * alias.
 */
Datum
optout_refuse_aliases(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	Relation	rel;
	HeapTuple	tuple;
	text	   *organization;
	text	   *user_id;
	text	   *owner;
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
	user_id = DatumGetTextPP(heap_getattr(tuple, Anum_user_id,
										  RelationGetDescr(trigdata->tg_relation), &isnull));

	rel = tables_open("user_alias", AccessShareLock);
	if (links_look_dirty(rel, tables_index(rel, "user_alias_pkey"), organization, user_id,
						 Anum_alias_user_id, &owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 errmsg("\"%s\" of organization \"%s\" is an alias of user \"%s\"",
						ident_for_message(user_id), ident_for_message(organization),
						ident_for_message(owner)),
				 errhint("Enroll the user, or take the alias away with optout.unlink().")));
	table_close(rel, NoLock);
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
	if (links_exist(DatumGetTextPP(values[0]), Anum_alias_user_id, DatumGetTextPP(values[1])))
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
