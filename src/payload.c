/*
 * payload.c
 *		What a path leads to in a json or jsonb document.
 *
 * A path names keys only, as in $.user.id.  It leads to the value that the
 * operator #>> gives for these keys: among several members with the same key,
 * to the last; in an array, a key that is a number leads to that element.
 *
 * Nothing that a document contains is an error here.  That is why we read json
 * ourselves: the operator unescapes every string on its way, and fails on those
 * that the server cannot represent, such as "\u0000".  We look at tokens, which
 * the type has checked, and unescape only what the path leads to.  We do not
 * recurse, so documents can be of any depth.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "common/string.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/jsonpath.h"
#include "utils/numeric.h"

#include "payload.h"

PG_FUNCTION_INFO_V1(optout_json_id);

/*
 * The longest number, and the largest exponent, that we give to the type
 * numeric, which could raise an error for larger ones.  No id is that long.
 */
#define PAYLOAD_MAX_NUMBER 8000

/* a scalar in the text of a json document; start is NULL where there is none */
typedef struct JsonToken
{
	const char *start;
	const char *end;			/* behind it */
	bool		escaped;		/* a string with a backslash in it */
} JsonToken;

static text *payload_get_jsonb(Datum document, const PayloadPath *path, bool *is_string);
static text *payload_get_element(Datum document, const PayloadPath *path, bool *is_string);
static text *payload_from_jsonb(const JsonbValue *value, bool *is_string);
static text *payload_get_json(text *document, const PayloadPath *path, bool *is_string);
static JsonToken payload_find(const char *p, const char *end, const PayloadPath *path);
static const char *payload_skip_space(const char *p, const char *end);
static JsonToken payload_scalar(const char *p, const char *end);
static int	payload_element(text *key, const char *p, const char *end);
static int	payload_count_elements(const char *p, const char *end);
static bool payload_is_key(const JsonToken *token, text *key);
static text *payload_string(const JsonToken *token);
static text *payload_unescape(const char *p, const char *end);
static bool payload_hex(const char *p, const char *end, pg_wchar *value);
static bool payload_append_character(StringInfo result, pg_wchar c);
static text *payload_number(const char *start, int len);

/*
 * The path, checked by the parser of SQL/JSON paths.
 */
PayloadPath *
payload_parse_path(const char *path)
{
	JsonPath   *jsonpath = DatumGetJsonPathP(DirectFunctionCall1(jsonpath_in, CStringGetDatum(path)));
	PayloadPath *result = palloc0(sizeof(PayloadPath));
	int			size = 8;
	JsonPathItem item;
	bool		only_keys;

	result->source = pstrdup(path);
	result->keys = palloc(size * sizeof(text *));
	jspInit(&item, jsonpath);
	only_keys = item.type == jpiRoot;
	while (only_keys && jspHasNext(&item))
	{
		JsonPathItem next;
		char	   *key;
		int32		len;

		jspGetNext(&item, &next);
		item = next;
		only_keys = item.type == jpiKey;
		if (!only_keys)
			break;
		if (result->nkeys == size)
			result->keys = repalloc(result->keys, (size *= 2) * sizeof(text *));
		key = jspGetString(&item, &len);
		result->keys[result->nkeys++] = cstring_to_text_with_len(key, len);
	}
	if (!only_keys || result->nkeys == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot guard by path \"%s\"", path),
				 errdetail("A path has to consist of keys, as in $.user.id or $.\"a b\".c.")));

	result->elements = palloc(result->nkeys * sizeof(Datum));
	for (int i = 0; i < result->nkeys; i++)
		result->elements[i] = PointerGetDatum(result->keys[i]);
	return result;
}

/*
 * Whether a column of this (base) type can hold a document.
 */
bool
payload_type_supported(Oid type)
{
	return type == JSONOID || type == JSONBOID;
}

/*
 * Fetch and decompress a document, once for all paths.
 */
Datum
payload_open(Oid type, Datum document)
{
	if (type == JSONBOID)
		return JsonbPGetDatum(DatumGetJsonbP(document));
	return PointerGetDatum(DatumGetTextPP(document));
}

/*
 * The string or number that the path leads to, as text; NULL where it leads to
 * anything else, to nothing, or to what text cannot hold.
 */
