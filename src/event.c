/*
 * event.c
 *		Which columns and paths hold the ids, the organization and the time of
 *		a table's events.
 *
 * The arguments of a guard's trigger say this.  Each is a role, for the next
 * column of the trigger's UPDATE OF list, or a role with a value:
 *
 *		'user_id', 'user_id=$.device.id', 'payload', 'time_zone=UTC'
 *
 * The list names the columns: the server keeps it by number and thus follows
 * renames, hands it down to partitions by name, and dumps it by the names of the
 * day; it keeps a column of the list from being dropped or given another type.
 * Guards of one id column have had the first form since 1.0.
 *
 * A guard that a rule has made (rules.c) must not keep anybody from altering
 * columns.  So it has no list, and its arguments name its columns:
 *
 *		'user_id=anonymous_id', 'payload=data'
 *
 * A value that begins with $ is a path here as well.  The payload itself
 * cannot be at a path.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "accepts.h"
#include "event.h"
#include "ident.h"
#include "ledger.h"
#include "moment.h"

const char *const event_role_names[EVENT_ROLES] = {
	"user_id", "organization", "occurred_at", "payload", "time_zone", "fixed_organization"
};

/* the payload of one row, opened when it is first needed */
typedef struct EventPayload
{
	bool		read;
	bool		isnull;
	Datum		opened;
} EventPayload;

static bool event_parse_argument(const char *string, EventArgument *argument);
static AttrNumber event_find_column(Relation rel, const EventArgument *argument, bool has_time_zone);
static Answer event_ask_at_once(const EventShape *shape, TupleTableSlot *slot, EventPayload *payload,
								text *organization);
static text *event_ident(const EventShape *shape, const EventSource *source,
						 TupleTableSlot *slot, EventPayload *payload);
static int	event_idents(const EventShape *shape, TupleTableSlot *slot, EventPayload *payload,
						 text **user_ids);
static text *event_organization(const EventShape *shape, TupleTableSlot *slot, EventPayload *payload);
static bool event_time(const EventShape *shape, TupleTableSlot *slot, EventPayload *payload,
					   TimestampTz *occurred_at);
static text *event_get_path(const EventShape *shape, const PayloadPath *path, TupleTableSlot *slot,
							EventPayload *payload, bool *is_string);
static bool event_column_changes(AttrNumber attnum, TupleTableSlot *before, TupleTableSlot *after);
static bool event_payload_changes(const EventShape *shape, TupleTableSlot *before, TupleTableSlot *after);
static bool event_path_changes(const EventShape *shape, TupleTableSlot *before, TupleTableSlot *after,
							   EventPayload *payloads);
static bool event_same_text(text *a, text *b);

/*
 * Read one argument of a trigger.  False if it is none that we know.
 */
static bool
event_parse_argument(const char *string, EventArgument *argument)
{
	const char *separator = strchr(string, '=');
	size_t		len = separator ? (size_t) (separator - string) : strlen(string);

	argument->attnum = InvalidAttrNumber;
	argument->column = NULL;
	argument->value = separator ? separator + 1 : NULL;
	for (int role = 0; role < EVENT_ROLES; role++)
	{
		if (strlen(event_role_names[role]) != len || memcmp(event_role_names[role], string, len) != 0)
			continue;
		argument->role = role;
		if (separator != NULL && role < EVENT_TIME_ZONE &&
			(role == EVENT_PAYLOAD || argument->value[0] != '$'))
		{
			argument->column = argument->value;
			argument->value = NULL;
		}
		/* a constant is no column of the list */
		return separator != NULL || role < EVENT_TIME_ZONE;
	}
	return false;
}

/*
 * Read the arguments of a trigger and the columns of its list.  NIL if they do
 * not say which columns to read, or not what a path leads into, or in which zone
 * the times are that it leads to.
 */
