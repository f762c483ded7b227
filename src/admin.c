/*
 * admin.c
 *		The administration functions: enroll, opt_out, opt_in, forget, link, unlink,
 *		sign_in.
 *
 * Each checks its arguments and then the effective caller's authority before
 * it looks at any user, so that whoever has none learns nothing, not even
 * from how long it takes.  A function that takes several users acts on all of
 * them or, as it raises an error, on none.  For the locking see periods.c,
 * and for that of aliases links.c.
 *
 * A function whose meaning an update changes gets another symbol as well
 * ("_1_2"), so that a session that still has the old library fails instead of
 * doing half of it.  The old symbols serve a database that has not been
 * updated yet.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "authority.h"
#include "complete.h"
#include "directory.h"
#include "ident.h"
#include "links.h"
#include "periods.h"
#include "progress.h"
#include "subxact.h"
#include "tables.h"

PG_FUNCTION_INFO_V1(optout_enroll);
PG_FUNCTION_INFO_V1(optout_enroll_array);
PG_FUNCTION_INFO_V1(optout_opt_out);
PG_FUNCTION_INFO_V1(optout_opt_out_array);
PG_FUNCTION_INFO_V1(optout_opt_in);
PG_FUNCTION_INFO_V1(optout_opt_in_array);
PG_FUNCTION_INFO_V1(optout_forget);
PG_FUNCTION_INFO_V1(optout_forget_array);
PG_FUNCTION_INFO_V1(optout_sign_in);
PG_FUNCTION_INFO_V1(optout_opt_out_1_2);
PG_FUNCTION_INFO_V1(optout_opt_out_array_1_2);
PG_FUNCTION_INFO_V1(optout_opt_in_1_2);
PG_FUNCTION_INFO_V1(optout_opt_in_array_1_2);
PG_FUNCTION_INFO_V1(optout_forget_1_2);
PG_FUNCTION_INFO_V1(optout_forget_array_1_2);
PG_FUNCTION_INFO_V1(optout_link);
PG_FUNCTION_INFO_V1(optout_link_array);
PG_FUNCTION_INFO_V1(optout_unlink);

/* an argument that may be NULL */
#define ARG_TEXT(n) (PG_ARGISNULL(n) ? NULL : PG_GETARG_TEXT_PP(n))
#define ARG_ARRAY(n) (PG_ARGISNULL(n) ? NULL : PG_GETARG_ARRAYTYPE_P(n))

/* the arguments every function here starts with: whom, in which organization */
typedef struct AdminArgs
{
	UserIds		users;
	text	   *organization;
	ProgressCommand command;
	bool		reported;		/* they are many, so progress is shown */
} AdminArgs;

/* what forget() has locked of its users */
typedef struct Forgotten
{
	uint64		nusers;			/* rows of the directory */
	uint64		nperiods;
	UserIds		aliases;
} Forgotten;

static AdminArgs admin_begin_for_users(FunctionCallInfo fcinfo, UserIds users,
									   ProgressCommand command);
static AdminArgs admin_begin(FunctionCallInfo fcinfo, UserIds users, text *organization,
							 bool many, ProgressCommand command);
static void admin_warn_of_subscription(void);
static void admin_phase(const AdminArgs *args, ProgressPhase phase, uint64 total);
static void admin_end(const AdminArgs *args);
static void admin_require_known(text *organization, const UserIds *users,
								const UserIds *enrolled, const UserIds *opted_out);
static Links admin_lock_aliases(AdminArgs *args, const UserIds *users);
static bool admin_lock_links(AdminArgs *args, const UserIds *users, const UserIds *aliases,
							 Links *links, uint64 *nperiods);
static Forgotten admin_forget_lock(AdminArgs *args, bool force);
static uint64 admin_forget_count_rows(const AdminArgs *args, Snapshot snapshot);
static uint64 admin_forget_delete(const AdminArgs *args, const Forgotten *forgotten, Snapshot snapshot);
static uint64 admin_guess_copies(uint64 nperiods, int nusers, int naliases);
static uint64 admin_opt_out(FunctionCallInfo fcinfo, UserIds users);
static uint64 admin_opt_in(FunctionCallInfo fcinfo, UserIds users);
static uint64 admin_forget(FunctionCallInfo fcinfo, UserIds users);
static uint64 admin_link(FunctionCallInfo fcinfo, Links links);

