/*
 * complete.c
 *		Whether this server can know who is opted out.
 *
 * A server whose list comes from another one begins with an empty list.  Until it
 * has the whole list, that a user is not in it says nothing, and the filter raises
 * an error rather than accept everybody.  The list is incomplete
 *
 * 1. while a subscription of this database has not copied the state table.  Its
 *	  row in pg_subscription_rel says so; the copy and the change of that row are
 *	  committed together.  After that the server goes on with what it knows, also
 *	  while the subscription is disabled or behind.
 * 2. on a Citus worker, unless a subscription has copied the state table.  Citus
 *	  creates the extension on each worker, with an empty list, and has the
 *	  workers call the filter.
 *
 * The answer is kept until an invalidation reports a change of these
 * catalogs. coverage.c asks before it lets anybody trust the filter, so it is
 * told of each.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_subscription.h"
#include "catalog/pg_subscription_rel.h"
#include "miscadmin.h"
#include "utils/catcache.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "compat.h"
#include "complete.h"
#include "ledger.h"
#include "tables.h"

/* the table, in pg_catalog, in which Citus keeps a node's number: workers' are > 0 */
#define CITUS_TABLE "pg_dist_local_group"
#define CITUS_COLUMN "groupid"

/* setting */
static bool assume_complete = false;

/* whom to tell that the answer may be another one now */
static void (*complete_changed) (void) = NULL;

bool		complete_is_valid = false;
static uint64 invalidations = 0;
static bool is_complete;
static Oid	copying;			/* the subscription that is not, if any */

static Oid	citus_table = InvalidOid;
static uint32 citus_hash;		/* in the cache of relations' names */
static bool citus_hash_valid = false;

static void complete_invalidate(void);
static void complete_assign(bool newval, void *extra);
static void complete_subscription_changed(Datum arg, SysCacheIdentifier cacheid,
										  uint32 hashvalue);
static void complete_name_changed(Datum arg, SysCacheIdentifier cacheid,
								  uint32 hashvalue);
static void complete_relation_changed(Datum arg, Oid relid);
static bool complete_of_this_database(Oid subscription);
static void complete_find_subscriptions(Oid *copied, Oid *not_copied);
static bool complete_is_citus_worker(void);
static void complete_read(void);

/*
 * Define the setting this file owns.
 */
void
complete_define_settings(void)
{
	DefineCustomBoolVariable("optout.assume_complete",
							 "Lets this server answer even if no subscription has copied the list of opt-outs to it.",
							 "For servers whose list is fed by other means than a subscription.",
							 &assume_complete,
							 false,
							 PGC_SUSET,
							 0,
							 NULL, complete_assign, NULL);
}

/*
 * Ask for being told of changes, and pass that on.
 */
