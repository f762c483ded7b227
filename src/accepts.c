/*
 * accepts.c
 *		The filter functions: accepts() and is_opted_out().
 *
 * Both ask the same question of the state table (periods.c); accepts() answers
 * whether an event may be stored, is_opted_out() whether its user is opted out.
 * They check no authority: EXECUTE on them is the right to ask about anybody.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/timestamp.h"

#include "accepts.h"
#include "coverage.h"
#include "filter.h"
#include "ident.h"
#include "memo.h"
#include "periods.h"

PG_FUNCTION_INFO_V1(optout_accepts_text);
PG_FUNCTION_INFO_V1(optout_accepts_uuid);
PG_FUNCTION_INFO_V1(optout_accepts_bigint);
PG_FUNCTION_INFO_V1(optout_is_opted_out_text);
PG_FUNCTION_INFO_V1(optout_is_opted_out_uuid);
PG_FUNCTION_INFO_V1(optout_is_opted_out_bigint);

static bool is_opted_out(FunctionCallInfo fcinfo, Oid type);

/*
 * Whether the user is opted out now or was at the given time (if not NULL).
 */
bool
accepts_covered(text *organization, text *user_id, const TimestampTz *occurred_at)
{
	Coverage	covered = coverage();
	UserKey		key;

	if (unlikely(covered == COVERAGE_UNKNOWN))
	{
		filter_lookups[LOOKUP_TABLE]++;
		return periods_cover(organization, user_id, occurred_at);
	}

	key = filter_key(organization, user_id);
	if (likely(covered == COVERAGE_FULL) && !filter_maybe_contains(&key))
	{
		filter_lookups[LOOKUP_FILTER]++;
		return false;
	}
	return memo_covers(&key, organization, user_id, occurred_at);
}

/*
 * Arguments: user id of the given type, organisation, time; any may be NULL.
 * An event that names no user is nobody's.
 */
static bool
is_opted_out(FunctionCallInfo fcinfo, Oid type)
{
	text	   *organization;
	TimestampTz occurred_at = 0;

	/* checked first, so that an impossible organisation never goes unnoticed */
	organization = organization_resolve(PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1));
	if (PG_ARGISNULL(0))
		return false;
	if (!PG_ARGISNULL(2))
		occurred_at = PG_GETARG_TIMESTAMPTZ(2);

	return accepts_covered(organization,
						   ident_from_datum(type, PG_GETARG_DATUM(0)),
						   PG_ARGISNULL(2) ? NULL : &occurred_at);
}

/*
 * optout.accepts(user_id, organization, occurred_at)
 */
Datum
optout_accepts_text(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(!is_opted_out(fcinfo, TEXTOID));
}

Datum
optout_accepts_uuid(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(!is_opted_out(fcinfo, UUIDOID));
}

Datum
optout_accepts_bigint(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(!is_opted_out(fcinfo, INT8OID));
}

/*
 * optout.is_opted_out(user_id, organization, at)
 */
Datum
optout_is_opted_out_text(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(is_opted_out(fcinfo, TEXTOID));
}

Datum
optout_is_opted_out_uuid(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(is_opted_out(fcinfo, UUIDOID));
}

Datum
optout_is_opted_out_bigint(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(is_opted_out(fcinfo, INT8OID));
}