/*
 * Begin an administration function: resolve the organization and check that
 * the caller may administer it.  All begin by locking the users.
 */
static AdminArgs
admin_begin_for_users(FunctionCallInfo fcinfo, UserIds users, ProgressCommand command)
{
	return admin_begin(fcinfo, users, ARG_TEXT(1), users.count >= MANY_USERS, command);
}

/*
 * The same for any order of arguments, and whether there is much to do.
 */
static AdminArgs
admin_begin(FunctionCallInfo fcinfo, UserIds users, text *organization,
			bool many, ProgressCommand command)
{
	AdminArgs	args;

	args.users = users;
	args.organization = organization_resolve(organization);
	args.command = command;
	authority_require_administer(args.organization);
	tables_prevent_if_read_only(fcinfo);
	/* enroll() and sign_in() write to this server's directory only */
	if (command != PROGRESS_ENROLL)
		admin_warn_of_subscription();
	args.reported = many;
	if (args.reported)
		progress_begin(command, PROGRESS_LOCKING_USERS, users.count);
	return args;
}

/*
 * Warn where the list comes from another server.  That one does not learn of what is
 * written here, and once it writes the same row, the subscription stops.
 */
static void
admin_warn_of_subscription(void)
{
	char	   *name = complete_subscription();

	if (name != NULL)
		ereport(WARNING,
				(errmsg("this server gets its opt-outs by subscription \"%s\"", name),
				 errdetail("The publisher does not learn of opt-outs that are changed here, and they can stop the subscription."),
				 errhint("Opt users out and in on the publisher.")));
}

/*
 * Go on to the next phase, with so many steps.
 */
static void
admin_phase(const AdminArgs *args, ProgressPhase phase, uint64 total)
{
	if (args->reported)
		progress_phase(phase, total);
}

/*
 * End an administration function.
 */
static void
admin_end(const AdminArgs *args)
{
	if (args->reported)
		progress_end();
}

/*
 * Raise an error naming the first user who is in neither of two subsets of the
 * users.  All sets are sorted, so one step through them side by side suffices.
 */
static void
admin_require_known(text *organization, const UserIds *users,
					const UserIds *enrolled, const UserIds *opted_out)
{
	int			e = 0;
	int			o = 0;

	for (int i = 0; i < users->count; i++)
	{
		bool		known = false;

		/* the subsets hold the very same datums */
		if (e < enrolled->count && enrolled->ids[e] == users->ids[i])
		{
			e++;
			known = true;
		}
		if (opted_out != NULL &&
			o < opted_out->count && opted_out->ids[o] == users->ids[i])
		{
			o++;
			known = true;
		}
		if (!known)
			directory_not_enrolled(organization, DatumGetTextPP(users->ids[i]));
	}
}

/*
 * Lock the aliases of the users, who are locked themselves.  They may be many where
 * the users are few.
 */
static Links
admin_lock_aliases(AdminArgs *args, const UserIds *users)
{
	Links		found = links_find(args->organization, users);
	UserIds		aliases;
	Links		locked;

	if (found.count == 0)
		return found;
	if (args->reported)
		progress_phase(PROGRESS_LOCKING_ALIASES, found.count);
	else if (found.count >= MANY_USERS)
	{
		progress_begin(args->command, PROGRESS_LOCKING_ALIASES, found.count);
		args->reported = true;
	}
	aliases = links_aliases(&found);
	aliases = links_lock(args->organization, &aliases);
	/* while we waited, one may have become somebody else's */
	locked = links_read(args->organization, &aliases);
	return links_in_both(&found, &locked);
}

/*
 * About how many periods these aliases have, if each has as many as the average
 * user.
 */
static uint64
admin_guess_copies(uint64 nperiods, int nusers, int naliases)
{
	return nusers == 0 ? 0 : (uint64) ((double) nperiods * naliases / nusers);
}

