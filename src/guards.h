/*
 * guards.h
 *		The guards that a table has.
 */
#ifndef OPTOUT_GUARDS_H
#define OPTOUT_GUARDS_H

#include "nodes/pg_list.h"
#include "utils/rel.h"
#include "utils/reltrigger.h"

#include "event.h"

/* as guard() and rules name them */
#define GUARD_TRIGGER "optout_guard"
#define GUARD_RULE_TRIGGER "optout_guard_rule"

/* the guards of a relation, by name */
typedef struct Guards
{
	List	   *by_hand;
	List	   *by_rule;
	List	   *off;			/* those that do not fire always */
	bool		inherited;		/* there is one of a partitioned table above
								 * it */
	bool		covered;		/* one by hand, or inherited, misses nothing */
} Guards;

extern Oid	guards_function(void);
extern bool guards_is_by_rule(const char *name);
extern Guards guards_find(Relation rel);
extern Guards guards_find_all(Relation rel, Oid function, char fires);
extern bool guards_has_any(Oid relid, Oid function);
extern Trigger *guards_namesake(Relation rel, const char *name);
extern const char *guards_gap_of(const Trigger *trigger);
extern void guards_refuse_gaps(Relation rel);
extern List *guards_parse(const Trigger *trigger);
extern EventShape *guards_shape_by(Relation rel, const Trigger *trigger);
extern List *guards_shapes(Relation rel);

#endif							/* OPTOUT_GUARDS_H */
