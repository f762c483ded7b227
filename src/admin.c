/*
 * admin.c
 *		The administration functions: enroll, opt_out, opt_in, forget, sign_in.
 *
 * Each checks its arguments and then the effective caller's authority before
 * it looks at any user, so that whoever has none learns nothing, not even from
 * how long it takes.  Arguments that name several users are acted on all or
 * none, simply by raising an error.  For the locking see periods.c.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"

#include "authority.h"
#include "complete.h"
#include "directory.h"
#include "ident.h"
#include "periods.h"
#include "progress.h"
#include "state.h"

PG_FUNCTION_INFO_V1(optout_enroll);
PG_FUNCTION_INFO_V1(optout_enroll_array);
PG_FUNCTION_INFO_V1(optout_opt_out);
PG_FUNCTION_INFO_V1(optout_opt_out_array);
PG_FUNCTION_INFO_V1(optout_opt_in);
PG_FUNCTION_INFO_V1(optout_opt_in_array);
PG_FUNCTION_INFO_V1(optout_forget);
PG_FUNCTION_INFO_V1(optout_forget_array);
PG_FUNCTION_INFO_V1(optout_sign_in);

/* an argument that may be NULL */
#define ARG_TEXT(n) (PG_ARGISNULL(n) ? NULL : PG_GETARG_TEXT_PP(n))
#define ARG_ARRAY(n) (PG_ARGISNULL(n) ? NULL : PG_GETARG_ARRAYTYPE_P(n))

/* the arguments every function here starts with: whom, in which organisation */
typedef struct AdminArgs
{
	UserIds		users;
	text	   *organization;
	bool		reported;		/* they are many, so progress is shown */
} AdminArgs;

static AdminArgs get_admin_args(FunctionCallInfo fcinfo, UserIds users,
								ProgressCommand command);
static void phase(const AdminArgs *args, ProgressPhase phase, uint64 total);
static void end_command(const AdminArgs *args);
static void require_known(text *organization, const UserIds *users,
						  const UserIds *enrolled, const UserIds *opted_out);
static uint64 opt_out(FunctionCallInfo fcinfo, UserIds users);
static uint64 opt_in(FunctionCallInfo fcinfo, UserIds users);
static uint64 forget(FunctionCallInfo fcinfo, UserIds users);

/*
 * Begin an administration function: resolve the organisation and check that
 * the caller may administer it.  All begin by locking the users.
 */
static AdminArgs
get_admin_args(FunctionCallInfo fcinfo, UserIds users, ProgressCommand command)
{
	AdminArgs	args;

	args.users = users;
	args.organization = organization_resolve(ARG_TEXT(1));
	authority_require_administer(args.organization);
	state_prevent_if_read_only(fcinfo);
	args.reported = users.count >= MANY_USERS;
	if (args.reported)
		progress_begin(command, PROGRESS_LOCKING_USERS, users.count);
	return args;
}

/*
 * Go on to the next phase, with so many steps.
 */
static void
phase(const AdminArgs *args, ProgressPhase phase, uint64 total)
{
	if (args->reported)
		progress_phase(phase, total);
}

/*
 * End an administration function.
 */
static void
end_command(const AdminArgs *args)
{
	if (args->reported)
		progress_end();
}

/*
 * Raise an error naming the first user who is in neither of two subsets of the
 * users.  All sets are sorted, so one step through them side by side suffices.
 */
static void
require_known(text *organization, const UserIds *users,
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
 * optout.enroll(user_id, organization, display_name, email)
 */
Datum
optout_enroll(PG_FUNCTION_ARGS)
{
	AdminArgs	args = get_admin_args(fcinfo, user_ids_from_text(ARG_TEXT(0)), PROGRESS_ENROLL);

	user_ids_warn_of_uuids(&args.users);
	directory_enroll(args.organization, &args.users, ARG_TEXT(2), ARG_TEXT(3), false);
	end_command(&args);
	PG_RETURN_VOID();
}

/*
 * optout.enroll(user_ids, organization)
 */
Datum
optout_enroll_array(PG_FUNCTION_ARGS)
{
	AdminArgs	args = get_admin_args(fcinfo, user_ids_from_array(ARG_ARRAY(0)), PROGRESS_ENROLL);

	user_ids_warn_of_uuids(&args.users);
	directory_enroll(args.organization, &args.users, NULL, NULL, false);
	end_command(&args);
	PG_RETURN_VOID();
}

/*
 * optout.opt_out(user_id, organization, reason)
 */
Datum
optout_opt_out(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(opt_out(fcinfo, user_ids_from_text(ARG_TEXT(0))) > 0);
}

/*
 * optout.opt_out(user_ids, organization, reason)
 */
Datum
optout_opt_out_array(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) opt_out(fcinfo, user_ids_from_array(ARG_ARRAY(0))));
}

