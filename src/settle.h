/*
 * settle.h
 *		Waiting for those who asked the filter.
 */
#ifndef OPTOUT_SETTLE_H
#define OPTOUT_SETTLE_H

#include "storage/proc.h"

#include "compat.h"

/* the last transaction that has been registered */
extern LocalTransactionId settle_registered;

extern void settle_register_now(void);
extern void settle_check_transaction(const char *routine);
extern void settle(void);

/*
 * This transaction is about to ask the filter.
 */
static inline void
settle_register(void)
{
	if (unlikely(settle_registered != MyLocalTransactionId))
		settle_register_now();
}

#endif							/* OPTOUT_SETTLE_H */
