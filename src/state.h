/*
 * state.h
 *		Access to the extension's tables under the latest snapshot.
 */
#ifndef OPTOUT_STATE_H
#define OPTOUT_STATE_H

#include "access/genam.h"
#include "access/skey.h"
#include "executor/tuptable.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

typedef struct StateScan
{
	Relation	rel;
	Snapshot	snapshot;
	SysScanDesc scan;
} StateScan;

extern Oid	state_owner(void);

extern Relation state_open(const char *table, LOCKMODE lockmode);
extern Relation state_try_open(const char *table, LOCKMODE lockmode);
extern Oid	state_index(const char *index);

extern void state_key(ScanKey key, AttrNumber attnum, text *value);
extern void state_beginscan(StateScan *scan, Relation rel, Oid index,
							int nkeys, const ScanKeyData *keys);
extern HeapTuple state_getnext(StateScan *scan);
extern void state_endscan(StateScan *scan);

extern bool state_lock_rows(Relation rel, Oid index,
							int nkeys, const ScanKeyData *keys);

extern uint64 state_execute(const char *command, int nargs, Oid *argtypes,
							Datum *values, const char *nulls);
extern uint64 state_select_count(const char *query, int nargs, Oid *argtypes,
								 Datum *values, const char *nulls);

#endif							/* OPTOUT_STATE_H */
