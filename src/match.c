/*
 * match.c
 *		Which stored rows are somebody's events, as a condition in SQL.
 *
 * The condition holds for the rows that a guard would discard if they arrived
 * now, while these users are opted out: it reads the same columns and paths
 * (event.c), and compares ids byte for byte.  The time of the event does not
 * matter: a user who is opted out now is so for events of any time.
 *
 * A column is compared in its own type, so that an index on it can be used.
 * The text form of a value has to be the id, so each id has one value at
 * most: '7' is that of a bigint, '007' is not, and no bigint column can hold
 * the latter.
 *
 * A document of type jsonb is read with operators, on whose results there may
 * be indexes; the guard reads what #>> gives.  For type json these operators
 * can fail (payload.c), so we use a function of our own.
 *
 * In the condition, the event has the alias "e".  Names other than the
 * table's columns are qualified, or are in pg_catalog. $1 and so on are the
 * parameters of Match.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "compat.h"
#include "event.h"
#include "match.h"

/* the parameters of one of ident_types */
#define MATCH_IDS(type) ((type) + 1)
#define MATCH_ORGANIZATION(type) ((type) + IDENT_TYPES + 1)

static Datum match_array(int type, const UserIds *ids, int limit, int *count);
static char *match_shape(Relation rel, const EventShape *shape, const Match *match, List **sources);
static const char *match_organization(Relation rel, const EventShape *shape, const Match *match);
static char *match_document_organization(Relation rel, const EventShape *shape, const Match *match);
static bool match_never_null(Relation rel, AttrNumber attnum);
static MatchSource *match_source(Relation rel, const EventShape *shape, const EventSource *source,
								 const Match *match);
static char *match_column(Relation rel, const EventSource *source, const char *parameter,
						  const char *text_parameter);
static char *match_document(Relation rel, const EventShape *shape);
static char *match_keys(const PayloadPath *path);
static char *match_chain(const char *document, const PayloadPath *path);
static const char *match_name(Relation rel, AttrNumber attnum);

/*
 * Whose events a table with guards of these shapes holds.
 */
MatchHolder
match_holder(List *shapes, text *organization)
{
	MatchHolder result = MATCH_OTHERS;
	ListCell   *cell;

	foreach(cell, shapes)
	{
		EventShape *shape = lfirst(cell);
		text	   *fixed = shape->fixed_organization;

		if (fixed == NULL && (shape->organization.attnum != InvalidAttrNumber || shape->organization.path != NULL))
			return MATCH_OURS;
		if (ident_compare(PointerGetDatum(fixed != NULL ? fixed : organization_setting_text),
						  PointerGetDatum(organization)) == 0)
			return MATCH_OURS;
		if (fixed == NULL)
			result = MATCH_WRITERS;
	}
	return result;
}

/*
 * Look for these ids, or for so many of them.
 */
void
match_users(Match *match, text *organization, const UserIds *users, const UserIds *aliases, int limit)
{
	UserIds		all;

	all.count = users->count + aliases->count;
	all.ids = palloc_extended(Max(all.count, 1) * sizeof(Datum), MCXT_ALLOC_HUGE);
	memcpy(all.ids, users->ids, users->count * sizeof(Datum));
	memcpy(all.ids + users->count, aliases->ids, aliases->count * sizeof(Datum));

	match->organization = organization;
	match->is_setting = ident_compare(PointerGetDatum(organization_setting_text),
									  PointerGetDatum(organization)) == 0;
	for (int type = 0; type < IDENT_TYPES; type++)
	{
		int			ids = MATCH_IDS(type) - 1;
		int			name = MATCH_ORGANIZATION(type) - 1;

		match->types[ids] = ident_types[type].array_type;
		match->values[ids] = match_array(type, &all, limit, &match->nids[type]);
		match->nulls[ids] = ' ';
		match->types[name] = ident_types[type].type;
		match->nulls[name] = ident_to_datum(ident_types[type].type, organization, &match->values[name]) ? ' ' : 'n';
	}
}

/*
 * Those of the ids for which the type has a value.
 */
static Datum
match_array(int type, const UserIds *ids, int limit, int *count)
{
	Oid			typeid = ident_types[type].type;
	Datum	   *values = palloc_extended(Max(ids->count, 1) * sizeof(Datum), MCXT_ALLOC_HUGE);
	int16		len;
	bool		byval;
	char		align;

	*count = 0;
	for (int i = 0; i < ids->count && *count < limit; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (ident_to_datum(typeid, DatumGetTextPP(ids->ids[i]), &values[*count]))
			(*count)++;
	}
	get_typlenbyvalalign(typeid, &len, &byval, &align);
	return PointerGetDatum(construct_array(values, *count, typeid, len, byval, align));
}

