/*
 * memo.h
 *		The backend's cache of verified keys.
 */
#ifndef OPTOUT_MEMO_H
#define OPTOUT_MEMO_H

#include "datatype/timestamp.h"

#include "filter.h"

extern void memo_invalidate(void);
extern bool memo_covers(const UserKey *key, text *organization, text *user_id,
						const TimestampTz *occurred_at, bool share);

#endif							/* OPTOUT_MEMO_H */
