/*
 * settle.h
 *		Waiting for those who asked the filter.
 */
#ifndef OPTOUT_SETTLE_H
#define OPTOUT_SETTLE_H

extern void settle_register(void);

#endif							/* OPTOUT_SETTLE_H */
