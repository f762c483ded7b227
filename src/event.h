/*
 * event.h
 *		Where a table's rows say whose event they are, of which organization, and
 *		when it occurred.
 */
#ifndef OPTOUT_EVENT_H
#define OPTOUT_EVENT_H

#include "access/attnum.h"
#include "datatype/timestamp.h"
#include "executor/tuptable.h"
#include "nodes/pg_list.h"
#include "pgtime.h"
#include "utils/rel.h"

#include "payload.h"

/* what a column can be to the guard; the trigger's arguments name these */
typedef enum EventRole
{
	EVENT_USER_ID,
	EVENT_ORGANIZATION,
	EVENT_OCCURRED_AT,
	EVENT_PAYLOAD,
	EVENT_TIME_ZONE,			/* from here on no column, but a constant */
	EVENT_FIXED_ORGANIZATION,
	EVENT_ROLES
} EventRole;

/*
 * An argument of the guard's trigger.  One of the three says what it names: the
 * next column of the trigger's list, a column by its name, or what is no column.
 */
typedef struct EventArgument
{
	EventRole	role;
	AttrNumber	attnum;			/* 0 where it is not of the list */
	const char *column;			/* NULL where it is not by name */
	const char *value;			/* the path or constant */
} EventArgument;

/* a column, or a path into the payload */
typedef struct EventSource
{
	AttrNumber	attnum;			/* 0 where it is not a column */
	Oid			type;			/* base type */
	PayloadPath *path;			/* NULL where it is not a path */
} EventSource;

/* all that the guard reads of a row */
typedef struct EventShape
{
	int			nuser_ids;
	EventSource *user_ids;
	EventSource organization;
	EventSource occurred_at;
	EventSource payload;
	pg_tz	   *time_zone;
	text	   *fixed_organization;
} EventShape;

extern const char *const event_role_names[EVENT_ROLES];

extern List *event_parse_arguments(int nargs, char **args, int nattrs, const int16 *attnums);

extern AttrNumber event_check_column(Relation rel, EventRole role, const char *colname,
									 bool has_time_zone);
extern EventShape *event_shape(Relation rel, List *arguments);

/* how many columns event_changes() may find */
static inline int
event_max_changes(const EventShape *shape)
{
	return shape->nuser_ids + 3;
}

extern bool event_is_accepted(const EventShape *shape, TupleTableSlot *slot);
extern bool event_update_is_accepted(const EventShape *shape, TupleTableSlot *before,
									 TupleTableSlot *after);
extern int	event_changes(const EventShape *shape, TupleTableSlot *before, TupleTableSlot *after,
						  AttrNumber *changed);

#endif							/* OPTOUT_EVENT_H */
