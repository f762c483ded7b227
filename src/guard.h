/*
 * guard.h
 *		What others have to know of guards.
 */
#ifndef OPTOUT_GUARD_H
#define OPTOUT_GUARD_H

#include "fmgr.h"
#include "nodes/pg_list.h"
#include "utils/array.h"
#include "utils/rel.h"
#include "utils/reltrigger.h"

#include "event.h"

/* what a guard is asked to read; elements are C strings */
typedef struct GuardRequest
{
	List	   *user_ids;
	char	   *organization;
	char	   *occurred_at;
	char	   *payload;
	char	   *time_zone;
	char	   *fixed_organization;
	bool		has_paths;		/* what begins with $ is a path, not a column */
} GuardRequest;

extern Relation guard_open_own_table(FunctionCallInfo fcinfo);
extern uint64 guard_run(const char *command, int nargs, Oid *argtypes, Datum *values);

extern GuardRequest guard_request_from_args(FunctionCallInfo fcinfo);
extern List *guard_user_ids(ArrayType *array);
extern void guard_check_request(const GuardRequest *request);
extern void guard_check_path(const GuardRequest *request, EventRole role, const char *path);
extern void guard_payload_unused(const char *payload);
extern void guard_note_organizations(const GuardRequest *request, const char *what, const char *name);

extern GuardRequest guard_request_of(Relation rel, const char *name);
extern void guard_create_by_rule(Relation rel, const GuardRequest *request);
extern void guard_drop_by_rule(Oid relid, bool partitions_only);
extern void guard_let_owner_add_partitions(Relation rel);

#endif							/* OPTOUT_GUARD_H */