/*
 * optout.enroll(user_id, organization, display_name, email)
 */
Datum
optout_enroll(PG_FUNCTION_ARGS)
{
	AdminArgs	args = admin_begin_for_users(fcinfo, user_ids_from_text(ARG_TEXT(0)), PROGRESS_ENROLL);

	user_ids_warn_of_uuids(&args.users);
	directory_enroll(args.organization, &args.users, ARG_TEXT(2), ARG_TEXT(3), false);
	admin_end(&args);
	PG_RETURN_VOID();
}

/*
 * optout.enroll(user_ids, organization)
 */
Datum
optout_enroll_array(PG_FUNCTION_ARGS)
{
	AdminArgs	args = admin_begin_for_users(fcinfo, user_ids_from_array(ARG_ARRAY(0)), PROGRESS_ENROLL);

	user_ids_warn_of_uuids(&args.users);
	directory_enroll(args.organization, &args.users, NULL, NULL, false);
	admin_end(&args);
	PG_RETURN_VOID();
}

/*
 * optout.opt_out(user_id, organization, reason)
 */
Datum
optout_opt_out(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(admin_opt_out(fcinfo, user_ids_from_text(ARG_TEXT(0))) > 0);
}

/*
 * optout.opt_out(user_ids, organization, reason)
 */
Datum
optout_opt_out_array(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) admin_opt_out(fcinfo, user_ids_from_array(ARG_ARRAY(0))));
}

static uint64
admin_opt_out(FunctionCallInfo fcinfo, UserIds users)
{
	AdminArgs	args = admin_begin_for_users(fcinfo, users, PROGRESS_OPT_OUT);
	UserIds		enrolled = directory_lock(args.organization, &args.users);
	Links		links;
	uint64		count;

	links_refuse_aliases(args.organization, &args.users);
	admin_require_known(args.organization, &args.users, &enrolled, NULL);
	user_ids_warn_of_uuids(&args.users);
	links = admin_lock_aliases(&args, &args.users);
	admin_phase(&args, PROGRESS_WRITING_PERIODS, args.users.count);
	count = periods_open(args.organization, &args.users, ARG_TEXT(2));
	if (links.count > 0)
	{
		admin_phase(&args, PROGRESS_WRITING_PERIODS, links.count);
		links_copy_periods(args.organization, &links, true);
	}
	admin_end(&args);
	return count;
}

/*
 * optout.opt_in(user_id, organization, reason)
 */
Datum
optout_opt_in(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(admin_opt_in(fcinfo, user_ids_from_text(ARG_TEXT(0))) > 0);
}

/*
 * optout.opt_in(user_ids, organization, reason)
 */
Datum
optout_opt_in_array(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) admin_opt_in(fcinfo, user_ids_from_array(ARG_ARRAY(0))));
}

static uint64
admin_opt_in(FunctionCallInfo fcinfo, UserIds users)
{
	AdminArgs	args = admin_begin_for_users(fcinfo, users, PROGRESS_OPT_IN);
	UserIds		enrolled = directory_lock(args.organization, &args.users);
	UserIds		opted_out;
	Links		links;
	text	   *reason = PG_NARGS() > 2 ? ARG_TEXT(2) : NULL;	/* 1.1 had none */
	TimestampTz now;
	uint64		count;

	links_refuse_aliases(args.organization, &args.users);
	admin_phase(&args, PROGRESS_LOCKING_OPEN_PERIODS, args.users.count);
	opted_out = periods_lock_open(args.organization, &args.users);
	admin_require_known(args.organization, &args.users, &enrolled, &opted_out);
	links = admin_lock_aliases(&args, &opted_out);
	admin_phase(&args, PROGRESS_WRITING_PERIODS, opted_out.count);
	now = GetCurrentTimestamp();
	count = periods_close(args.organization, &opted_out, false, now, reason);
	if (links.count > 0)
	{
		UserIds		aliases = links_aliases(&links);

		admin_phase(&args, PROGRESS_WRITING_PERIODS, aliases.count);
		periods_close(args.organization, &aliases, true, now, reason);
	}
	admin_end(&args);
	return count;
}