List *
event_parse_arguments(int nargs, char **args, int nattrs, const int16 *attnums)
{
	List	   *result = NIL;
	int			nused = 0;
	bool		has[EVENT_ROLES] = {false};
	bool		has_path = false;
	bool		has_time_path = false;

	for (int i = 0; i < nargs; i++)
	{
		EventArgument *argument = palloc(sizeof(EventArgument));
		bool		listed;

		if (!event_parse_argument(args[i], argument))
			return NIL;
		listed = argument->column == NULL && argument->value == NULL;
		if (listed && nused == nattrs)
			return NIL;
		if (listed)
			argument->attnum = attnums[nused++];
		has[argument->role] = true;
		if (argument->value != NULL && argument->role < EVENT_TIME_ZONE)
		{
			has_path = true;
			has_time_path |= argument->role == EVENT_OCCURRED_AT;
		}
		result = lappend(result, argument);
	}
	if (!has[EVENT_USER_ID] || nused != nattrs ||
		(has_path && !has[EVENT_PAYLOAD]) || (has_time_path && !has[EVENT_TIME_ZONE]))
		return NIL;
	return result;
}

/*
 * Raise an error unless the relation has such a column and the guard can read
 * from it what it needs.
 */
AttrNumber
event_check_column(Relation rel, EventRole role, const char *colname, bool has_time_zone)
{
	AttrNumber	attnum = get_attnum(RelationGetRelid(rel), colname);
	Form_pg_attribute att;
	Oid			type;
	bool		type_supported;
	const char *hint;

	if (attnum == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						colname, RelationGetRelationName(rel)),
				 role == EVENT_ORGANIZATION ?
				 errhint("Pass the name of the column that holds the event's organization, or the organization of all events as fixed_organization.") :
				 errhint("Pass the name of the column that holds the event's %s.",
						 event_role_names[role])));
	if (attnum < 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot guard by system column \"%s\"", colname)));

	att = TupleDescAttr(RelationGetDescr(rel), attnum - 1);
	type = getBaseType(att->atttypid);
	if (role == EVENT_OCCURRED_AT)
	{
		type_supported = type == TIMESTAMPTZOID || (type == TIMESTAMPOID && has_time_zone);
		hint = type == TIMESTAMPOID ?
			"Pass its time zone as time_zone, or use a column of type timestamp with time zone." :
			"Use a column of type timestamp with time zone.";
	}
	else if (role == EVENT_PAYLOAD)
	{
		type_supported = payload_type_supported(type);
		hint = "Use a column of type json or jsonb.";
	}
	else
	{
		type_supported = ident_type(type) >= 0;
		hint = payload_type_supported(type) ?
			"Pass the column as payload, and a path such as $.user.id for what it holds." :
			"Use a column of type text, character varying, character, name, uuid, bigint, integer or smallint.";
	}
	if (!type_supported)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of relation \"%s\" cannot hold an event's %s",
						colname, RelationGetRelationName(rel), event_role_names[role]),
				 errdetail("It is of type %s.", format_type_be(att->atttypid)),
				 errhint("%s", hint)));
	if (att->attgenerated != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot guard by generated column \"%s\" of relation \"%s\"",
						colname, RelationGetRelationName(rel)),
				 errdetail("Generated columns are computed after BEFORE triggers have fired.")));
	return attnum;
}

/*
 * The relation's column that an argument names; 0 where it names none.
 */
static AttrNumber
event_find_column(Relation rel, const EventArgument *argument, bool has_time_zone)
{
	if (argument->attnum != InvalidAttrNumber)
		return event_check_column(rel, argument->role,
								  NameStr(TupleDescAttr(RelationGetDescr(rel), argument->attnum - 1)->attname),
								  has_time_zone);
	if (argument->column == NULL)
		return InvalidAttrNumber;

	/* the event trigger has not been there to make the guard anew */
	if (get_attnum(RelationGetRelid(rel), argument->column) == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\", which the guard reads, does not exist",
						argument->column, RelationGetRelationName(rel)),
				 errhint("Call optout.guard_schema() again, or optout.guard() for the table.")));
	return event_check_column(rel, argument->role, argument->column, has_time_zone);
}

/*
 * What the guard with these arguments reads of the relation's rows.  guard() has
 * checked it, but of a partition attached later, or where guard() has not made
 * the trigger, nobody has.
 */