/*
 * The condition for rows of a table with guards of these shapes; NULL where none
 * can be theirs.  Also the places where it looks for ids.
 */
char *
match_condition(Relation rel, List *shapes, const Match *match, List **sources)
{
	StringInfoData result;
	ListCell   *cell;

	*sources = NIL;
	initStringInfo(&result);
	foreach(cell, shapes)
	{
		char	   *condition = match_shape(rel, lfirst(cell), match, sources);

		if (condition != NULL)
			appendStringInfo(&result, "%s%s", result.len > 0 ? " OR " : "", condition);
	}
	return result.len > 0 ? result.data : NULL;
}

static char *
match_shape(Relation rel, const EventShape *shape, const Match *match, List **sources)
{
	StringInfoData ids;
	const char *organization = match_organization(rel, shape, match);

	if (organization == NULL)
		return NULL;
	initStringInfo(&ids);
	for (int i = 0; i < shape->nuser_ids; i++)
	{
		MatchSource *source = match_source(rel, shape, &shape->user_ids[i], match);

		if (source == NULL)
			continue;
		appendStringInfo(&ids, "%s%s", ids.len > 0 ? " OR " : "", source->condition);
		source->condition = psprintf("%s%s", source->condition, organization);
		*sources = lappend(*sources, source);
	}
	return ids.len > 0 ? psprintf("(%s)%s", ids.data, organization) : NULL;
}

/*
 * Whether an event is the organization's, as " AND ..." if there is anything to
 * compare; NULL where none can be.
 */
static const char *
match_organization(Relation rel, const EventShape *shape, const Match *match)
{
	const EventSource *source = &shape->organization;
	char	   *equal = NULL;

	if (shape->fixed_organization != NULL)
		return ident_compare(PointerGetDatum(shape->fixed_organization),
							 PointerGetDatum(match->organization)) == 0 ? "" : NULL;
	if (source->path != NULL)
		return psprintf(" AND %s", match_document_organization(rel, shape, match));
	if (source->attnum == InvalidAttrNumber)
		return match->is_setting ? "" : NULL;

	if (match->nulls[MATCH_ORGANIZATION(ident_type(source->type)) - 1] == ' ')
		equal = match_column(rel, source,
							 psprintf("$%d", MATCH_ORGANIZATION(ident_type(source->type))),
							 psprintf("$%d", MATCH_ORGANIZATION(IDENT_TEXT)));
	if (!match->is_setting || match_never_null(rel, source->attnum))
		return equal != NULL ? psprintf(" AND %s", equal) : NULL;
	return psprintf(" AND (%s%se.%s IS NULL)", equal != NULL ? equal : "", equal != NULL ? " OR " : "",
					match_name(rel, source->attnum));
}

/*
 * Whether no row has NULL in the column.  Inheritance children may where their parent
 * may not.
 */
static bool
match_never_null(Relation rel, AttrNumber attnum)
{
	return ATTRIBUTE_IS_NEVER_NULL(RelationGetDescr(rel), attnum - 1) &&
		(rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE || !rel->rd_rel->relhassubclass);
}

/*
 * The same for one inside a document.  What is there and can be no organization
 * says nothing.
 */
static char *
match_document_organization(Relation rel, const EventShape *shape, const Match *match)
{
	const PayloadPath *path = shape->organization.path;
	char	   *document = match_document(rel, shape);
	char	   *value;

	if (shape->payload.type == JSONBOID)
		value = psprintf("CASE WHEN jsonb_typeof(%s #> %s) IN ('string', 'number') THEN %s #>> %s END",
						 document, match_keys(path), document, match_keys(path));
	else
		value = psprintf("optout.json_id(%s, %s)", document, quote_literal_cstr(path->source));
	if (!match->is_setting)
		return psprintf("(%s) = $%d", value, MATCH_ORGANIZATION(IDENT_TEXT));
	return psprintf("COALESCE((SELECT o = $%d OR o IN ('', '" EVERY_ORGANIZATION "') OR octet_length(o) > %d "
					"FROM (SELECT %s) AS o (o)), true)",
					MATCH_ORGANIZATION(IDENT_TEXT), IDENT_MAX_LEN, value);
}

/*
 * Where and how to look for ids; NULL where none of them can be.
 */
