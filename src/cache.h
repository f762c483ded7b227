/*
 * cache.h
 *		The shared cache of verified users.
 */
#ifndef OPTOUT_CACHE_H
#define OPTOUT_CACHE_H

#include "key.h"

/* these need shared_blocks */
extern bool cache_find(const UserKey *key, bool *opted_out);
extern uint64 cache_xmin(TransactionId xmin);
extern void cache_store(const UserKey *key, bool opted_out, uint64 xmin);
extern bool cache_fill(const UserKey *key, uint64 xmin);
extern void cache_prefetch(const UserKey *key);
extern void cache_invalidate(const UserKey *key);
extern void cache_invalidate_all(void);

#endif							/* OPTOUT_CACHE_H */
