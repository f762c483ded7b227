/*
 * directory.c
 *		The directory of users, optout.product_user.
 *
 * The administration functions lock a user's row, so that only one of them
 * acts on the user at a time; see periods.c.  A site may write to the table
 * directly: that takes the same row locks.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "directory.h"
#include "lock.h"
#include "progress.h"
#include "tables.h"

/*
 * Lock the rows of those users whom the directory holds, in order of their
 * ids, and return these users.
 */
UserIds
directory_lock(text *organization, const UserIds *users)
{
	return lock_users("product_user", "product_user_pkey", organization, users, LockTupleNoKeyExclusive, NULL);
}

/*
 * Add users, or update those whom the directory holds: a display name or mail
 * address that is NULL stays what it was.  With signed_in, stamp the time.
 */
void
directory_enroll(text *organization, const UserIds *users,
				 text *display_name, text *email, bool signed_in)
{
	Oid			argtypes[6] = {TEXTOID, TEXTARRAYOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, BOOLOID};
	Datum		values[6];
	char		nulls[6] = {' ', ' ', ' ', ' ', ' ', ' '};

	/*
	 * The locks make the clock be read after whoever acts on these users has
	 * ended, and spare a REPEATABLE READ transaction the serialization
	 * failure that ON CONFLICT would raise for a row changed since our
	 * snapshot.  (A user who is just being enrolled by somebody else may
	 * still raise one.)
	 */
	(void) directory_lock(organization, users);
	if (users->count >= MANY_USERS)
		progress_phase(PROGRESS_WRITING_USERS, users->count);

	values[0] = PointerGetDatum(organization);
	values[1] = PointerGetDatum(user_ids_to_array(users));
	values[2] = PointerGetDatum(display_name);
	values[3] = PointerGetDatum(email);
	values[4] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[5] = BoolGetDatum(signed_in);
	if (display_name == NULL)
		nulls[2] = 'n';
	if (email == NULL)
		nulls[3] = 'n';

	/* an update that changes nothing is left out */
	tables_execute("INSERT INTO optout.product_user AS o "
				   "(organization, user_id, display_name, email, enrolled_at, signed_in_at) "
				   "SELECT $1, u.user_id, $3, $4, $5, CASE WHEN $6 THEN $5 END "
				   "FROM unnest($2) AS u (user_id) "
				   "ON CONFLICT (organization, user_id) DO UPDATE SET "
				   "display_name = COALESCE(EXCLUDED.display_name, o.display_name), "
				   "email = COALESCE(EXCLUDED.email, o.email), "
				   "signed_in_at = COALESCE(EXCLUDED.signed_in_at, o.signed_in_at) "
				   "WHERE $6 OR $3 IS NOT NULL OR $4 IS NOT NULL",
				   6, argtypes, values, nulls);
}

/*
 * Raise the error (42704) for a user whom the directory does not hold.
 */
void
directory_not_enrolled(text *organization, text *user_id)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("user \"%s\" is not enrolled in organization \"%s\"",
					ident_for_message(user_id), ident_for_message(organization)),
			 errhint("Check the id, or add the user with optout.enroll().")));
}
