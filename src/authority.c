/*
 * authority.c
 *		Who may do what.
 *
 * Superusers and the owner of the extension may do everything.  Everybody else
 * needs a row of optout.authority for the organization (or for '*'), held by a
 * role whose privileges the effective caller has.  The row is looked up under
 * the latest snapshot, so that a revoked authority is gone at once.
 *
 * PUBLIC cannot execute the functions of an administrator.  Whoever may
 * administer some organization is granted EXECUTE on them here; this also makes
 * DROP ROLE refuse a role that still has authority.  The functions themselves
 * then check for which organization.
 *
 * What the views show is decided by the same rows, in SQL (view
 * optout.readable_organization).
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/syscache.h"

#include "ident.h"
#include "authority.h"
#include "tables.h"

/* columns of optout.authority */
#define Anum_authority_organization 1
#define Anum_authority_role 2
#define Anum_authority_privilege 3

#define PRIVILEGE_ADMINISTER "administer"
#define PRIVILEGE_READ "read"

/* what the privilege 'administer' lets a role execute, in any version's SQL */
static const char *const administrator_routines[] = {
	"optout.enroll(text, text, text, text)", "optout.enroll(text[], text)",
	"optout.opt_out(text, text, text)", "optout.opt_out(text[], text, text)",
	"optout.opt_in(text, text)", "optout.opt_in(text[], text)",
	"optout.opt_in(text, text, text)", "optout.opt_in(text[], text, text)",
	"optout.forget(text, text, boolean)", "optout.forget(text[], text, boolean)",
	"optout.link(text, text[], text, text)", "optout.link(text[], text[], text, text)",
	"optout.unlink(text[], text, boolean)",
	"optout.sign_in(text, text, text, text)",
	"optout.purge(text[], text, boolean)",
	"optout.settle()", "optout.settle(interval)"
};

PG_FUNCTION_INFO_V1(optout_grant_authority);
PG_FUNCTION_INFO_V1(optout_revoke_authority);

/* one row of optout.authority as the SQL functions name it */
typedef struct Authority
{
	Oid			role;
	text	   *organization;
	text	   *privilege;
	bool		administer;		/* which privilege that is */
} Authority;

static void authority_require(text *organization, bool reading);
static bool authority_find(text *organization, bool reading);
static bool authority_text_is(text *value, const char *s);
static Authority authority_args(FunctionCallInfo fcinfo);
static char *authority_existing_routines(void);
static void authority_execute_as_no_script(const char *command);

/*
 * Raise an error (42501) unless the effective caller may administer the
 * organization, or may read it.  To be called before anything about its users is
 * looked at.
 */
void
authority_require_administer(text *organization)
{
	authority_require(organization, false);
}

void
authority_require_read(text *organization)
{
	authority_require(organization, true);
}

static void
authority_require(text *organization, bool reading)
{
	/*
	 * Invalidations are processed when a lock is taken.  We may take none, so
	 * accept them here; otherwise a revoked membership could go unnoticed.
	 */
	AcceptInvalidationMessages();

	if (has_privs_of_role(GetUserId(), tables_owner()) ||
		authority_find(organization, reading))
		return;

	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for organization \"%s\"",
					ident_for_message(organization)),
			 errhint("The owner of the extension can give it with optout.grant_authority().")));
}

/*
 * Whether there is a row that lets the caller administer the organization, or
 * read it, which whoever administers it may do as well.
 */
static bool
authority_find(text *organization, bool reading)
{
	Relation	rel = tables_open("authority", AccessShareLock);
	Oid			index = tables_index(rel, "authority_pkey");
	text	   *names[2];
	bool		found = false;

	names[0] = organization;
	names[1] = cstring_to_text(EVERY_ORGANIZATION);

	for (int i = 0; i < (int) lengthof(names) && !found; i++)
	{
		ScanKeyData key;
		TablesScan	scan;
		HeapTuple	tuple;

		tables_key(&key, Anum_authority_organization, names[i]);
		tables_beginscan(&scan, rel, index, 1, &key);
		while (!found && HeapTupleIsValid(tuple = tables_getnext(&scan)))
		{
			bool		isnull;
			Datum		role = heap_getattr(tuple, Anum_authority_role,
											RelationGetDescr(rel), &isnull);
			Datum		privilege = heap_getattr(tuple, Anum_authority_privilege,
												 RelationGetDescr(rel), &isnull);

			found = (reading || authority_text_is(DatumGetTextPP(privilege), PRIVILEGE_ADMINISTER)) &&
				has_privs_of_role(GetUserId(), DatumGetObjectId(role));
		}
		tables_endscan(&scan);
	}

	table_close(rel, AccessShareLock);
	return found;
}

static bool
authority_text_is(text *value, const char *s)
{
	return VARSIZE_ANY_EXHDR(value) == strlen(s) &&
		memcmp(VARDATA_ANY(value), s, strlen(s)) == 0;
}

