/*
 * shared.c
 *		Where the shared memory comes from.
 *
 * If the library is in shared_preload_libraries, all of it is main shared
 * memory.  Otherwise, where the server can allocate named shared memory on
 * demand, the first session that wants an answer makes it, in two parts: the
 * struct Shared (small), then the memory of filter and cache, "blocks" (large).
 *
 * A reader that cannot get it, for example for lack of memory, must not fail:
 * it uses the table, and tries again after a while.  A writer must not miss
 * blocks that others trust.  So it attaches to the first part, which it makes
 * if need be, and there learns whether there are blocks; if it cannot, it
 * raises an error and writes nothing.  If there are none yet, its row is in
 * the table already, and whoever makes them will find it there when the keys
 * are added (see coverage.c).
 *
 * Nor must a writer miss blocks that backends with another release of this
 * library trust, which it could not write to: that is an error as well, until
 * the server is restarted.  Readers use the table.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/guc.h"

#include "compat.h"
#include "key.h"
#include "shared.h"
#include "subxact.h"

Shared	   *shared = NULL;
pg_atomic_uint64 *shared_blocks[LEVELS];
pg_atomic_uint64 *shared_cache;

/* setting */
static int	filter_memory = 16384;	/* kB */

static bool preloaded = false;

/* a session that could not attach tries again after so many microseconds, and
 * after twice as many each time */
#define FIRST_DELAY UINT64CONST(1000000)
#define LONGEST_DELAY UINT64CONST(64000000)

static uint64 attach_not_before = 0;	/* by shared_clock() */
static uint64 attach_delay = FIRST_DELAY;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static Size shared_level_size(int level);
static Size shared_cache_size(void);
static Size shared_blocks_size(void);
static void shared_request_shmem(void);
static void shared_startup_shmem(void);
static void shared_init(void *ptr);
static void shared_init_named(NAMED_DSM_INIT_PARAMETERS);
static void shared_init_blocks(void *ptr);
static void shared_set_blocks(void *ptr);
static bool shared_on_demand(void);
static void shared_attach(void);
static void shared_attach_blocks(void);
static void shared_create_blocks(void);
static void shared_try_attach(void);

/*
 * Define the settings this file owns.
 */
void
shared_define_settings(void)
{
	DefineCustomIntVariable("optout.filter_memory",
							"Sets the size of the shared filter.",
							"2 bytes for each key give less than 0.2 % false positives. 0 means no shared filter.",
							&filter_memory,
							16384,
							0,
							MAX_KILOBYTES,
	/* a setting that is defined later cannot be bound to the start */
							process_shared_preload_libraries_in_progress ? PGC_POSTMASTER : PGC_SIGHUP,
							GUC_UNIT_KB,
							NULL, NULL, NULL);
}

void
shared_install_hooks(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	preloaded = true;
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shared_request_shmem;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shared_startup_shmem;
}

/*
 * In bytes.  The largest level is what the setting says, rounded up so that it can
 * be halved as often as there are levels.
 */
static Size
shared_level_size(int level)
{
	uint64		nblocks = (uint64) filter_memory * 1024 / BLOCK_SIZE;

	/* blocks are numbered by 32 bits */
	nblocks = TYPEALIGN64(1 << LARGEST_LEVEL, Min(nblocks, PG_UINT32_MAX));
	return (Size) (nblocks >> (LARGEST_LEVEL - level)) * BLOCK_SIZE;
}

/* in bytes; at most twice as much as the largest level, as a power of two */
static Size
shared_cache_size(void)
{
	Size		size = pg_nextpower2_size_t(shared_level_size(LARGEST_LEVEL));

	return size > shared_level_size(LARGEST_LEVEL) ? size : size * 2;
}

/* all that filter and cache need */
static Size
shared_blocks_size(void)
{
	/* a block more, so that blocks can be aligned to their size */
	Size		size = BLOCK_SIZE + shared_cache_size();

	for (int level = 0; level < LEVELS; level++)
		size = add_size(size, shared_level_size(level));
	return size;
}

static void
shared_request_shmem(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	if (filter_memory > 0)
	{
		RequestAddinShmemSpace(MAXALIGN(sizeof(Shared)));
		RequestAddinShmemSpace(shared_blocks_size());
	}
}

static void
shared_startup_shmem(void)
{
	bool		found;
	void	   *blocks;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	if (filter_memory == 0)
		return;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("optout", sizeof(Shared), &found);
	if (!found)
		shared_init(shared);
	key_use_secret(shared->secret);
	LWLockRegisterTranche(shared->tranche, "optout");
	blocks = ShmemInitStruct("optout blocks", shared_blocks_size(), &found);
	if (!found)
		shared_init_blocks(blocks);
	shared_set_blocks(blocks);
	LWLockRelease(AddinShmemInitLock);
}