EventShape *
event_shape(Relation rel, List *arguments)
{
	EventShape *shape = palloc0(sizeof(EventShape));
	ListCell   *cell;

	shape->user_ids = palloc0(list_length(arguments) * sizeof(EventSource));
	foreach(cell, arguments)
	{
		EventArgument *argument = lfirst(cell);

		if (argument->role != EVENT_TIME_ZONE)
			continue;
		shape->time_zone = moment_time_zone(argument->value);
		/* without it, no event would have a time */
		if (shape->time_zone == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("time zone \"%s\" not recognized", argument->value),
					 errdetail("The guard of relation \"%s\" needs it.", RelationGetRelationName(rel))));
	}
	foreach(cell, arguments)
	{
		EventArgument *argument = lfirst(cell);
		EventSource source = {event_find_column(rel, argument, shape->time_zone != NULL), InvalidOid, NULL};

		if (source.attnum != InvalidAttrNumber)
			source.type = getBaseType(TupleDescAttr(RelationGetDescr(rel), source.attnum - 1)->atttypid);
		else if (argument->role < EVENT_TIME_ZONE)
			source.path = payload_parse_path(argument->value);

		switch (argument->role)
		{
			case EVENT_USER_ID:
				shape->user_ids[shape->nuser_ids++] = source;
				break;
			case EVENT_ORGANIZATION:
				shape->organization = source;
				break;
			case EVENT_OCCURRED_AT:
				shape->occurred_at = source;
				break;
			case EVENT_PAYLOAD:
				shape->payload = source;
				break;
			case EVENT_FIXED_ORGANIZATION:
				shape->fixed_organization = organization_check(cstring_to_text(argument->value));
				break;
			case EVENT_TIME_ZONE:
			case EVENT_ROLES:
				break;
		}
	}
	return shape;
}

/*
 * Whether the row's event may be stored.  If not, it counts as discarded, once.
 */
bool
event_is_accepted(const EventShape *shape, TupleTableSlot *slot)
{
	EventPayload payload = {false};
	text	   *organization = event_organization(shape, slot, &payload);
	Answer		answer = event_ask_at_once(shape, slot, &payload, organization);
	text	  **user_ids;
	int			nuser_ids;
	TimestampTz occurred_at;
	bool		has_time;

	if (likely(answer != NOT_KNOWN))
		return answer == NOT_OPTED_OUT;

	user_ids = palloc(shape->nuser_ids * sizeof(text *));
	nuser_ids = event_idents(shape, slot, &payload, user_ids);
	has_time = event_time(shape, slot, &payload, &occurred_at);
	return accepts_event_of_all(organization, user_ids, nuser_ids, has_time ? &occurred_at : NULL);
}

/*
 * Whether any of its users is opted out, if that is known at once, as of nearly
 * all rows.  If so, it counts as discarded, once.
 */
static Answer
event_ask_at_once(const EventShape *shape, TupleTableSlot *slot, EventPayload *payload, text *organization)
{
	bool		has_time = shape->occurred_at.attnum != InvalidAttrNumber || shape->occurred_at.path != NULL;
	Answer		answer = NOT_OPTED_OUT;

	for (int i = 0; i < shape->nuser_ids && answer == NOT_OPTED_OUT; i++)
	{
		const EventSource *source = &shape->user_ids[i];
		Oid			type = source->type;
		Datum		value;
		bool		isnull;

		if (source->path == NULL)
			value = slot_getattr(slot, source->attnum, &isnull);
		else
		{
			text	   *ident = event_ident(shape, source, slot, payload);

			type = TEXTOID;
			value = PointerGetDatum(ident);
			isnull = ident == NULL;
		}
		if (!isnull)
			answer = is_opted_out_at_once(organization, type, value, has_time);
	}
	if (answer == OPTED_OUT)
		ledger_count(organization);
	return answer;
}

/*
 * The id that a column or path holds; NULL where it names nobody.
 */