/*
 * optout.forget(user_id, organization, force)
 */
Datum
optout_forget(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(admin_forget(fcinfo, user_ids_from_text(ARG_TEXT(0))) > 0);
}

/*
 * optout.forget(user_ids, organization, force)
 */
Datum
optout_forget_array(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) admin_forget(fcinfo, user_ids_from_array(ARG_ARRAY(0))));
}

/*
 * Of somebody who is not in the directory there may be nothing to lock, so others
 * can enroll and opt them out while we lock the next ones.  Nobody whom we have not
 * locked is to be erased.  So we go by a snapshot that shows what we have locked
 * and nothing else; if it shows more, we lock that as well.
 */
static uint64
admin_forget(FunctionCallInfo fcinfo, UserIds users)
{
	AdminArgs	args = admin_begin_for_users(fcinfo, users, PROGRESS_FORGET);
	bool		force = !PG_ARGISNULL(2) && PG_GETARG_BOOL(2);
	Forgotten	forgotten;
	Snapshot	snapshot;
	uint64		count;

	for (;;)
	{
		forgotten = admin_forget_lock(&args, force);
		snapshot = tables_snapshot();
		if (forgotten.nusers == (uint64) args.users.count ||
			admin_forget_count_rows(&args, snapshot) ==
			forgotten.nusers + forgotten.nperiods + forgotten.aliases.count)
			break;
		UnregisterSnapshot(snapshot);
		CHECK_FOR_INTERRUPTS();
		admin_phase(&args, PROGRESS_LOCKING_USERS, args.users.count);
	}
	count = admin_forget_delete(&args, &forgotten, snapshot);
	UnregisterSnapshot(snapshot);
	admin_end(&args);
	return count;
}

/*
 * Lock all rows of the users.  Raise an error if one is opted out, unless forced.
 */
static Forgotten
admin_forget_lock(AdminArgs *args, bool force)
{
	Forgotten	result;
	UserIds		opted_out;
	Links		links;

	result.nusers = directory_lock(args->organization, &args->users).count;
	links_refuse_aliases(args->organization, &args->users);
	admin_phase(args, PROGRESS_LOCKING_PERIODS, args->users.count);
	result.nperiods = periods_lock(args->organization, &args->users);
	admin_phase(args, PROGRESS_LOCKING_OPEN_PERIODS, args->users.count);
	opted_out = periods_lock_open(args->organization, &args->users);
	if (opted_out.count > 0 && !force)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("user \"%s\" of organization \"%s\" is opted out",
						ident_for_message(DatumGetTextPP(opted_out.ids[0])),
						ident_for_message(args->organization)),
				 errdetail("Once forgotten, the user's events would be accepted again."),
				 errhint("Opt the user in first, or pass force => true.")));
	links = admin_lock_aliases(args, &args->users);
	result.aliases = links_aliases(&links);
	return result;
}

/*
 * How many rows of the users the snapshot shows.
 */
static uint64
admin_forget_count_rows(const AdminArgs *args, Snapshot snapshot)
{
	Oid			argtypes[2] = {TEXTOID, TEXTARRAYOID};
	Datum		values[2];

	values[0] = PointerGetDatum(args->organization);
	values[1] = PointerGetDatum(user_ids_to_array(&args->users));
	return tables_select_count_under(psprintf("SELECT (SELECT count(*) FROM optout.product_user "
											  "WHERE organization = $1 AND user_id = ANY ($2))"
											  " + (SELECT count(*) FROM optout.opt_out_period "
											  "WHERE organization = $1 AND user_id = ANY ($2))%s",
											  tables_has_aliases() ?
											  " + (SELECT count(*) FROM optout.user_alias "
											  "WHERE organization = $1 AND user_id = ANY ($2))" : ""),
									 2, argtypes, values, NULL, snapshot);
}

/*
 * Delete the rows of the users that the snapshot shows, all of which are locked.
 * Returns of how many users there were any.
 */
