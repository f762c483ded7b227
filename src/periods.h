/*
 * periods.h
 *		The state table, optout.opt_out_period.
 */
#ifndef OPTOUT_PERIODS_H
#define OPTOUT_PERIODS_H

#include "datatype/timestamp.h"

#include "access/htup.h"
#include "nodes/pg_list.h"

#include "ident.h"
#include "key.h"

/* a closed period, [opted_out_at, opted_in_at) */
typedef struct Period
{
	TimestampTz opted_out_at;
	TimestampTz opted_in_at;
} Period;

/* what a row of the table says */
typedef struct PeriodRow
{
	UserKey		user;
	bool		open;			/* it has not ended */
	Period		period;			/* if it has */
} PeriodRow;

/* all periods of a user */
typedef struct Periods
{
	UserKey		user;
	Period	   *closed;			/* room for a power of two */
	int			nclosed;
	bool		open;			/* one of them has not ended */
	char		status;			/* for the memo's hash table */
} Periods;

extern void periods_ids(HeapTuple tuple, text **organization, text **user_id);
extern UserKey periods_key(HeapTuple tuple);
extern bool periods_is_open(Relation rel, HeapTuple tuple);
extern PeriodRow periods_row(Relation rel, HeapTuple tuple);
extern void periods_add(Periods *periods, const PeriodRow *row, MemoryContext context);
extern bool periods_include(const Periods *periods, const TimestampTz *occurred_at);
extern TransactionId periods_read(Periods *periods, text *organization, text *user_id);
extern double periods_estimate(void);

extern bool periods_cover(text *organization, text *user_id,
						  const TimestampTz *occurred_at);
extern uint64 periods_lock(text *organization, const UserIds *users);
extern UserIds periods_lock_open(text *organization, const UserIds *users);
extern UserIds periods_share_open(text *organization, const UserIds *users);
extern UserIds periods_find_open(text *organization, const UserIds *users);
extern uint64 periods_open(text *organization, const UserIds *users, text *reason);
extern uint64 periods_close(text *organization, const UserIds *users, bool aliases,
							TimestampTz at, text *reason);
extern Datum periods_caller(void);

#endif							/* OPTOUT_PERIODS_H */