static text *
event_ident(const EventShape *shape, const EventSource *source, TupleTableSlot *slot, EventPayload *payload)
{
	Datum		value;
	bool		isnull;
	bool		is_string;

	if (source->attnum == InvalidAttrNumber)
		return event_get_path(shape, source->path, slot, payload, &is_string);
	value = slot_getattr(slot, source->attnum, &isnull);
	return isnull ? NULL : ident_from_datum(source->type, value);
}

/*
 * The event's organization.  What can be no organization is an error in a
 * column, as in accepts.c.  In a document it says nothing.
 */
static text *
event_organization(const EventShape *shape, TupleTableSlot *slot, EventPayload *payload)
{
	text	   *organization = NULL;

	if (shape->fixed_organization != NULL)
		return shape->fixed_organization;
	if (shape->organization.attnum != InvalidAttrNumber || shape->organization.path != NULL)
		organization = event_ident(shape, &shape->organization, slot, payload);
	if (shape->organization.path != NULL &&
		organization != NULL && !organization_is_valid(organization))
		organization = NULL;
	return organization_resolve(organization);
}

/*
 * When the event occurred; false where the row does not say it.
 */
static bool
event_time(const EventShape *shape, TupleTableSlot *slot, EventPayload *payload, TimestampTz *occurred_at)
{
	const EventSource *source = &shape->occurred_at;
	Datum		value;
	bool		isnull;

	if (source->path != NULL)
	{
		bool		is_string = false;
		text	   *string = event_get_path(shape, source->path, slot, payload, &is_string);

		return string != NULL && is_string && shape->time_zone != NULL &&
			moment_from_text(string, shape->time_zone, occurred_at);
	}
	if (source->attnum == InvalidAttrNumber)
		return false;
	value = slot_getattr(slot, source->attnum, &isnull);
	if (isnull)
		return false;
	if (source->type == TIMESTAMPOID)
		return moment_from_timestamp(DatumGetTimestamp(value), shape->time_zone, occurred_at);
	*occurred_at = DatumGetTimestampTz(value);
	return true;
}

static text *
event_get_path(const EventShape *shape, const PayloadPath *path, TupleTableSlot *slot,
			   EventPayload *payload, bool *is_string)
{
	if (!payload->read)
	{
		Datum		value = slot_getattr(slot, shape->payload.attnum, &payload->isnull);

		if (!payload->isnull)
			payload->opened = payload_open(shape->payload.type, value);
		payload->read = true;
	}
	return payload->isnull ? NULL : payload_get(shape->payload.type, payload->opened, path, is_string);
}

/*
 * Which columns change so that the event is another user's, of another
 * organization or of another time, and how many.  There is room for all that the
 * guard reads.
 */
int
event_changes(const EventShape *shape, TupleTableSlot *before, TupleTableSlot *after, AttrNumber *changed)
{
	int			nchanged = 0;

	for (int i = 0; i < shape->nuser_ids; i++)
	{
		if (event_column_changes(shape->user_ids[i].attnum, before, after))
			changed[nchanged++] = shape->user_ids[i].attnum;
	}
	if (event_column_changes(shape->organization.attnum, before, after))
		changed[nchanged++] = shape->organization.attnum;
	if (event_column_changes(shape->occurred_at.attnum, before, after))
		changed[nchanged++] = shape->occurred_at.attnum;
	if (shape->payload.attnum != InvalidAttrNumber && event_payload_changes(shape, before, after))
		changed[nchanged++] = shape->payload.attnum;
	return nchanged;
}

/*
 * All ids of the row, and how many.
 */
static int
event_idents(const EventShape *shape, TupleTableSlot *slot, EventPayload *payload, text **user_ids)
{
	int			nuser_ids = 0;

	for (int i = 0; i < shape->nuser_ids; i++)
	{
		user_ids[nuser_ids] = event_ident(shape, &shape->user_ids[i], slot, payload);
		if (user_ids[nuser_ids] != NULL)
			nuser_ids++;
	}
	return nuser_ids;
}

/*
 * Whether an UPDATE may make a stored event this one.  If not, it counts as
 * discarded, once.
 *
 * If the event stays of the same organization and time, only the ids that it gets
 * are asked about: it was an event of the others before, and to refuse the UPDATE
 * would leave it with all of their ids.
 */
