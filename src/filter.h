/*
 * filter.h
 *		The shared filter: tells which users may ever have been opted out.
 */
#ifndef OPTOUT_FILTER_H
#define OPTOUT_FILTER_H

#include "shared.h"

/* a user of an organisation of this database, hashed with the server's secret */
typedef struct UserKey
{
	uint64		low;
	uint64		high;
} UserKey;

typedef struct FilterStatistics
{
	int64		memory;			/* bytes */
	int64		keys;
	double		false_positive_rate;	/* estimated from the bits that are
										 * set */
	uint64		lookups[LOOKUP_KINDS];
} FilterStatistics;

extern uint64 filter_lookups[LOOKUP_KINDS];

extern void filter_install_hooks(void);
extern UserKey filter_key(text *organization, text *user_id);

/* these need shared_blocks */
extern void filter_prefetch(const UserKey *key);
extern void filter_add(const UserKey *keys, int nkeys);
extern bool filter_maybe_contains(const UserKey *key);

extern bool filter_statistics(FilterStatistics *stats);

#endif							/* OPTOUT_FILTER_H */
