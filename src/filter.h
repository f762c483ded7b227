/*
 * filter.h
 *		The shared filter: what proves that a user has never been opted out.
 */
#ifndef OPTOUT_FILTER_H
#define OPTOUT_FILTER_H

#include "utils/rel.h"

/* a user of an organisation of this database, hashed with the server's secret */
typedef struct UserKey
{
	uint64		low;
	uint64		high;
} UserKey;

/* what the filter knows of the state table's trigger in this backend */
typedef enum FilterState
{
	FILTER_UNKNOWN,				/* the state table's relcache entry has
								 * changed */
	FILTER_TABLE_ONLY,			/* rows can arrive unseen: trust nothing but
								 * the table */
	FILTER_LOADING,				/* rows are seen, but not all keys are added
								 * yet */
	FILTER_READY
} FilterState;

/* what answered a look-up */
typedef enum LookupKind
{
	LOOKUP_FILTER,
	LOOKUP_MEMO,
	LOOKUP_TABLE,
	LOOKUP_KINDS
} LookupKind;

typedef struct FilterStatistics
{
	int64		memory;			/* bytes */
	int64		keys;
	double		false_positive_rate;	/* estimated from the bits that are
										 * set */
	uint64		lookups[LOOKUP_KINDS];
} FilterStatistics;

extern bool filter_enabled;
extern uint64 filter_lookups[LOOKUP_KINDS];

extern void filter_define_settings(void);
extern void filter_install_hooks(void);

extern FilterState filter_state(void);
extern bool filter_present(void);
extern UserKey filter_key(text *organization, text *user_id);
extern void filter_add(const UserKey *key);
extern bool filter_maybe_contains(const UserKey *key);
extern bool filter_statistics(FilterStatistics *stats);

#endif							/* OPTOUT_FILTER_H */