static MatchSource *
match_source(Relation rel, const EventShape *shape, const EventSource *source, const Match *match)
{
	MatchSource *result = palloc(sizeof(MatchSource));
	char	   *parameter;
	char	   *document;
	char	   *keys;
	char	   *chain;

	if (source->path == NULL)
	{
		int			type = ident_type(source->type);

		if (match->nids[type] == 0)
			return NULL;
		result->name = pstrdup(NameStr(TupleDescAttr(RelationGetDescr(rel), source->attnum - 1)->attname));
		result->condition = match_column(rel, source, psprintf("ANY ($%d)", MATCH_IDS(type)),
										 psprintf("ANY ($%d)", MATCH_IDS(IDENT_TEXT)));
		result->index = psprintf("%s", match_name(rel, source->attnum));
		return result;
	}

	if (match->nids[IDENT_TEXT] == 0)
		return NULL;
	parameter = psprintf("ANY ($%d)", MATCH_IDS(IDENT_TEXT));
	document = match_document(rel, shape);
	result->name = source->path->source;
	if (shape->payload.type != JSONBOID)
	{
		result->condition = psprintf("optout.json_id(%s, %s) = %s",
									 document, quote_literal_cstr(source->path->source), parameter);
		result->index = psprintf("optout.json_id(%s, %s)", match_name(rel, shape->payload.attnum),
								 quote_literal_cstr(source->path->source));
		return result;
	}

	/*
	 * an index may be on either form; both give the same, if the latter does
	 * at all
	 */
	keys = match_keys(source->path);
	chain = match_chain(document, source->path);
	result->condition = psprintf("(%s #>> %s = %s AND jsonb_typeof(%s #> %s) IN ('string', 'number')%s)",
								 document, keys, parameter, document, keys,
								 chain == NULL ? "" : psprintf(" AND %s = %s", chain, parameter));
	chain = match_chain(match_name(rel, shape->payload.attnum), source->path);
	result->index = chain != NULL ? psprintf("(%s)", chain) :
		psprintf("(%s #>> %s)", match_name(rel, shape->payload.attnum), keys);
	return result;
}

/*
 * Whether a column's text form is the parameter's.  Where its collation takes
 * different strings for the same, the index finds too many.
 */
static char *
match_column(Relation rel, const EventSource *source, const char *parameter, const char *text_parameter)
{
	const char *name = match_name(rel, source->attnum);
	Oid			collation = TupleDescAttr(RelationGetDescr(rel), source->attnum - 1)->attcollation;
	char	   *equal = psprintf("e.%s::%s = %s", name, ident_types[ident_type(source->type)].name, parameter);

	if (!OidIsValid(collation) || get_collation_isdeterministic(collation))
		return equal;
	return psprintf("(%s AND e.%s::text COLLATE \"C\" = %s)", equal, name, text_parameter);
}

/*
 * The document that the guard reads.
 */
static char *
match_document(Relation rel, const EventShape *shape)
{
	return psprintf("e.%s::%s", match_name(rel, shape->payload.attnum),
					shape->payload.type == JSONBOID ? "jsonb" : "json");
}

/*
 * The keys of a path as an array.
 */
static char *
match_keys(const PayloadPath *path)
{
	StringInfoData result;

	initStringInfo(&result);
	for (int i = 0; i < path->nkeys; i++)
		appendStringInfo(&result, "%s%s", i > 0 ? ", " : "ARRAY[",
						 quote_literal_cstr(text_to_cstring(path->keys[i])));
	appendStringInfoString(&result, "]");
	return result.data;
}

/*
 * The same path by single steps, as in data -> 'user' ->> 'id'.  NULL where a key
 * may be an element of an array, which these operators take for an object's only.
 */
static char *
match_chain(const char *document, const PayloadPath *path)
{
	StringInfoData result;
	int			element;

	initStringInfo(&result);
	appendStringInfoString(&result, document);
	for (int i = 0; i < path->nkeys; i++)
	{
		if (payload_is_subscript(path->keys[i], &element))
			return NULL;
		appendStringInfo(&result, " %s %s", i < path->nkeys - 1 ? "->" : "->>",
						 quote_literal_cstr(text_to_cstring(path->keys[i])));
	}
	return result.data;
}

static const char *
match_name(Relation rel, AttrNumber attnum)
{
	return quote_identifier(pstrdup(NameStr(TupleDescAttr(RelationGetDescr(rel), attnum - 1)->attname)));
}