/*
 * Check who calls and what is to be granted or revoked.  Then keep others from
 * doing the same until we commit: two GRANTs on one function at a time fail.
 */
static Authority
authority_args(FunctionCallInfo fcinfo)
{
	Authority	auth;

	if (!has_privs_of_role(GetUserId(), tables_owner()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser or owner of extension \"%s\" to grant or revoke authority",
						"optout")));

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("role must not be null")));
	auth.role = PG_GETARG_OID(0);
	auth.organization = organization_or_every(PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1));
	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("privilege must not be null")));
	auth.privilege = PG_GETARG_TEXT_PP(2);
	auth.administer = authority_text_is(auth.privilege, PRIVILEGE_ADMINISTER);
	if (!auth.administer && !authority_text_is(auth.privilege, PRIVILEGE_READ))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unrecognized privilege \"%s\"", ident_for_message(auth.privilege)),
				 errhint("Privileges are \"%s\" and \"%s\".",
						 PRIVILEGE_ADMINISTER, PRIVILEGE_READ)));

	tables_prevent_if_read_only(fcinfo);
	table_close(tables_open("authority", ShareRowExclusiveLock), NoLock);
	return auth;
}

/*
 * Those of an administrator's routines that there are; until ALTER EXTENSION UPDATE
 * they are an older version's.
 */
static char *
authority_existing_routines(void)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < (int) lengthof(administrator_routines); i++)
	{
		LOCAL_FCINFO(fcinfo, 1);

		InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL, NULL);
		fcinfo->args[0].value = CStringGetTextDatum(administrator_routines[i]);
		fcinfo->args[0].isnull = false;
		(void) to_regprocedure(fcinfo);
		if (!fcinfo->isnull)
			appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "", administrator_routines[i]);
	}
	return list.data;
}

/*
 * The upgrade script calls us, too, so that administrators get EXECUTE on what is
 * new.  What a script grants counts as what the extension itself comes with, which
 * no dump repeats; but these are grants of the site's.
 */
static void
authority_execute_as_no_script(const char *command)
{
	bool		in_script = creating_extension;

	/* an error ends the script, which resets it */
	creating_extension = false;
	tables_execute(command, 0, NULL, NULL, NULL);
	creating_extension = in_script;
}

/*
 * optout.grant_authority(role, organization, privilege)
 */
Datum
optout_grant_authority(PG_FUNCTION_ARGS)
{
	Authority	auth = authority_args(fcinfo);
	Oid			argtypes[3] = {REGROLEOID, TEXTOID, TEXTOID};
	Datum		values[3];

	/* a role given by number need not exist */
	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(auth.role)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role with OID %u does not exist", auth.role)));

	values[0] = ObjectIdGetDatum(auth.role);
	values[1] = PointerGetDatum(auth.organization);
	values[2] = PointerGetDatum(auth.privilege);
	tables_execute("INSERT INTO optout.authority (role, organization, privilege) "
				   "VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
				   3, argtypes, values, NULL);
	if (auth.administer)
		authority_execute_as_no_script(psprintf("GRANT EXECUTE ON ROUTINE %s TO %s",
												authority_existing_routines(),
												quote_identifier(GetUserNameFromId(auth.role, false))));
	PG_RETURN_VOID();
}

/*
 * optout.revoke_authority(role, organization, privilege)
 *
 * A role that has been dropped may still be given, by number.
 */
Datum
optout_revoke_authority(PG_FUNCTION_ARGS)
{
	Authority	auth = authority_args(fcinfo);
	Oid			argtypes[3] = {REGROLEOID, TEXTOID, TEXTOID};
	Datum		values[3];
	char	   *rolename = GetUserNameFromId(auth.role, true);

	values[0] = ObjectIdGetDatum(auth.role);
	values[1] = PointerGetDatum(auth.organization);
	values[2] = PointerGetDatum(auth.privilege);
	if (tables_execute("DELETE FROM optout.authority "
					   "WHERE role = $1 AND organization = $2 AND privilege = $3",
					   3, argtypes, values, NULL) == 0)
		ereport(WARNING,
				(errmsg("role \"%s\" does not have privilege \"%s\" for organization \"%s\"",
						rolename ? rolename : psprintf("%u", auth.role),
						ident_for_message(auth.privilege),
						ident_for_message(auth.organization))));
	/* the owner may execute them in any case */
	else if (auth.administer && rolename != NULL && auth.role != tables_owner() &&
			 tables_select_count("SELECT count(*) FROM optout.authority "
								 "WHERE role = $1 AND privilege = '" PRIVILEGE_ADMINISTER "'",
								 1, argtypes, values, NULL) == 0)
		authority_execute_as_no_script(psprintf("REVOKE EXECUTE ON ROUTINE %s FROM %s",
												authority_existing_routines(),
												quote_identifier(rolename)));
	PG_RETURN_VOID();
}