text *
payload_get(Oid type, Datum opened, const PayloadPath *path, bool *is_string)
{
	if (type == JSONBOID)
		return payload_get_jsonb(opened, path, is_string);
	return payload_get_json((text *) DatumGetPointer(opened), path, is_string);
}

/*
 * Which element of an array the key is, as the operators take it; false for a key
 * that can only be an object's.
 */
bool
payload_is_subscript(text *key, int *element)
{
	char	   *number = text_to_cstring(key);
	char	   *rest;

	errno = 0;
	*element = strtoint(number, &rest, 10);
	return rest != number && *rest == '\0' && errno == 0;
}

/*
 * optout.json_id(document, path): the id that a guard reads at a path of a
 * document of type json.  It tells nothing but what is in the document.
 */
Datum
optout_json_id(PG_FUNCTION_ARGS)
{
	text	   *source = PG_GETARG_TEXT_PP(1);
	PayloadPath *path = fcinfo->flinfo->fn_extra;
	bool		is_string;
	text	   *result;

	/* nearly always the one of the last call */
	if (path == NULL || strlen(path->source) != VARSIZE_ANY_EXHDR(source) ||
		memcmp(path->source, VARDATA_ANY(source), VARSIZE_ANY_EXHDR(source)) != 0)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);

		path = payload_parse_path(text_to_cstring(source));
		fcinfo->flinfo->fn_extra = path;
		MemoryContextSwitchTo(oldcontext);
	}
	result = payload_get(JSONOID, payload_open(JSONOID, PG_GETARG_DATUM(0)), path, &is_string);
	if (result == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(result);
}

/*
 * Objects on the path are looked into where they are.  Where there is anything
 * else, the operator's own function knows what to do.
 */
static text *
payload_get_jsonb(Datum document, const PayloadPath *path, bool *is_string)
{
	JsonbContainer *container = &DatumGetJsonbP(document)->root;
	JsonbValue	value;

	for (int i = 0; i < path->nkeys; i++)
	{
		if (JsonContainerIsArray(container) && !JsonContainerIsScalar(container))
			return payload_get_element(document, path, is_string);
		if (!JsonContainerIsObject(container) ||
			getKeyJsonValueFromContainer(container, VARDATA_ANY(path->keys[i]),
										 VARSIZE_ANY_EXHDR(path->keys[i]), &value) == NULL)
			return NULL;
		if (value.type != jbvBinary)
			return i == path->nkeys - 1 ? payload_from_jsonb(&value, is_string) : NULL;
		container = value.val.binary.data;
	}
	return NULL;
}

static text *
payload_get_element(Datum document, const PayloadPath *path, bool *is_string)
{
	bool		isnull;
	Datum		element = jsonb_get_element(DatumGetJsonbP(document), path->elements, path->nkeys,
											&isnull, false);
	JsonbValue	value;

	if (isnull || !JB_ROOT_IS_SCALAR(DatumGetJsonbP(element)) ||
		!JsonbExtractScalar(&DatumGetJsonbP(element)->root, &value))
		return NULL;
	return payload_from_jsonb(&value, is_string);
}

static text *
payload_from_jsonb(const JsonbValue *value, bool *is_string)
{
	*is_string = value->type == jbvString;
	if (value->type == jbvString)
		return cstring_to_text_with_len(value->val.string.val, value->val.string.len);
	if (value->type == jbvNumeric)
		return cstring_to_text(DatumGetCString(DirectFunctionCall1(numeric_out,
																   NumericGetDatum(value->val.numeric))));
	return NULL;
}

static text *
payload_get_json(text *document, const PayloadPath *path, bool *is_string)
{
	const char *start = VARDATA_ANY(document);
	JsonToken	token = payload_find(start, start + VARSIZE_ANY_EXHDR(document), path);

	if (token.start == NULL)
		return NULL;
	*is_string = *token.start == '"';
	if (*is_string)
		return payload_string(&token);
	/* not true, false or null */
	if (*token.start == '-' || (*token.start >= '0' && *token.start <= '9'))
		return payload_number(token.start, token.end - token.start);
	return NULL;
}

