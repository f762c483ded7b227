/*
 * accepts.c
 *		The filter functions: accepts() and is_opted_out().
 *
 * Both ask the same question of the state table (periods.c); accepts() answers
 * whether an event may be stored, is_opted_out() whether its user is opted out.
 * Only the former is about an event: it counts what it discards, and settle()
 * waits for it.
 * They check no authority: EXECUTE on them is the right to ask about anybody.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/timestamp.h"

#include "accepts.h"
#include "cache.h"
#include "coverage.h"
#include "filter.h"
#include "ident.h"
#include "ledger.h"
#include "memo.h"
#include "periods.h"
#include "settle.h"

PG_FUNCTION_INFO_V1(optout_accepts_text);
PG_FUNCTION_INFO_V1(optout_accepts_uuid);
PG_FUNCTION_INFO_V1(optout_accepts_bigint);
PG_FUNCTION_INFO_V1(optout_is_opted_out_text);
PG_FUNCTION_INFO_V1(optout_is_opted_out_uuid);
PG_FUNCTION_INFO_V1(optout_is_opted_out_bigint);

typedef bool (*Question) (text *organization, text *user_id, const TimestampTz *occurred_at);

static inline bool ask(FunctionCallInfo fcinfo, Oid type, Question question, bool nobody);

/*
 * Whether the user is opted out now or was at the given time (if not NULL).
 */
bool
is_opted_out(text *organization, text *user_id, const TimestampTz *occurred_at)
{
	Coverage	covered = coverage();
	UserKey		key;
	bool		cached = false;
	bool		opted_out;

	if (unlikely(covered == COVERAGE_UNKNOWN))
	{
		filter_lookups[LOOKUP_TABLE]++;
		return periods_cover(organization, user_id, occurred_at);
	}

	key = filter_key(organization, user_id);
	if (likely(covered == COVERAGE_FULL))
	{
		if (likely(!filter_maybe_contains(&key)))
		{
			filter_lookups[LOOKUP_FILTER]++;
			return false;
		}
		/* of who is not opted out now, the cache does not know the past */
		cached = cache_find(&key, &opted_out);
		if (cached && (opted_out || occurred_at == NULL))
		{
			filter_lookups[LOOKUP_CACHE]++;
			return opted_out;
		}
	}
	return memo_covers(&key, organization, user_id, occurred_at,
					   covered == COVERAGE_FULL && !cached);
}

/*
 * Whether an event of the user may be stored.  If not, it counts as discarded.
 */
bool
accepts_event(text *organization, text *user_id, const TimestampTz *occurred_at)
{
	settle_register();
	if (likely(!is_opted_out(organization, user_id, occurred_at)))
		return true;
	ledger_count(organization);
	return false;
}

/*
 * The same for an event that names several users: all of them decide, and it
 * counts once.
 */
bool
accepts_event_of_all(text *organization, text **user_ids, int nuser_ids, const TimestampTz *occurred_at)
{
	settle_register();
	for (int i = 0; i < nuser_ids; i++)
	{
		if (unlikely(is_opted_out(organization, user_ids[i], occurred_at)))
		{
			ledger_count(organization);
			return false;
		}
	}
	return true;
}

/*
 * Ask one of these two, as an SQL function.  Arguments: user id of the given
 * type, organisation, time; any may be NULL.  An event that names no user is
 * nobody's.
 */
static inline bool
ask(FunctionCallInfo fcinfo, Oid type, Question question, bool nobody)
{
	text	   *organization;
	TimestampTz occurred_at = 0;

	/* checked first, so that an impossible organisation never goes unnoticed */
	organization = organization_resolve(PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1));
	if (PG_ARGISNULL(0))
		return nobody;
	if (!PG_ARGISNULL(2))
		occurred_at = PG_GETARG_TIMESTAMPTZ(2);

	return question(organization,
					type == TEXTOID ? PG_GETARG_TEXT_PP(0) :
					ident_from_datum(type, PG_GETARG_DATUM(0)),
					PG_ARGISNULL(2) ? NULL : &occurred_at);
}

/*
 * optout.accepts(user_id, organization, occurred_at)
 */
Datum
optout_accepts_text(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(ask(fcinfo, TEXTOID, accepts_event, true));
}

Datum
optout_accepts_uuid(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(ask(fcinfo, UUIDOID, accepts_event, true));
}

Datum
optout_accepts_bigint(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(ask(fcinfo, INT8OID, accepts_event, true));
}

/*
 * optout.is_opted_out(user_id, organization, at)
 */
Datum
optout_is_opted_out_text(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(ask(fcinfo, TEXTOID, is_opted_out, false));
}

Datum
optout_is_opted_out_uuid(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(ask(fcinfo, UUIDOID, is_opted_out, false));
}

Datum
optout_is_opted_out_bigint(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(ask(fcinfo, INT8OID, is_opted_out, false));
}
