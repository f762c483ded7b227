/*
 * memo.h
 *		The backend's memo of verified users.
 */
#ifndef OPTOUT_MEMO_H
#define OPTOUT_MEMO_H

#include "key.h"
#include "periods.h"

extern void memo_invalidate(void);
extern bool memo_find(const UserKey *key, Periods *periods, uint64 *xmin);
extern void memo_add(const UserKey *key, const Periods *periods);

#endif							/* OPTOUT_MEMO_H */
