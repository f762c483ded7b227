/*
 * guard.h
 *		What guards and views over guarded tables have in common.
 */
#ifndef OPTOUT_GUARD_H
#define OPTOUT_GUARD_H

#include "fmgr.h"
#include "utils/rel.h"

extern Relation guard_open_own_table(FunctionCallInfo fcinfo);
extern char *guard_relation_name(Relation rel);
extern uint64 guard_run(const char *command, int nargs, Oid *argtypes, Datum *values);

#endif							/* OPTOUT_GUARD_H */