/*
 * The last scalar that the path leads to.
 *
 * The open arrays and objects that lie on the path are the first "on" of the
 * "depth" that are open.  Only if they are all of them can what comes next be on
 * the path, too.
 */
static JsonToken
payload_find(const char *p, const char *end, const PayloadPath *path)
{
	JsonToken	found = {NULL};
	int			depth = 0;
	int			on = 0;
	bool		here = true;	/* the next value is where the path leads */
	bool	   *is_array = palloc(path->nkeys * sizeof(bool));
	int		   *element = palloc(path->nkeys * sizeof(int));	/* to come, before ours */

	while ((p = payload_skip_space(p, end)) < end)
	{
		JsonToken	token;

		CHECK_FOR_INTERRUPTS();
		switch (*p)
		{
			case '{':
			case '[':
				if (here && depth == path->nkeys)
					found.start = NULL;
				if (here && depth < path->nkeys)
				{
					is_array[on] = *p == '[';
					element[on] = is_array[on] ? payload_element(path->keys[on], p, end) : -1;
					here = element[on] == 0;
					on++;
				}
				else
					here = false;
				depth++;
				p++;
				break;
			case '}':
			case ']':
				if (on == depth)
					on--;
				depth--;
				here = false;
				p++;
				break;
			case ',':
				here = depth > 0 && on == depth && is_array[on - 1] && --element[on - 1] == 0;
				p++;
				break;
			case ':':
				p++;
				break;
			default:
				token = payload_scalar(p, end);
				p = payload_skip_space(token.end, end);
				if (*token.start == '"' && p < end && *p == ':')
				{
					here = on == depth && payload_is_key(&token, path->keys[on - 1]);
					break;
				}
				if (here && depth == path->nkeys)
					found = token;
				here = false;
		}
	}
	return found;
}

static const char *
payload_skip_space(const char *p, const char *end)
{
	while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
		p++;
	return p;
}

/*
 * The string, number, true, false or null that begins here.
 */
static JsonToken
payload_scalar(const char *p, const char *end)
{
	JsonToken	token = {p, NULL, false};

	if (*p == '"')
	{
		for (p++; p < end && *p != '"'; p++)
		{
			if (*p == '\\')
			{
				token.escaped = true;
				p++;
			}
		}
		p++;
	}
	else
	{
		for (p++; p < end && strchr(" \t\n\r,:]}", *p) == NULL; p++)
			 /* skip */ ;
	}
	token.end = Min(p, end);
	return token;
}

/*
 * Which element the key is of the array that begins here, from 0; below 0 for
 * none.  As in the operator, negative ones count from the end.
 */
static int
payload_element(text *key, const char *p, const char *end)
{
	int			element;

	if (!payload_is_subscript(key, &element))
		return -1;
	return element < 0 ? element + payload_count_elements(p, end) : element;
}

/*
 * How many elements the array has that begins here; one more for an empty one,
 * of which the path finds none.
 */
static int
payload_count_elements(const char *p, const char *end)
{
	int			depth = 0;
	int			count = 1;

	do
	{
		CHECK_FOR_INTERRUPTS();
		if (*p == '"')
		{
			p = payload_scalar(p, end).end;
			continue;
		}
		if (*p == '{' || *p == '[')
			depth++;
		else if (*p == '}' || *p == ']')
			depth--;
		else if (*p == ',' && depth == 1)
			count++;
		p++;
	} while (p < end && depth > 0);
	return count;
}

/*
 * Whether the string is this key.
 */
static bool
payload_is_key(const JsonToken *token, text *key)
{
	const char *bytes = token->start + 1;
	int			len = token->end - token->start - 2;

	if (token->escaped)
	{
		text	   *unescaped = payload_string(token);

		if (unescaped == NULL)
			return false;
		bytes = VARDATA_ANY(unescaped);
		len = VARSIZE_ANY_EXHDR(unescaped);
	}
	return len == (int) VARSIZE_ANY_EXHDR(key) && memcmp(bytes, VARDATA_ANY(key), len) == 0;
}

static text *
payload_string(const JsonToken *token)
{
	const char *start = token->start + 1;
	const char *end = token->end - 1;

	return token->escaped ? payload_unescape(start, end) : cstring_to_text_with_len(start, end - start);
}