static uint64
opt_out(FunctionCallInfo fcinfo, UserIds users)
{
	AdminArgs	args = get_admin_args(fcinfo, users, PROGRESS_OPT_OUT);
	UserIds		enrolled = directory_lock(args.organization, &args.users);
	uint64		count;

	require_known(args.organization, &args.users, &enrolled, NULL);
	user_ids_warn_of_uuids(&args.users);
	phase(&args, PROGRESS_WRITING_PERIODS, args.users.count);
	count = periods_open(args.organization, &args.users, ARG_TEXT(2));
	end_command(&args);
	return count;
}

/*
 * optout.opt_in(user_id, organization)
 */
Datum
optout_opt_in(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(opt_in(fcinfo, user_ids_from_text(ARG_TEXT(0))) > 0);
}

/*
 * optout.opt_in(user_ids, organization)
 */
Datum
optout_opt_in_array(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) opt_in(fcinfo, user_ids_from_array(ARG_ARRAY(0))));
}

static uint64
opt_in(FunctionCallInfo fcinfo, UserIds users)
{
	AdminArgs	args = get_admin_args(fcinfo, users, PROGRESS_OPT_IN);
	UserIds		enrolled = directory_lock(args.organization, &args.users);
	UserIds		opted_out;
	uint64		count;

	phase(&args, PROGRESS_LOCKING_OPEN_PERIODS, args.users.count);
	opted_out = periods_lock_open(args.organization, &args.users);
	require_known(args.organization, &args.users, &enrolled, &opted_out);
	phase(&args, PROGRESS_WRITING_PERIODS, opted_out.count);
	count = periods_close(args.organization, &opted_out);
	end_command(&args);
	return count;
}

/*
 * optout.forget(user_id, organization, force)
 */
Datum
optout_forget(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(forget(fcinfo, user_ids_from_text(ARG_TEXT(0))) > 0);
}

/*
 * optout.forget(user_ids, organization, force)
 */
Datum
optout_forget_array(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) forget(fcinfo, user_ids_from_array(ARG_ARRAY(0))));
}

static uint64
forget(FunctionCallInfo fcinfo, UserIds users)
{
	AdminArgs	args = get_admin_args(fcinfo, users, PROGRESS_FORGET);
	bool		force = !PG_ARGISNULL(2) && PG_GETARG_BOOL(2);
	Oid			argtypes[2] = {TEXTOID, TEXTARRAYOID};
	Datum		values[2];
	UserIds		opted_out;
	uint64		nperiods;
	uint64		count;

	(void) directory_lock(args.organization, &args.users);
	phase(&args, PROGRESS_LOCKING_PERIODS, args.users.count);
	nperiods = periods_lock(args.organization, &args.users);
	phase(&args, PROGRESS_LOCKING_OPEN_PERIODS, args.users.count);
	opted_out = periods_lock_open(args.organization, &args.users);
	if (opted_out.count > 0 && !force)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("user \"%s\" of organization \"%s\" is opted out",
						ident_for_message(DatumGetTextPP(opted_out.ids[0])),
						ident_for_message(args.organization)),
				 errdetail("Once forgotten, the user's events would be accepted again."),
				 errhint("Opt the user in first, or pass force => true.")));

	values[0] = PointerGetDatum(args.organization);
	values[1] = PointerGetDatum(user_ids_to_array(&args.users));
	phase(&args, PROGRESS_DELETING, nperiods);
	count = state_select_count("WITH u AS ("
							   "DELETE FROM optout.product_user "
							   "WHERE organization = $1 AND user_id = ANY ($2) RETURNING user_id"
							   "), p AS ("
							   "DELETE FROM optout.opt_out_period "
							   "WHERE organization = $1 AND user_id = ANY ($2) RETURNING user_id"
							   ") SELECT count(*) FROM "
							   "(SELECT user_id FROM u UNION SELECT user_id FROM p) AS forgotten",
							   2, argtypes, values, NULL);
	end_command(&args);
	return count;
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
	AdminArgs	args = get_admin_args(fcinfo, user_ids_from_text(ARG_TEXT(0)), PROGRESS_ENROLL);

	complete_check();
	user_ids_warn_of_uuids(&args.users);
	directory_enroll(args.organization, &args.users, ARG_TEXT(2), ARG_TEXT(3), true);
	end_command(&args);
	PG_RETURN_BOOL(!periods_cover(args.organization,
								  DatumGetTextPP(args.users.ids[0]), NULL));
}
