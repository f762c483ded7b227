/*
 * shared.h
 *		What the server's backends share.  See filter.c for the blocks, cache.c
 *		for buckets and writers, coverage.c for the databases.
 */
#ifndef OPTOUT_SHARED_H
#define OPTOUT_SHARED_H

#include "port/atomics.h"
#include "portability/instr_time.h"
#include "storage/block.h"
#include "storage/dsm.h"
#include "storage/itemptr.h"
#include "storage/lwlock.h"

/*
 * What is shared and what it means, the keys included.  Counts up with every
 * change of either: the library may be replaced while the server runs, and then
 * backends with the old and the new one meet in memory made on demand.
 */
#define LAYOUT 8

/* of the filter; each is half of the next */
#define LEVELS 7
#define LARGEST_LEVEL (LEVELS - 1)

#define BLOCK_WORDS 8
#define BLOCK_SIZE (BLOCK_WORDS * sizeof(pg_atomic_uint64))

/* how many groups of users the cache distinguishes */
#define CACHE_GROUPS 4096

/* how many databases can have their keys added; others use their tables */
#define MAX_DATABASES 256

/* what answered a look-up */
typedef enum LookupKind
{
	LOOKUP_FILTER,
	LOOKUP_CACHE,
	LOOKUP_MEMO,
	LOOKUP_TABLE,
	LOOKUP_KINDS
} LookupKind;

/*
 * Which version of the state table's trigger.  Two versions of a catalog row
 * never share xmin and ctid, unless one is long dead and gone.  A database that
 * was made anew from the same template under the same OID differs in the xmin
 * of its pg_database row.
 */
typedef struct TriggerVersion
{
	TransactionId database_xmin;
	Oid			table;
	Oid			relfilenode;	/* TRUNCATE fires no row trigger */
	Oid			trigger;
	TransactionId xmin;
	ItemPointerData ctid;
} TriggerVersion;

/* how far the adding of a database's keys has come */
typedef struct SharedDatabase
{
	Oid			database;
	TriggerVersion version;		/* they are added, or have been, under this */
	BlockNumber nblocks;		/* of the table when that began */
	BlockNumber next;			/* the blocks before are done */
	bool		fill_cache;		/* there is room in the cache */
	int			pid;			/* who has gone on with it last */
	uint64		nrows;			/* how many have been read */
	uint64		microseconds;	/* how long that took */
} SharedDatabase;

typedef struct Shared
{
	uint32		layout;			/* first in every release */
	LWLock		lock;			/* held to write anything but lookups */
	int			tranche;		/* of that lock */

	/* set once; the memory of filter and cache */
	bool		has_blocks;
	dsm_handle	blocks;			/* where, unless in main shared memory */

	/* what every look-up reads and hardly anybody writes has lines of its own */
	char		pad1[PG_CACHE_LINE_SIZE];
	uint64		secret;			/* what keys begin with */
	uint64		nblocks[LEVELS];	/* of the filter */
	uint64		nbuckets;		/* of the cache, a power of two */
	pg_atomic_uint32 level;		/* the current one */
	char		pad2[PG_CACHE_LINE_SIZE];

	/* what every opt-out writes */
	pg_atomic_uint64 keys;		/* how many have been added */
	char		pad3[PG_CACHE_LINE_SIZE];

	/* what every transaction that asked writes */
	pg_atomic_uint64 lookups[LOOKUP_KINDS];
	char		pad4[PG_CACHE_LINE_SIZE];

	/* of the cache: for each group its youngest writer, a full transaction id */
	pg_atomic_uint64 writers[CACHE_GROUPS];

	bool		said_no_room;	/* for another database */
	int			ndatabases;
	SharedDatabase databases[MAX_DATABASES];
} Shared;

/* NULL until this backend has attached to it, or where there is none */
extern Shared *shared;

/* NULL until this backend has attached to them, or where there are none */
extern pg_atomic_uint64 *shared_blocks[LEVELS];
extern pg_atomic_uint64 *shared_cache;

extern void shared_define_settings(void);
extern void shared_install_hooks(void);
extern bool shared_attach_to_read(void);
extern bool shared_attach_to_write(void);
extern Size shared_memory(void);

/*
 * Microseconds since some moment; not the time of day, so it never goes back.
 */
static inline uint64
shared_clock(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return INSTR_TIME_GET_MICROSEC(now);
}

#endif							/* OPTOUT_SHARED_H */
