/*
 * guard.h
 *		What others have to know of guards.
 */
#ifndef OPTOUT_GUARD_H
#define OPTOUT_GUARD_H

#include "fmgr.h"
#include "nodes/pg_list.h"
#include "utils/rel.h"

extern Relation guard_open_own_table(FunctionCallInfo fcinfo);
extern char *guard_relation_name(Relation rel);
extern Oid	guard_function(void);
extern List *guard_shapes(Relation rel);
extern const char *guard_find_off(Relation rel);
extern uint64 guard_run(const char *command, int nargs, Oid *argtypes, Datum *values);

#endif							/* OPTOUT_GUARD_H */