bool
event_update_is_accepted(const EventShape *shape, TupleTableSlot *before, TupleTableSlot *after)
{
	EventPayload payloads[2] = {{false}};
	text	   *organization;
	text	  **old_ids;
	text	  **new_ids;
	int			nold;
	int			nnew;
	int			nasked = 0;
	TimestampTz occurred_at;
	const TimestampTz *at;

	if (event_column_changes(shape->organization.attnum, before, after) ||
		event_column_changes(shape->occurred_at.attnum, before, after) ||
		event_path_changes(shape, before, after, payloads))
		return event_is_accepted(shape, after);

	old_ids = palloc(shape->nuser_ids * sizeof(text *));
	new_ids = palloc(shape->nuser_ids * sizeof(text *));
	nold = event_idents(shape, before, &payloads[0], old_ids);
	nnew = event_idents(shape, after, &payloads[1], new_ids);
	for (int i = 0; i < nnew; i++)
	{
		bool		found = false;

		for (int j = 0; j < nold && !found; j++)
			found = event_same_text(new_ids[i], old_ids[j]);
		if (!found)
			new_ids[nasked++] = new_ids[i];
	}
	if (nasked == 0)
		return true;
	organization = event_organization(shape, after, &payloads[1]);
	at = event_time(shape, after, &payloads[1], &occurred_at) ? &occurred_at : NULL;
	return accepts_event_of_all(organization, new_ids, nasked, at);
}

static bool
event_column_changes(AttrNumber attnum, TupleTableSlot *before, TupleTableSlot *after)
{
	Form_pg_attribute att;
	Datum		x,
				y;
	bool		xnull,
				ynull;

	if (attnum == InvalidAttrNumber)
		return false;
	att = TupleDescAttr(before->tts_tupleDescriptor, attnum - 1);
	x = slot_getattr(before, attnum, &xnull);
	y = slot_getattr(after, attnum, &ynull);
	return xnull != ynull || (!xnull && !datum_image_eq(x, y, att->attbyval, att->attlen));
}

/*
 * Whether any of the paths leads to something else.
 */
static bool
event_payload_changes(const EventShape *shape, TupleTableSlot *before, TupleTableSlot *after)
{
	EventPayload payloads[2] = {{false}};
	bool		xnull,
				ynull;
	Datum		x = slot_getattr(before, shape->payload.attnum, &xnull);
	Datum		y = slot_getattr(after, shape->payload.attnum, &ynull);

	/* the same bytes, or the same pointer to what is stored elsewhere */
	if (xnull && ynull)
		return false;
	if (!xnull && !ynull && VARSIZE_ANY(DatumGetPointer(x)) == VARSIZE_ANY(DatumGetPointer(y)) &&
		memcmp(DatumGetPointer(x), DatumGetPointer(y), VARSIZE_ANY(DatumGetPointer(x))) == 0)
		return false;

	for (int i = 0; i < shape->nuser_ids; i++)
	{
		if (shape->user_ids[i].path != NULL &&
			!event_same_text(event_ident(shape, &shape->user_ids[i], before, &payloads[0]),
							 event_ident(shape, &shape->user_ids[i], after, &payloads[1])))
			return true;
	}
	return event_path_changes(shape, before, after, payloads);
}

/*
 * Whether a path leads to another organization or time.
 */
static bool
event_path_changes(const EventShape *shape, TupleTableSlot *before, TupleTableSlot *after,
				   EventPayload *payloads)
{
	TimestampTz times[2] = {0, 0};

	if (shape->organization.path != NULL &&
		!event_same_text(event_organization(shape, before, &payloads[0]),
						 event_organization(shape, after, &payloads[1])))
		return true;
	return shape->occurred_at.path != NULL &&
		(event_time(shape, before, &payloads[0], &times[0]) !=
		 event_time(shape, after, &payloads[1], &times[1]) || times[0] != times[1]);
}

static bool
event_same_text(text *a, text *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}