static uint64
admin_forget_delete(const AdminArgs *args, const Forgotten *forgotten, Snapshot snapshot)
{
	Oid			argtypes[3] = {TEXTOID, TEXTARRAYOID, TEXTARRAYOID};
	Datum		values[3];
	bool		has_aliases = forgotten->aliases.count > 0;
	uint64		nperiods = forgotten->nperiods;

	nperiods += admin_guess_copies(nperiods, args->users.count, forgotten->aliases.count);
	values[0] = PointerGetDatum(args->organization);
	values[1] = PointerGetDatum(user_ids_to_array(&args->users));
	values[2] = PointerGetDatum(user_ids_to_array(&forgotten->aliases));
	admin_phase(args, PROGRESS_DELETING, nperiods);
	return tables_select_count_under(psprintf("WITH u AS ("
											  "DELETE FROM optout.product_user "
											  "WHERE organization = $1 AND user_id = ANY ($2) RETURNING user_id"
											  "), p AS ("
											  "DELETE FROM optout.opt_out_period "
											  "WHERE organization = $1 AND user_id = ANY ($2) RETURNING user_id"
											  ")%s SELECT count(*) FROM "
											  "(SELECT user_id FROM u UNION SELECT user_id FROM p%s) AS forgotten",
											  has_aliases ? ", a AS ("
											  "DELETE FROM optout.user_alias "
											  "WHERE organization = $1 AND alias = ANY ($3) RETURNING user_id"
											  "), c AS ("
											  "DELETE FROM optout.opt_out_period "
											  "WHERE organization = $1 AND user_id = ANY ($3) AND alias_of IS NOT NULL"
											  ")" : "",
											  has_aliases ? " UNION SELECT user_id FROM a" : ""),
									 has_aliases ? 3 : 2, argtypes, values, NULL, snapshot);
}

/*
 * optout.link(user_id, aliases, organization, reason)
 */
Datum
optout_link(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) admin_link(fcinfo, links_from_user(ARG_TEXT(0), ARG_ARRAY(1))));
}

/*
 * optout.link(user_ids, aliases, organization, reason)
 */
Datum
optout_link_array(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) admin_link(fcinfo, links_from_arrays(ARG_ARRAY(0), ARG_ARRAY(1))));
}

static uint64
admin_link(FunctionCallInfo fcinfo, Links links)
{
	AdminArgs	args = admin_begin(fcinfo, links_users(&links), ARG_TEXT(2),
								   links.count >= MANY_USERS, PROGRESS_LINK);
	UserIds		enrolled = directory_lock(args.organization, &args.users);
	UserIds		opted_out;
	UserIds		aliases;
	Links		new;
	uint64		nperiods;

	links_refuse_aliases(args.organization, &args.users);
	admin_phase(&args, PROGRESS_LOCKING_PERIODS, args.users.count);
	nperiods = periods_lock(args.organization, &args.users);
	admin_phase(&args, PROGRESS_LOCKING_OPEN_PERIODS, args.users.count);
	opted_out = periods_lock_open(args.organization, &args.users);
	admin_require_known(args.organization, &args.users, &enrolled, &opted_out);

	new = links_missing(args.organization, &links);
	if (new.count > 0)
	{
		aliases = links_aliases(&new);
		user_ids_warn_of_uuids(&aliases);
		admin_phase(&args, PROGRESS_WRITING_ALIASES, new.count);
		links_write(args.organization, &new, ARG_TEXT(3));
		admin_phase(&args, PROGRESS_CHECKING_ALIASES, new.count);
		links_refuse_persons(args.organization, &aliases);
		if (nperiods > 0)
		{
			admin_phase(&args, PROGRESS_WRITING_PERIODS,
						admin_guess_copies(nperiods, args.users.count, new.count));
			links_copy_periods(args.organization, &new, false);
		}
	}
	admin_end(&args);
	return new.count;
}

/*
 * Lock these users, their periods, and the aliases, and read whose these are by
 * then: links, and their users in args.  If others are among the users, nothing
 * stays locked, for locks go with a subtransaction, and this is false.
 */
