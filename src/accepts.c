/*
 * accepts.c
 *		The filter functions: accepts() and is_opted_out().
 *
 * Both ask the same question of the state table (periods.c); accepts() answers
 * whether an event may be stored, is_opted_out() whether its user is opted out.
 * Only the former is about an event: it counts what it discards, and settle()
 * waits for it.
 * They check no authority: EXECUTE on them is the right to ask about anybody.
 *
 * Since 1.2, sessions learn of opt-outs in a way that the library of 1.1 does
 * not know (coverage.c).  So an update gives the functions other symbols
 * ("_1_2"): a session that still has the old library fails instead of
 * accepting events of somebody who has been opted out since.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/timestamp.h"

#include "accepts.h"
#include "cache.h"
#include "complete.h"
#include "coverage.h"
#include "filter.h"
#include "ident.h"
#include "key.h"
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
PG_FUNCTION_INFO_V1(optout_accepts_text_1_2);
PG_FUNCTION_INFO_V1(optout_accepts_uuid_1_2);
PG_FUNCTION_INFO_V1(optout_accepts_bigint_1_2);
PG_FUNCTION_INFO_V1(optout_is_opted_out_text_1_2);
PG_FUNCTION_INFO_V1(optout_is_opted_out_uuid_1_2);
PG_FUNCTION_INFO_V1(optout_is_opted_out_bigint_1_2);

typedef bool (*Question) (text *organization, text *user_id, const TimestampTz *occurred_at);

/* look-ups of this transaction, by what answered them */
static uint64 accepts_lookups[LOOKUP_KINDS];

static Answer accepts_ask_cache(uint64 hash, text *organization, Oid type, Datum user_id, bool has_time);
static pg_attribute_always_inline Answer accepts_answer_at_once(text *organization, Oid type, Datum user_id,
																bool has_time);
static bool accepts_event(text *organization, text *user_id, const TimestampTz *occurred_at);
static bool accepts_ask(FunctionCallInfo fcinfo, Oid type, Question question, bool nobody);
static pg_attribute_always_inline bool accepts_ask_at_once(FunctionCallInfo fcinfo, Oid type);
static void accepts_report_lookups(XactEvent event, void *arg);

void
accepts_install_hooks(void)
{
	RegisterXactCallback(accepts_report_lookups, NULL);
}

/*
 * Whether the user is opted out now or was at the given time (if not NULL): the
 * ladder.  Each step answers what it can; the next one costs more.
 */
bool
is_opted_out(text *organization, text *user_id, const TimestampTz *occurred_at)
{
	UserKey		key;
	Periods		periods;
	uint64		xmin;
	Coverage	covered;
	Answer		answer;

	/* 1. filter: a miss proves that the user has no period */
	if (likely(coverage() == COVERAGE_FULL))
	{
		/* no seed before: shared memory may have been attached to just now */
		uint64		hash = key_hash_text(VARDATA_ANY(user_id), VARSIZE_ANY_EXHDR(user_id),
										 key_seed(organization));

		if (likely(!filter_maybe_contains(hash)))
		{
			accepts_lookups[LOOKUP_FILTER]++;
			return false;
		}

		/* 2. cache: who is opted out now */
		answer = accepts_ask_cache(hash, organization, TEXTOID, PointerGetDatum(user_id),
								   occurred_at != NULL);
		if (answer != NOT_KNOWN)
			return answer == OPTED_OUT;
	}

	/* what follows goes by invalidations; what went before need not */
	covered = coverage_now();
	if (unlikely(covered != COVERAGE_FULL))
		complete_check();
	if (covered == COVERAGE_UNKNOWN || IsInParallelMode())
	{
		accepts_lookups[LOOKUP_TABLE]++;
		return periods_cover(organization, user_id, occurred_at);
	}
	key = key_of(user_id, key_seed(organization));

	/* 3. memo: all periods of those who have been looked up by this session */
	if (memo_find(&key, &periods, &xmin))
		accepts_lookups[LOOKUP_MEMO]++;

	/* 4. table */
	else
	{
		accepts_lookups[LOOKUP_TABLE]++;
		xmin = cache_xmin(periods_read(&periods, organization, user_id));
		memo_add(&key, &periods);
	}
	if (covered == COVERAGE_FULL && xmin != 0)
		cache_store(&key, periods.open, xmin);
	return periods_include(&periods, occurred_at);
}

/*
 * Step 2, for a user whose key has this lower half.  What the cache knows of the
 * present may confirm the past, not deny it.
 */
static pg_noinline Answer
accepts_ask_cache(uint64 hash, text *organization, Oid type, Datum user_id, bool has_time)
{
	char		buffer[IDENT_BUFFER];
	int			len;
	const char *bytes = ident_bytes(type, user_id, buffer, &len);
	UserKey		key = key_complete(hash, bytes, len, key_seed(organization));
	bool		opted_out;

	if (!cache_find(&key, &opted_out) || (has_time && !opted_out))
		return NOT_KNOWN;
	accepts_lookups[LOOKUP_CACHE]++;
	return opted_out ? OPTED_OUT : NOT_OPTED_OUT;
}

