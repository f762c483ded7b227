/*
 * bench_floor.c
 *		What the benchmark measures against, and its clock.
 *
 * Built by test/lab/bench/run, never installed.
 */
#include "postgres.h"

#ifdef __linux__
#include <sched.h>
#endif
#include <time.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "commands/trigger.h"
#include "common/pg_prng.h"
#include "fmgr.h"
#include "utils/uuid.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(bench_cpu);
PG_FUNCTION_INFO_V1(bench_stay_on);
PG_FUNCTION_INFO_V1(bench_no_op);
PG_FUNCTION_INFO_V1(bench_floor);
PG_FUNCTION_INFO_V1(bench_floor_bigint);
PG_FUNCTION_INFO_V1(bench_floor_uuid);
PG_FUNCTION_INFO_V1(bench_floor_memory);
PG_FUNCTION_INFO_V1(bench_keep_row);
PG_FUNCTION_INFO_V1(bench_floor_row);

/* a filter's worth of memory; a power of two */
static uint64 *floor_words = NULL;
static uint64 floor_nwords = 0;

/*
 * cpu(): nanoseconds of CPU time that this backend has taken.  What other
 * processes take meanwhile does not count, as it would in elapsed time.
 */
Datum
bench_cpu(PG_FUNCTION_ARGS)
{
	struct timespec now;

	if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now) != 0)
		elog(ERROR, "could not read the CPU time: %m");
	PG_RETURN_INT64(now.tv_sec * INT64CONST(1000000000) + now.tv_nsec);
}

/*
 * stay_on(pid, processor): have that backend run there only; -1: wherever it likes.
 */
Datum
bench_stay_on(PG_FUNCTION_ARGS)
{
#ifdef __linux__
	int			pid = PG_GETARG_INT32(0);
	int			processor = PG_GETARG_INT32(1);
	cpu_set_t	processors;

	if (processor < 0)
		PG_RETURN_VOID();
	CPU_ZERO(&processors);
	CPU_SET(processor, &processors);
	if (sched_setaffinity(pid, sizeof(processors), &processors) != 0)
		elog(ERROR, "could not move process %d to processor %d: %m", pid, processor);
#endif
	PG_RETURN_VOID();
}

/*
 * no_op(user_id, organization, occurred_at): true, whatever the arguments are.
 * What calling any function for a row costs.
 */
Datum
bench_no_op(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(true);
}

/*
 * floor_memory(bytes): how much memory floor() reads from
 */
Datum
bench_floor_memory(PG_FUNCTION_ARGS)
{
	pg_prng_state state;

	pg_prng_seed(&state, 1);
	for (floor_nwords = 1; floor_nwords * sizeof(uint64) < (uint64) PG_GETARG_INT64(0);)
		floor_nwords *= 2;
	floor_words = realloc(floor_words, floor_nwords * sizeof(uint64));
	if (floor_words == NULL)
		elog(ERROR, "out of memory");
	/* all even, so that floor() is always true */
	for (uint64 i = 0; i < floor_nwords; i++)
		floor_words[i] = pg_prng_uint64(&state) & ~UINT64CONST(1);
	PG_RETURN_VOID();
}

/*
 * floor(user_id): true.  The least that a filter in memory can do: hash the id,
 * read one word at random, and branch on what is there.
 */
static inline bool
floor_look(const void *id, int len)
{
	uint64		hash = XXH3_64bits(id, len);

	return likely((floor_words[hash & (floor_nwords - 1)] & 1) == 0);
}

Datum
bench_floor(PG_FUNCTION_ARGS)
{
	text	   *user_id = PG_GETARG_TEXT_PP(0);

	PG_RETURN_BOOL(floor_look(VARDATA_ANY(user_id), VARSIZE_ANY_EXHDR(user_id)));
}

Datum
bench_floor_bigint(PG_FUNCTION_ARGS)
{
	int64		user_id = PG_GETARG_INT64(0);

	PG_RETURN_BOOL(floor_look(&user_id, sizeof(user_id)));
}

Datum
bench_floor_uuid(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(floor_look(PG_GETARG_UUID_P(0), UUID_LEN));
}

/*
 * keep_row(): a BEFORE INSERT trigger that returns its row.  What having any
 * trigger costs.
 */
Datum
bench_keep_row(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		elog(ERROR, "keep_row() must be fired as a trigger");
	PG_RETURN_POINTER(((TriggerData *) fcinfo->context)->tg_trigtuple);
}

/*
 * floor_row(): the same after it has looked up the row's second column, as floor()
 * does.
 */
Datum
bench_floor_row(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	bool		isnull;
	text	   *user_id;

	if (!CALLED_AS_TRIGGER(fcinfo))
		elog(ERROR, "floor_row() must be fired as a trigger");
	user_id = DatumGetTextPP(slot_getattr(trigdata->tg_trigslot, 2, &isnull));
	PG_RETURN_POINTER(!isnull && floor_look(VARDATA_ANY(user_id), VARSIZE_ANY_EXHDR(user_id)) ?
					  trigdata->tg_trigtuple : NULL);
}
