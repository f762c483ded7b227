/*
 * tables.h
 *		Access to the extension's tables under the latest snapshot.
 */
#ifndef OPTOUT_TABLES_H
#define OPTOUT_TABLES_H

#include "access/genam.h"
#include "access/skey.h"
#include "fmgr.h"
#include "nodes/pg_list.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

#include "ident.h"

typedef struct TablesScan
{
	Relation	rel;
	Snapshot	snapshot;
	SysScanDesc scan;
} TablesScan;

/*
 * The rows of many ids of one organization, found by an index on both.
 */
typedef struct TablesWalk
{
	Relation	rel;
	Relation	index;
	text	   *organization;
	AttrNumber	attnum;			/* the table's column of ids */
	bool		id_first;		/* in the index, before the organization */
	Snapshot	snapshot;
	bool		own_snapshot;
	SysScanDesc scan;
	text	   *id;				/* looked for last, or NULL */
	HeapTuple	tuple;			/* reached last, or NULL */
	bool		walking;		/* what follows in the index can be had, too */
	int			walked;			/* for so many ids it was near enough */
	int			searches;		/* so many more ids are searched for, each by
								 * itself */
	int			far;			/* how many that were when it was begun */
} TablesWalk;

/* who we were before tables_become_owner() */
typedef struct TablesCaller
{
	Oid			userid;
	int			sec_context;
	int			nestlevel;		/* of settings */
} TablesCaller;

extern Oid	tables_owner(void);

extern Relation tables_open(const char *table, LOCKMODE lockmode);
extern Relation tables_try_open(const char *table, LOCKMODE lockmode);
extern bool tables_is(Relation rel, const char *table);
extern bool tables_has_aliases(void);
extern Oid	tables_find(const char *table);
extern Oid	tables_index(Relation rel, const char *index);
extern Oid	tables_function(const char *function);

extern Snapshot tables_snapshot(void);
extern void tables_key(ScanKey key, AttrNumber attnum, text *value);
extern void tables_beginscan(TablesScan *scan, Relation rel, Oid index,
							 int nkeys, const ScanKeyData *keys);
extern HeapTuple tables_getnext(TablesScan *scan);
extern void tables_endscan(TablesScan *scan);

extern void tables_beginwalk(TablesWalk *walk, Relation rel, Oid index,
							 text *organization, Snapshot snapshot);
extern HeapTuple tables_walk_to(TablesWalk *walk, text *id);
extern HeapTuple tables_walk_on(TablesWalk *walk);
extern Datum tables_walk_value(const TablesWalk *walk, AttrNumber attnum);
extern void tables_endwalk(TablesWalk *walk);

extern void tables_prevent_if_read_only(FunctionCallInfo fcinfo);

extern uint64 tables_execute(const char *command, int nargs, Oid *argtypes,
							 Datum *values, const char *nulls);
extern uint64 tables_select_count(const char *query, int nargs, Oid *argtypes,
								  Datum *values, const char *nulls);
extern uint64 tables_select_count_under(const char *query, int nargs, Oid *argtypes,
										Datum *values, const char *nulls, Snapshot snapshot);
extern List *tables_select_oids(const char *query, int nargs, Oid *argtypes, Datum *values);
extern uint64 tables_execute_under(const char *command, int nargs, Oid *argtypes,
								   Datum *values, const char *nulls,
								   Snapshot snapshot, void (*rows) (void *arg), void *arg);
extern char *tables_relation_name(Relation rel);
extern TablesCaller tables_become_owner(Oid owner, int sec_context);
extern void tables_become_caller(const TablesCaller *caller);

#endif							/* OPTOUT_TABLES_H */