/*
 * A string without its escapes; NULL if it contains what text cannot: \u0000,
 * half a surrogate pair, or a character that the server's encoding lacks.
 */
static text *
payload_unescape(const char *p, const char *end)
{
	StringInfoData result;

	initStringInfo(&result);
	while (p < end)
	{
		pg_wchar	c;
		pg_wchar	second;

		if (*p != '\\')
		{
			appendStringInfoCharMacro(&result, *p);
			p++;
			continue;
		}
		if (++p == end)
			return NULL;
		switch (*p++)
		{
			case 'b':
				appendStringInfoChar(&result, '\b');
				break;
			case 'f':
				appendStringInfoChar(&result, '\f');
				break;
			case 'n':
				appendStringInfoChar(&result, '\n');
				break;
			case 'r':
				appendStringInfoChar(&result, '\r');
				break;
			case 't':
				appendStringInfoChar(&result, '\t');
				break;
			case 'u':
				if (!payload_hex(p, end, &c))
					return NULL;
				p += 4;
				if (is_utf16_surrogate_first(c))
				{
					if (end - p < 6 || p[0] != '\\' || p[1] != 'u' ||
						!payload_hex(p + 2, end, &second) || !is_utf16_surrogate_second(second))
						return NULL;
					c = surrogate_pair_to_codepoint(c, second);
					p += 6;
				}
				else if (is_utf16_surrogate_second(c))
					return NULL;
				if (!payload_append_character(&result, c))
					return NULL;
				break;
			default:			/* quote, backslash or slash */
				appendStringInfoChar(&result, p[-1]);
		}
	}
	return cstring_to_text_with_len(result.data, result.len);
}

/*
 * The number that four hexadecimal digits are.
 */
static bool
payload_hex(const char *p, const char *end, pg_wchar *value)
{
	char		digits[5] = {0};

	if (end - p < 4)
		return false;
	memcpy(digits, p, 4);
	if (strspn(digits, "0123456789abcdefABCDEF") != 4)
		return false;
	*value = strtoul(digits, NULL, 16);
	return true;
}

/*
 * Append a character in the server's encoding; false if that lacks it.
 */
static bool
payload_append_character(StringInfo result, pg_wchar c)
{
	unsigned char utf8[MAX_MULTIBYTE_CHAR_LEN + 1] = {0};
	unsigned char converted[MAX_UNICODE_EQUIVALENT_STRING + 1] = {0};
	Oid			conversion;
	int			len;

	if (c == 0)
		return false;
	if (c < 0x80)
	{
		appendStringInfoChar(result, (char) c);
		return true;
	}
	unicode_to_utf8(c, utf8);
	len = pg_utf_mblen(utf8);
	if (GetDatabaseEncoding() == PG_UTF8)
	{
		appendBinaryStringInfo(result, (char *) utf8, len);
		return true;
	}
	conversion = FindDefaultConversionProc(PG_UTF8, GetDatabaseEncoding());
	if (!OidIsValid(conversion) ||
		pg_do_encoding_conversion_buf(conversion, PG_UTF8, GetDatabaseEncoding(), utf8, len,
									  converted, sizeof(converted), true) != len)
		return false;
	appendStringInfoString(result, (char *) converted);
	return true;
}

/*
 * A number as jsonb shows it: 1.0 as 1.0, 1e0 as 1.
 */
static text *
payload_number(const char *start, int len)
{
	char	   *number = pnstrdup(start, len);
	char	   *exponent = strpbrk(number, "eE");
	int			digits = strspn(number + (*number == '-'), "0123456789");

	if (len > PAYLOAD_MAX_NUMBER)
		return NULL;
	if (digits + (*number == '-') == len && strcmp(number, "-0") != 0)
		return cstring_to_text_with_len(start, len);
	if (exponent != NULL)
	{
		char	   *rest;
		int			value;

		errno = 0;
		value = strtoint(exponent + 1, &rest, 10);
		if (errno != 0 || value > PAYLOAD_MAX_NUMBER || value < -PAYLOAD_MAX_NUMBER)
			return NULL;
	}
	return cstring_to_text(DatumGetCString(DirectFunctionCall1(numeric_out,
															   DirectFunctionCall3(numeric_in, CStringGetDatum(number),
																				   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)))));
}
