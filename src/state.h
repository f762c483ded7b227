/*
 * state.h
 *		Access to the extension's tables under the latest snapshot.
 */
#ifndef OPTOUT_STATE_H
#define OPTOUT_STATE_H

#include "access/genam.h"
#include "access/skey.h"
#include "fmgr.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

#include "ident.h"

typedef struct StateScan
{
	Relation	rel;
	Snapshot	snapshot;
	SysScanDesc scan;
} StateScan;

extern Oid	state_owner(void);

extern Relation state_open(const char *table, LOCKMODE lockmode);
extern Relation state_try_open(const char *table, LOCKMODE lockmode);
extern bool state_is(Relation rel, const char *table);
extern bool state_has_aliases(void);
extern Oid	state_index(Relation rel, const char *index);
extern Oid	state_function(const char *function);

extern void state_key(ScanKey key, AttrNumber attnum, text *value);
extern void state_beginscan(StateScan *scan, Relation rel, Oid index,
							int nkeys, const ScanKeyData *keys);
extern HeapTuple state_getnext(StateScan *scan);
extern void state_endscan(StateScan *scan);

extern void state_prevent_if_read_only(FunctionCallInfo fcinfo);
extern UserIds state_lock_users(const char *table, const char *index, bool user_id_first,
								const char *query, text *organization, const UserIds *users,
								uint64 *nrows);

extern uint64 state_execute(const char *command, int nargs, Oid *argtypes,
							Datum *values, const char *nulls);
extern uint64 state_select_count(const char *query, int nargs, Oid *argtypes,
								 Datum *values, const char *nulls);
extern UserIds state_select_ids(const char *query, int nargs, Oid *argtypes,
								Datum *values);

#endif							/* OPTOUT_STATE_H */