static void
shared_init(void *ptr)
{
	Shared	   *new = ptr;

	/* a zero is a valid value of an atomic */
	memset(new, 0, sizeof(Shared));
	new->layout = LAYOUT;
	if (!pg_strong_random(&new->secret, sizeof(new->secret)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random secret")));
	new->tranche = LWLockNewTrancheId("optout");
	LWLockInitialize(&new->lock, new->tranche);
}

static void
shared_init_named(NAMED_DSM_INIT_PARAMETERS)
{
	shared_init(ptr);
}

/*
 * Make blocks of shared_blocks_size() bytes ready for use.
 */
static void
shared_init_blocks(void *ptr)
{
	memset(ptr, 0, shared_blocks_size());
	for (int level = 0; level < LEVELS; level++)
		shared->nblocks[level] = shared_level_size(level) / BLOCK_SIZE;
	shared->nbuckets = shared_cache_size() / BLOCK_SIZE;
	shared->has_blocks = true;
}

/*
 * Use the blocks from now on.
 */
static void
shared_set_blocks(void *ptr)
{
	char	   *start = (char *) TYPEALIGN(BLOCK_SIZE, ptr);

	for (int level = 0; level < LEVELS; level++)
	{
		shared_blocks[level] = (pg_atomic_uint64 *) start;
		start += shared->nblocks[level] * BLOCK_SIZE;
	}
	shared_cache = (pg_atomic_uint64 *) start;
}

/*
 * Whether there may be shared memory that this backend has not attached to.
 */
static bool
shared_on_demand(void)
{
	return HAVE_NAMED_DSM && !preloaded && IsUnderPostmaster;
}

/*
 * Attach to the first part, making it if there is none.
 */
static void
shared_attach(void)
{
	Shared	   *segment;
	bool		found;

	if (shared != NULL)
		return;
	segment = GetNamedDSMSegment("optout", sizeof(Shared), shared_init_named, &found, NULL);
	if (segment->layout != LAYOUT)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("another release of optout is in use on this server"),
				 errhint("Restart the server."),
				 errhidestmt(true), errhidecontext(true)));
	shared = segment;
	key_use_secret(shared->secret);
	LWLockRegisterTranche(shared->tranche, "optout");
}

/*
 * Attach to the blocks that have been made.
 */
static void
shared_attach_blocks(void)
{
	dsm_segment *segment;

	if (shared_blocks[0] != NULL)
		return;
	segment = dsm_attach(shared->blocks);
	if (segment == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not map dynamic shared memory segment"),
				 errhidestmt(true), errhidecontext(true)));
	dsm_pin_mapping(segment);
	shared_set_blocks(dsm_segment_address(segment));
}

/*
 * Make the blocks, unless somebody has.
 */
static void
shared_create_blocks(void)
{
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	if (!shared->has_blocks)
	{
		dsm_segment *segment = dsm_create(shared_blocks_size(), 0);

		dsm_pin_segment(segment);
		dsm_pin_mapping(segment);
		shared->blocks = dsm_segment_handle(segment);
		shared_init_blocks(dsm_segment_address(segment));
		shared_set_blocks(dsm_segment_address(segment));
	}
	LWLockRelease(&shared->lock);
}

/*
 * Attach to both parts, making them if need be, unless this has failed a moment
 * ago.  The first time that it fails, say so in the server's log.  Query cancel
 * and termination are passed on.
 */
static void
shared_try_attach(void)
{
	Subxact		subxact;

	/* in parallel mode there can be no subtransaction to catch an error with */
	if (!shared_on_demand() || filter_memory == 0 || IsInParallelMode() ||
		shared_clock() < attach_not_before)
		return;

	subxact = subxact_begin();
	PG_TRY();
	{
		shared_attach();
		shared_create_blocks();
		shared_attach_blocks();
		subxact_end(&subxact, true);
	}
	PG_CATCH();
	{
		ErrorData  *error = subxact_catch(&subxact);

		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION)
			ReThrowError(error);

		/* the statement may name a user */
		if (attach_delay == FIRST_DELAY)
			ereport(LOG,
					(errmsg("optout uses its table, because there can be no shared filter: %s",
							error->message),
					 errhidestmt(true), errhidecontext(true)));
		attach_not_before = shared_clock() + attach_delay;
		attach_delay = Min(attach_delay * 2, LONGEST_DELAY);
		FreeErrorData(error);
	}
	PG_END_TRY();
}

/*
 * Whether there are blocks that this backend can read.  Makes them if need be.
 */
bool
shared_attach_to_read(void)
{
	if (shared_blocks[0] == NULL)
		shared_try_attach();
	return shared_blocks[0] != NULL;
}

/*
 * Whether there are blocks that somebody may trust.  If there are, this backend
 * is attached to them when it returns; if it cannot be, that is an error.
 */
bool
shared_attach_to_write(void)
{
	bool		has_blocks;

	if (shared_blocks[0] != NULL)
		return true;
	if (!shared_on_demand())
		return false;

	shared_attach();
	/* the lock orders this between the row's writing and any later making */
	LWLockAcquire(&shared->lock, LW_SHARED);
	has_blocks = shared->has_blocks;
	LWLockRelease(&shared->lock);
	if (has_blocks)
		shared_attach_blocks();
	return has_blocks;
}

/*
 * How much shared memory there is, in bytes.
 */
Size
shared_memory(void)
{
	Size		size = sizeof(Shared) + shared->nbuckets * BLOCK_SIZE;

	for (int level = 0; level < LEVELS; level++)
		size += shared->nblocks[level] * BLOCK_SIZE;
	return size;
}
