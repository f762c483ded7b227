/*
 * periods.h
 *		The state table, optout.opt_out_period.
 */
#ifndef OPTOUT_PERIODS_H
#define OPTOUT_PERIODS_H

#include "datatype/timestamp.h"

#include "ident.h"

extern bool periods_cover(text *organization, text *user_id,
						  const TimestampTz *occurred_at);
extern void periods_lock(text *organization, const UserIds *users);
extern UserIds periods_lock_open(text *organization, const UserIds *users);
extern uint64 periods_open(text *organization, const UserIds *users, text *reason);
extern uint64 periods_close(text *organization, const UserIds *users);

#endif							/* OPTOUT_PERIODS_H */
