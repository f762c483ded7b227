/*
 * compat.h
 *		Differences between the supported server versions, PostgreSQL 15 to 19.
 *
 * The rest of the code is written for the newest version; what an older one
 * lacks is supplied here, so that no other file mentions a version.
 */
#ifndef OPTOUT_COMPAT_H
#define OPTOUT_COMPAT_H

#if PG_VERSION_NUM < 150000
#error optout needs PostgreSQL 15 or later
#endif

#if PG_VERSION_NUM < 160000
#define object_ownercheck(classid, objectid, roleid) \
	(AssertMacro((classid) == RelationRelationId), \
	 pg_class_ownercheck(objectid, roleid))
#define object_aclcheck(classid, objectid, roleid, mode) \
	((classid) == ProcedureRelationId ? \
	 pg_proc_aclcheck(objectid, roleid, mode) : \
	 pg_namespace_aclcheck(objectid, roleid, mode))
/* what a setting's check hook returns is freed with free() there */
#define guc_malloc(elevel, size) malloc(size)
#define pgstat_get_local_beentry_by_index(idx) pgstat_fetch_stat_local_beentry(idx)
typedef bool TU_UpdateIndexes;
#define EnableDisableTrigger(rel, tgname, tgparent, fires_when, skip_system, recurse, lockmode) \
	EnableDisableTriggerNew(rel, tgname, fires_when, skip_system, recurse, lockmode)
#endif

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#if PG_VERSION_NUM >= 170000
#include "storage/dsm_registry.h"
#define HAVE_NAMED_DSM true
#else
#define HAVE_NAMED_DSM false
#define GetNamedDSMSegment(name, size, init, found, arg) \
	((void) (init), (void) (found), NULL)
#endif

#if PG_VERSION_NUM < 170000
#define getIdentitySequence(rel, attnum, missing_ok) \
	getIdentitySequence(RelationGetRelid(rel), attnum, missing_ok)
#define MyProcNumber (MyBackendId - 1)
#define MyLocalTransactionId (MyProc->lxid)
#define VXID_PROC_NUMBER(vxid) ((vxid).backendId)
#define ProcNumberGetProc(number) BackendIdGetProc(number)
#include "storage/sinvaladt.h"
#include "storage/lock.h"
#define LockHeldByMe(tag, lockmode, orstronger) LockHeldByMe(tag, lockmode)
#else
#define MyLocalTransactionId (MyProc->vxid.lxid)
#define VXID_PROC_NUMBER(vxid) ((vxid).procNumber)
#endif

#if PG_VERSION_NUM < 180000
#define PG_MODULE_MAGIC_EXT(...) PG_MODULE_MAGIC
#define FKEY_IS_ENFORCED(fkey) true
#define ATTRIBUTE_IS_NEVER_NULL(tupdesc, i) (TupleDescAttr(tupdesc, i)->attnotnull)
#else
#define FKEY_IS_ENFORCED(fkey) ((fkey)->conenforced)
/* a constraint that has not been validated is shown as attnotnull, too */
#define ATTRIBUTE_IS_NEVER_NULL(tupdesc, i) \
	(TupleDescCompactAttr(tupdesc, i)->attnullability == ATTNULLABLE_VALID)
#endif

#if PG_VERSION_NUM < 190000
/* what a syscache callback takes */
typedef int SysCacheIdentifier;
#if PG_VERSION_NUM >= 170000
#define GetNamedDSMSegment(name, size, init, found, arg) \
	GetNamedDSMSegment(name, size, init, found)
#endif
#define NAMED_DSM_INIT_PARAMETERS void *ptr
#include "access/heapam.h"
#include "access/tableam.h"
#if PG_VERSION_NUM < 160000
#define heap_update(rel, tid, new, cid, options, crosscheck, wait, tmfd, lockmode, update_indexes) \
	((void) (update_indexes), \
	 heap_update(rel, tid, new, cid, crosscheck, wait, tmfd, lockmode))
#else
#define heap_update(rel, tid, new, cid, options, crosscheck, wait, tmfd, lockmode, update_indexes) \
	heap_update(rel, tid, new, cid, crosscheck, wait, tmfd, lockmode, update_indexes)
#endif
#define SO_NONE 0
#define table_beginscan(rel, snapshot, nkeys, key, flags) \
	table_beginscan(rel, snapshot, nkeys, key)
#define PLANNER_PARAMETERS \
	Query *parse, const char *query_string, int cursor_options, ParamListInfo params
#define PLANNER_ARGUMENTS parse, query_string, cursor_options, params
#define LWLockNewTrancheId(name) LWLockNewTrancheId()
#else
#define NAMED_DSM_INIT_PARAMETERS void *ptr, void *arg pg_attribute_unused()
#define PLANNER_PARAMETERS \
	Query *parse, const char *query_string, int cursor_options, ParamListInfo params, \
	ExplainState *es
#define PLANNER_ARGUMENTS parse, query_string, cursor_options, params, es
/* done by LWLockNewTrancheId() */
#define LWLockRegisterTranche(tranche_id, tranche_name) ((void) 0)
#endif

#endif							/* OPTOUT_COMPAT_H */