static bool
admin_lock_links(AdminArgs *args, const UserIds *users, const UserIds *aliases,
				 Links *links, uint64 *nperiods)
{
	Subxact		subxact = subxact_begin();
	UserIds		locked;
	bool		done;

	MemoryContextSwitchTo(subxact.context);
	PG_TRY();
	{
		admin_phase(args, PROGRESS_LOCKING_USERS, users->count);
		(void) directory_lock(args->organization, users);
		admin_phase(args, PROGRESS_LOCKING_PERIODS, users->count);
		*nperiods = periods_lock(args->organization, users);
		admin_phase(args, PROGRESS_LOCKING_ALIASES, aliases->count);
		locked = links_lock(args->organization, aliases);
		*links = links_read(args->organization, &locked);
		args->users = links_users(links);
	}
	PG_CATCH();
	{
		ReThrowError(subxact_catch(&subxact));
	}
	PG_END_TRY();

	done = user_ids_include(users, &args->users);
	subxact_end(&subxact, done);
	/* to roll back has ended what is shown of it, too */
	if (!done && args->reported)
		progress_begin(args->command, PROGRESS_LOCKING_USERS, args->users.count);
	return done;
}

/*
 * optout.unlink(aliases, organization, force)
 */
Datum
optout_unlink(PG_FUNCTION_ARGS)
{
	int			count;
	Datum	   *ids = idents_from_array("aliases", "alias", ARG_ARRAY(0), &count);
	UserIds		aliases = user_ids_from_datums(ids, count);
	bool		force = !PG_ARGISNULL(2) && PG_GETARG_BOOL(2);
	AdminArgs	args = admin_begin(fcinfo, aliases, ARG_TEXT(1),
								   aliases.count >= MANY_USERS, PROGRESS_UNLINK);
	Links		links = links_read(args.organization, &aliases);
	UserIds		owners = links_users(&links);
	uint64		nperiods;
	uint64		deleted = 0;

	/*
	 * Lock the users and then the aliases.  While we wait, an alias may be
	 * given to another user, who is to be locked before it.  So then begin
	 * again without any of these locks.
	 */
	while (!admin_lock_links(&args, &owners, &aliases, &links, &nperiods))
		owners = args.users;

	if (!force)
		links_refuse_opted_out(args.organization, &links);
	if (links.count > 0)
	{
		UserIds		locked = links_aliases(&links);

		admin_phase(&args, PROGRESS_DELETING, admin_guess_copies(nperiods, owners.count, locked.count));
		deleted = links_delete(args.organization, &locked);
	}
	admin_end(&args);
	PG_RETURN_INT64((int64) deleted);
}

/*
 * optout.sign_in(user_id, organization, display_name, email)
 *
 * The answer cannot be overtaken by an opt-out that commits before us: the
 * user's row is locked by now.
 */
Datum
optout_sign_in(PG_FUNCTION_ARGS)
{
	AdminArgs	args = admin_begin_for_users(fcinfo, user_ids_from_text(ARG_TEXT(0)), PROGRESS_ENROLL);

	complete_check();
	user_ids_warn_of_uuids(&args.users);
	directory_enroll(args.organization, &args.users, ARG_TEXT(2), ARG_TEXT(3), true);
	admin_end(&args);
	PG_RETURN_BOOL(!periods_cover(args.organization,
								  DatumGetTextPP(args.users.ids[0]), NULL));
}

/*
 * The same functions in the SQL of 1.2.
 */
Datum
optout_opt_out_1_2(PG_FUNCTION_ARGS)
{
	return optout_opt_out(fcinfo);
}

Datum
optout_opt_out_array_1_2(PG_FUNCTION_ARGS)
{
	return optout_opt_out_array(fcinfo);
}

Datum
optout_opt_in_1_2(PG_FUNCTION_ARGS)
{
	return optout_opt_in(fcinfo);
}

Datum
optout_opt_in_array_1_2(PG_FUNCTION_ARGS)
{
	return optout_opt_in_array(fcinfo);
}

Datum
optout_forget_1_2(PG_FUNCTION_ARGS)
{
	return optout_forget(fcinfo);
}

Datum
optout_forget_array_1_2(PG_FUNCTION_ARGS)
{
	return optout_forget_array(fcinfo);
}
