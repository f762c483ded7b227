/*
 * lock.h
 *		Locks on users' rows.
 */
#ifndef OPTOUT_LOCK_H
#define OPTOUT_LOCK_H

#include "nodes/lockoptions.h"

#include "ident.h"

extern UserIds lock_users(const char *table, const char *index, text *organization,
						  const UserIds *users, LockTupleMode mode, uint64 *nrows);

#endif							/* OPTOUT_LOCK_H */