void
complete_install_hooks(void (*changed) (void))
{
	complete_changed = changed;
	CacheRegisterSyscacheCallback(SUBSCRIPTIONRELMAP, complete_subscription_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(RELNAMENSP, complete_name_changed, (Datum) 0);
	CacheRegisterRelcacheCallback(complete_relation_changed, (Datum) 0);
}

static void
complete_invalidate(void)
{
	invalidations++;
	complete_is_valid = false;
	if (complete_changed != NULL)
		complete_changed();
}

/* assign hook */
static void
complete_assign(bool newval pg_attribute_unused(), void *extra pg_attribute_unused())
{
	complete_invalidate();
}

/* syscache callback: a subscription has got, or lost, a table, or gone on with one */
static void
complete_subscription_changed(Datum arg pg_attribute_unused(),
							  SysCacheIdentifier cacheid pg_attribute_unused(),
							  uint32 hashvalue pg_attribute_unused())
{
	complete_invalidate();
}

/* syscache callback: Citus' table has been created or dropped */
static void
complete_name_changed(Datum arg pg_attribute_unused(),
					  SysCacheIdentifier cacheid pg_attribute_unused(),
					  uint32 hashvalue)
{
	if (citus_hash_valid && (hashvalue == citus_hash || hashvalue == 0))
		complete_invalidate();
}

/* relcache callback: Citus says so when it has written to its table */
static void
complete_relation_changed(Datum arg pg_attribute_unused(), Oid relid)
{
	if (OidIsValid(citus_table) && (relid == citus_table || !OidIsValid(relid)))
		complete_invalidate();
}

/*
 * Whether the subscription belongs to this database.  CREATE DATABASE copies the
 * rows of pg_subscription_rel, but not the subscriptions.
 */
static bool
complete_of_this_database(Oid subscription)
{
	HeapTuple	tuple = SearchSysCache1(SUBSCRIPTIONOID, ObjectIdGetDatum(subscription));
	bool		result;

	if (!HeapTupleIsValid(tuple))
		return false;
	result = ((Form_pg_subscription) GETSTRUCT(tuple))->subdbid == MyDatabaseId;
	ReleaseSysCache(tuple);
	return result;
}

/*
 * A subscription of this database that has copied the state table, and one that has
 * not; InvalidOid where there is none.
 */
static void
complete_find_subscriptions(Oid *copied, Oid *not_copied)
{
	Relation	rel = tables_open("opt_out_period", AccessShareLock);
	CatCList   *list = SearchSysCacheList1(SUBSCRIPTIONRELMAP,
										   ObjectIdGetDatum(RelationGetRelid(rel)));

	*copied = InvalidOid;
	*not_copied = InvalidOid;
	for (int i = 0; i < list->n_members; i++)
	{
		Form_pg_subscription_rel row =
			(Form_pg_subscription_rel) GETSTRUCT(&list->members[i]->tuple);

		if (!complete_of_this_database(row->srsubid))
			continue;
		if (row->srsubstate == SUBREL_STATE_FINISHEDCOPY ||
			row->srsubstate == SUBREL_STATE_SYNCDONE ||
			row->srsubstate == SUBREL_STATE_READY)
			*copied = row->srsubid;
		else
			*not_copied = row->srsubid;
	}
	ReleaseSysCacheList(list);
	table_close(rel, NoLock);
}

/*
 * Whether this is a worker of Citus.  While the table is empty, which it is during
 * an upgrade, it may be one.
 */
static bool
complete_is_citus_worker(void)
{
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;
	AttrNumber	attnum;
	bool		result = true;

	if (!citus_hash_valid)
	{
		citus_hash = GetSysCacheHashValue2(RELNAMENSP, CStringGetDatum(CITUS_TABLE),
										   ObjectIdGetDatum(PG_CATALOG_NAMESPACE));
		citus_hash_valid = true;
	}
	citus_table = get_relname_relid(CITUS_TABLE, PG_CATALOG_NAMESPACE);
	if (!OidIsValid(citus_table) || (rel = try_table_open(citus_table, AccessShareLock)) == NULL)
		return false;

	attnum = get_attnum(citus_table, CITUS_COLUMN);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	tuple = systable_getnext(scan);
	if (attnum != InvalidAttrNumber && HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, attnum, RelationGetDescr(rel), &isnull);

		result = isnull || DatumGetInt32(value) > 0;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/*
 * Look at the catalogs.
 */
static void
complete_read(void)
{
	/* first, so that a change that is reported meanwhile is not lost */
	uint64		invalidations_before = invalidations;
	Oid			copied = InvalidOid;

	copying = InvalidOid;
	if (!assume_complete)
		complete_find_subscriptions(&copied, &copying);
	is_complete = assume_complete ||
		(!OidIsValid(copying) && (OidIsValid(copied) || !complete_is_citus_worker()));
	complete_is_valid = invalidations == invalidations_before;
}

/*
 * Whether this server has the whole list, or can take it for whole.
 */
bool
complete(void)
{
	if (!complete_is_valid)
		complete_read();
	return is_complete;
}

/*
 * Raise an error unless complete().  The planner may ask all the same, since what
 * it learns is an estimate.
 */
void
complete_check(void)
{
	const char *hint = "Let a subscription copy the table, or set optout.assume_complete if the table is fed by other means.";

	if (complete() || ledger_is_planning())
		return;
	if (OidIsValid(copying))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this server does not know yet who is opted out"),
				 errdetail("Subscription \"%s\" has not copied table \"%s\".",
						   get_subscription_name(copying, false), "optout.opt_out_period"),
				 errhint("%s", hint)));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("this server does not know who is opted out"),
			 errdetail("No subscription has copied table \"%s\" to this worker of Citus.",
					   "optout.opt_out_period"),
			 errhint("%s", hint)));
}

/*
 * The subscription by which this server gets its list, or is going to; NULL where it
 * gets none.
 */
char *
complete_subscription(void)
{
	Oid			copied;
	Oid			not_copied;

	complete_find_subscriptions(&copied, &not_copied);
	if (!OidIsValid(copied))
		copied = not_copied;
	return OidIsValid(copied) ? get_subscription_name(copied, true) : NULL;
}
