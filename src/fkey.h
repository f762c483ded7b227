/*
 * fkey.h
 *		Whether a foreign key's action changes a row.
 */
#ifndef OPTOUT_FKEY_H
#define OPTOUT_FKEY_H

#include "access/attnum.h"
#include "executor/tuptable.h"
#include "utils/rel.h"

extern bool fkey_action_changes(Relation rel, TupleTableSlot *before, TupleTableSlot *after,
								const AttrNumber *changed, int nchanged);

#endif							/* OPTOUT_FKEY_H */