/*
 * What these two steps say where nothing else needs to be done, as for nearly all
 * rows.  The caller asks is_opted_out() where they do not know.
 *
 * This is what a row costs that is kept: a hash and one look at memory.  It is
 * sound for any time the event may have, since the filter holds all users who have
 * any period.
 */
static pg_attribute_always_inline Answer
accepts_answer_at_once(text *organization, Oid type, Datum user_id, bool has_time)
{
	uint64		seed;
	uint64		hash;

	if (unlikely(!coverage_is_held()) || unlikely(!key_find_seed(organization, &seed)) ||
		unlikely(!key_hash(type, user_id, seed, &hash)))
		return NOT_KNOWN;
	if (unlikely(filter_maybe_contains(hash)))
		return accepts_ask_cache(hash, organization, type, user_id, has_time);
	accepts_lookups[LOOKUP_FILTER]++;
	return NOT_OPTED_OUT;
}

/*
 * The same for the guard.
 */
Answer
is_opted_out_at_once(text *organization, Oid type, Datum user_id, bool has_time)
{
	return accepts_answer_at_once(organization, type, user_id, has_time);
}

/*
 * Whether an event of the user may be stored.  If not, it counts as discarded.
 */
static bool
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
 * type, organization, time; any may be NULL.  An event that names no user is
 * nobody's.
 */
static pg_noinline bool
accepts_ask(FunctionCallInfo fcinfo, Oid type, Question question, bool nobody)
{
	text	   *organization;
	TimestampTz occurred_at = 0;

	/* checked first, so that an impossible organization never goes unnoticed */
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
 * accepts(), which has an answer at once for nearly all rows.
 */
static pg_attribute_always_inline bool
accepts_ask_at_once(FunctionCallInfo fcinfo, Oid type)
{
	if (likely(!PG_ARGISNULL(0)))
	{
		text	   *organization = PG_ARGISNULL(1) ? organization_setting_text : PG_GETARG_TEXT_PP(1);
		Answer		answer = accepts_answer_at_once(organization, type, PG_GETARG_DATUM(0), !PG_ARGISNULL(2));

		if (likely(answer == NOT_OPTED_OUT))
			return true;
		if (answer == OPTED_OUT)
		{
			ledger_count(organization);
			return false;
		}
	}
	return accepts_ask(fcinfo, type, accepts_event, true);
}

/*
 * optout.accepts(user_id, organization, occurred_at)
 */
Datum
optout_accepts_text_1_2(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(accepts_ask_at_once(fcinfo, TEXTOID));
}

Datum
optout_accepts_uuid_1_2(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(accepts_ask_at_once(fcinfo, UUIDOID));
}

Datum
optout_accepts_bigint_1_2(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(accepts_ask_at_once(fcinfo, INT8OID));
}

/*
 * optout.is_opted_out(user_id, organization, at)
 */
Datum
optout_is_opted_out_text_1_2(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(accepts_ask(fcinfo, TEXTOID, is_opted_out, false));
}

Datum
optout_is_opted_out_uuid_1_2(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(accepts_ask(fcinfo, UUIDOID, is_opted_out, false));
}

Datum
optout_is_opted_out_bigint_1_2(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(accepts_ask(fcinfo, INT8OID, is_opted_out, false));
}

/*
 * The same functions for a database that has not been updated yet.
 */
Datum
optout_accepts_text(PG_FUNCTION_ARGS)
{
	return optout_accepts_text_1_2(fcinfo);
}

Datum
optout_accepts_uuid(PG_FUNCTION_ARGS)
{
	return optout_accepts_uuid_1_2(fcinfo);
}

Datum
optout_accepts_bigint(PG_FUNCTION_ARGS)
{
	return optout_accepts_bigint_1_2(fcinfo);
}

Datum
optout_is_opted_out_text(PG_FUNCTION_ARGS)
{
	return optout_is_opted_out_text_1_2(fcinfo);
}

Datum
optout_is_opted_out_uuid(PG_FUNCTION_ARGS)
{
	return optout_is_opted_out_uuid_1_2(fcinfo);
}

Datum
optout_is_opted_out_bigint(PG_FUNCTION_ARGS)
{
	return optout_is_opted_out_bigint_1_2(fcinfo);
}

/*
 * Transaction callback: add this backend's counts to everybody's.
 */
static void
accepts_report_lookups(XactEvent event, void *arg pg_attribute_unused())
{
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE ||
		event == XACT_EVENT_PARALLEL_PRE_COMMIT)
		return;
	for (int kind = 0; kind < LOOKUP_KINDS; kind++)
	{
		if (shared != NULL && accepts_lookups[kind] > 0)
			pg_atomic_fetch_add_u64(&shared->lookups[kind], accepts_lookups[kind]);
		accepts_lookups[kind] = 0;
	}
}
