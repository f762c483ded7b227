/*
 * ident.c
 *		Organizations and user ids as the SQL functions receive them.
 *
 * Both are compared byte for byte.  An organization is always optional:  NULL
 * means the setting optout.organization.  A value that cannot be the name of
 * an organization is an error wherever it appears, in the filter too.  A
 * value that cannot be a user id is an error in administration; the filter
 * just finds that nobody with that id is opted out.
 */
#include "postgres.h"

#include <ctype.h>

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/uuid.h"

#include "compat.h"
#include "ident.h"

/* bytes of an identifier that an error message shows at most */
#define IDENT_SHOWN_LEN 64

static char *organization_setting;
static char *actor_setting;

/* the same as a text value, and how often it has changed; kept by the setting's
 * assign hook */
text	   *organization_setting_text;
uint32		organization_setting_version = 1;

static bool ident_check_organization(char **newval, void **extra, GucSource source);
static void ident_assign_organization(const char *newval, void *extra);
static bool ident_check_actor(char **newval, void **extra, GucSource source);
static text *ident_check(const char *what, text *ident);
static inline bool ident_parse_hex(const char *left, const char *right, uint32 *number);
static void ident_write_uuid(const unsigned char *data, char *buffer);
static bool ident_parse_uuid(text *ident, char *canonical);

const IdentType ident_types[IDENT_TYPES] = {
	{TEXTOID, TEXTARRAYOID, "text"},
	{BPCHAROID, BPCHARARRAYOID, "bpchar"},
	{NAMEOID, NAMEARRAYOID, "name"},
	{UUIDOID, UUIDARRAYOID, "uuid"},
	{INT2OID, INT2ARRAYOID, "int2"},
	{INT4OID, INT4ARRAYOID, "int4"},
	{INT8OID, INT8ARRAYOID, "int8"}
};

/* takes a while for millions of users */
#define ST_SORT ident_sort
#define ST_ELEMENT_TYPE Datum
#define ST_COMPARE(a, b) ident_compare(*(a), *(b))
#define ST_SCOPE static
#define ST_CHECK_FOR_INTERRUPTS
#define ST_DEFINE
#include "lib/sort_template.h"

/*
 * Define the settings this file owns.
 */
void
ident_define_settings(void)
{
	DefineCustomStringVariable("optout.organization",
							   "Sets the organization that is used where none is given.",
							   "If all users belong to one organization, it never needs to be named.",
							   &organization_setting,
							   "default",
							   PGC_USERSET,
							   0,
							   ident_check_organization,
							   ident_assign_organization,
							   NULL);
	DefineCustomStringVariable("optout.actor",
							   "Sets the person on whose behalf users are opted out and in.",
							   "It is recorded beside the role, as the session claims it.",
							   &actor_setting,
							   "",
							   PGC_USERSET,
							   0,
							   ident_check_actor,
							   NULL,
							   NULL);
}

/*
 * Check hook: refuse what cannot be the name of an organization, and prepare the text
 * value so that the filter need not make one for each event.
 */
static bool
ident_check_organization(char **newval, void **extra,
						 GucSource source pg_attribute_unused())
{
	size_t		len = strlen(*newval);
	text	   *value;

	if (len == 0 || strcmp(*newval, EVERY_ORGANIZATION) == 0)
	{
		GUC_check_errdetail("This cannot be the name of an organization.");
		return false;
	}
	if (len > IDENT_MAX_LEN)
	{
		GUC_check_errdetail("The name of an organization has at most %d bytes.",
							IDENT_MAX_LEN);
		return false;
	}

	value = (text *) guc_malloc(LOG, VARHDRSZ + len);
	if (value == NULL)
		return false;
	SET_VARSIZE(value, VARHDRSZ + len);
	memcpy(VARDATA(value), *newval, len);
	*extra = value;
	return true;
}

static void
ident_assign_organization(const char *newval pg_attribute_unused(), void *extra)
{
	organization_setting_text = (text *) extra;
	organization_setting_version++;
}

/*
 * Check hook.
 */
static bool
ident_check_actor(char **newval, void **extra pg_attribute_unused(),
				  GucSource source pg_attribute_unused())
{
	if (strlen(*newval) > IDENT_MAX_LEN)
	{
		GUC_check_errdetail("An actor has at most %d bytes.", IDENT_MAX_LEN);
		return false;
	}
	return true;
}

/*
 * Who acts, by the setting optout.actor; NULL if it is empty.
 */
text *
ident_actor(void)
{
	if (*actor_setting == '\0')
		return NULL;
	/* a setting may come from a file, or with the connection, as any bytes */
	pg_verifymbstr(actor_setting, strlen(actor_setting), false);
	return cstring_to_text(actor_setting);
}

/*
 * The identifier for an error message, in the server encoding, not too long.
 */
char *
ident_for_message(text *ident)
{
	const char *bytes = VARDATA_ANY(ident);
	int			len = VARSIZE_ANY_EXHDR(ident);
	int			shown = pg_mbcliplen(bytes, len, IDENT_SHOWN_LEN);

	return psprintf("%.*s%s", shown, bytes, shown < len ? "..." : "");
}

/*
 * Refuse an identifier that is empty or too long.
 */
static text *
ident_check(const char *what, text *ident)
{
	if (VARSIZE_ANY_EXHDR(ident) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", what)));
	if (VARSIZE_ANY_EXHDR(ident) > IDENT_MAX_LEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s \"%s\" is too long", what, ident_for_message(ident)),
				 errdetail("It has %d bytes, the limit is %d.",
						   (int) VARSIZE_ANY_EXHDR(ident), IDENT_MAX_LEN)));
	return ident;
}

/*
 * Whether it can be an organization's name.
 */
bool
organization_is_valid(text *organization)
{
	int			len = VARSIZE_ANY_EXHDR(organization);

	return len > 0 && len <= IDENT_MAX_LEN &&
		!(len == 1 && *VARDATA_ANY(organization) == EVERY_ORGANIZATION[0]);
}

/*
 * Refuse what cannot be the name of an organization.
 */
text *
organization_check(text *organization)
{
	ident_check("organization", organization);
	if (VARSIZE_ANY_EXHDR(organization) == 1 &&
		*VARDATA_ANY(organization) == EVERY_ORGANIZATION[0])
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not an organization", EVERY_ORGANIZATION),
				 errdetail("It stands for every organization in optout.grant_authority() and optout.revoke_authority() only.")));
	return organization;
}

/*
 * The same, but '*' for every organization is allowed.
 */
text *
organization_or_every(text *organization)
{
	if (organization != NULL &&
		VARSIZE_ANY_EXHDR(organization) == 1 &&
		*VARDATA_ANY(organization) == EVERY_ORGANIZATION[0])
		return organization;
	return organization_resolve(organization);
}

/*
 * The set of the one given user, NULL being an error (22004).
 */
UserIds
user_ids_from_text(text *user_id)
{
	UserIds		users;

	if (user_id == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("user_id must not be null")));

	users.count = 1;
	users.ids = palloc(sizeof(Datum));
	users.ids[0] = PointerGetDatum(ident_check("user_id", user_id));
	return users;
}

/*
 * The identifiers in an array, checked.  Errors: 22004 for a NULL array or
 * element, 2202E for more than one dimension.
 */
Datum *
idents_from_array(const char *array_name, const char *what, ArrayType *array, int *count)
{
	Datum	   *ids;
	bool	   *nulls;

	if (array == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", array_name)));
	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("%s must be one-dimensional", array_name),
				 errdetail("The array has %d dimensions.", ARR_NDIM(array))));

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT,
					  &ids, &nulls, count);
	for (int i = 0; i < *count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not contain null", array_name),
					 errdetail("Element %d is null.",
							   ARR_LBOUND(array)[0] + i)));
		ident_check(what, DatumGetTextPP(ids[i]));
	}
	return ids;
}

/*
 * The set of these ids, for which their memory is used.  Sorted, so that callers
 * who lock rows one after the other do so in the same order and cannot deadlock.
 */
UserIds
user_ids_from_datums(Datum *ids, int count)
{
	UserIds		users;

	users.ids = ids;
	users.count = 0;
	if (count > 0)
	{
		ident_sort(ids, count);
		for (int i = 0; i < count; i++)
		{
			CHECK_FOR_INTERRUPTS();
			if (i == 0 ||
				ident_compare(ids[i], ids[users.count - 1]) != 0)
				ids[users.count++] = ids[i];
		}
	}
	return users;
}

/*
 * The set of the users in an array.
 */
UserIds
user_ids_from_array(ArrayType *array)
{
	int			count;
	Datum	   *ids = idents_from_array("user_ids", "user_id", array, &count);

	return user_ids_from_datums(ids, count);
}

/*
 * Does the set include all of another?
 */
bool
user_ids_include(const UserIds *users, const UserIds *others)
{
	int			i = 0;

	for (int o = 0; o < others->count; o++)
	{
		CHECK_FOR_INTERRUPTS();
		while (i < users->count && ident_compare(users->ids[i], others->ids[o]) < 0)
			i++;
		if (i == users->count || ident_compare(users->ids[i], others->ids[o]) != 0)
			return false;
	}
	return true;
}

/*
 * Compare two ids byte for byte, as collation "C" does.
 */
int
ident_compare(Datum a, Datum b)
{
	text	   *x = DatumGetTextPP(a);
	text	   *y = DatumGetTextPP(b);
	int			xlen = VARSIZE_ANY_EXHDR(x);
	int			ylen = VARSIZE_ANY_EXHDR(y);
	int			cmp = memcmp(VARDATA_ANY(x), VARDATA_ANY(y), Min(xlen, ylen));

	return cmp != 0 ? cmp : (xlen > ylen) - (xlen < ylen);
}

/*
 * The set as a text[], for SQL.
 */
ArrayType *
user_ids_to_array(const UserIds *users)
{
	return construct_array(users->ids, users->count, TEXTOID, -1, false,
						   TYPALIGN_INT);
}

/*
 * Warn if ids look like a uuid but are not the text form of one.  A column of
 * type uuid gives the filter the text form only, so no event from there would
 * ever be theirs.  The server's log is not to learn of ids.
 */
void
user_ids_warn_of_uuids(const UserIds *users)
{
	char		first[UUID_TEXT_LEN + 1];
	char		canonical[UUID_TEXT_LEN + 1];
	text	   *example = NULL;
	int			count = 0;

	for (int i = 0; i < users->count; i++)
	{
		text	   *ident = DatumGetTextPP(users->ids[i]);

		CHECK_FOR_INTERRUPTS();
		if (!ident_parse_uuid(ident, canonical))
			continue;
		if (count++ == 0)
		{
			example = ident;
			strcpy(first, canonical);
		}
	}
	if (count > 0)
		ereport(WARNING_CLIENT_ONLY,
				(errmsg("user id \"%s\" looks like a uuid, but is not the text form of one",
						ident_for_message(example)),
				 count > 1 ? errdetail("There are %d such user ids.", count) : 0,
				 errhint("If events hold it in a column of type uuid, the id is \"%s\".", first)));
}

/*
 * Whether this is a uuid as the type uuid reads it, but not as it writes it: in
 * capitals, in braces, or with its hyphens elsewhere.  If so, also how it writes
 * it.
 */
static bool
ident_parse_uuid(text *ident, char *canonical)
{
	const char *bytes = VARDATA_ANY(ident);
	int			len = VARSIZE_ANY_EXHDR(ident);
	const char *end = bytes + len;
	const char *p = bytes;
	int			written = 0;

	/* from 32 digits to those, a hyphen after every four, and braces */
	if (len < 32 || len > 41)
		return false;
	if (*p == '{')
	{
		if (*--end != '}')
			return false;
		p++;
	}
	for (int digits = 0; digits < 32; digits++)
	{
		if (digits == 8 || digits == 12 || digits == 16 || digits == 20)
			canonical[written++] = '-';
		if (digits > 0 && digits % 4 == 0 && p < end && *p == '-')
			p++;
		if (p == end || !isxdigit((unsigned char) *p))
			return false;
		canonical[written++] = pg_ascii_tolower((unsigned char) *p++);
	}
	canonical[written] = '\0';
	return p == end && (len != UUID_TEXT_LEN || memcmp(bytes, canonical, len) != 0);
}

/*
 * Which of ident_types a column's (base) type is; -1 if it cannot hold ids.
 */
int
ident_type(Oid type)
{
	for (int i = 0; i < IDENT_TYPES; i++)
	{
		if (ident_types[i].type == (type == VARCHAROID ? TEXTOID : type))
			return i;
	}
	return -1;
}

/*
 * An identifier as text, the same that a cast to text makes of it, so that all
 * types of column agree on the same user.
 */
text *
ident_from_datum(Oid type, Datum value)
{
	char		buffer[IDENT_BUFFER];
	int			len;

	switch (type)
	{
		case TEXTOID:
		case VARCHAROID:
			return DatumGetTextPP(value);
		case BPCHAROID:
			/* drops the padding */
			return DatumGetTextPP(DirectFunctionCall1(rtrim1, value));
		case NAMEOID:
			return cstring_to_text(NameStr(*DatumGetName(value)));
		default:
			if (ident_bytes(type, value, buffer, &len) == NULL)
				elog(ERROR, "unexpected type %u for an identifier", type);
			return cstring_to_text_with_len(buffer, len);
	}
}

/*
 * The integer whose text form these bytes are; false if there is none.
 */
bool
ident_is_number(const char *bytes, int len, int64 *number)
{
	bool		negative = len > 0 && bytes[0] == '-';
	uint64		value = 0;

	if (negative)
	{
		bytes++;
		len--;
	}
	/* the digits of the longest, without its sign, never overflow */
	if (len < 1 || len > MAXINT8LEN - 1 || (bytes[0] == '0' && (len > 1 || negative)))
		return false;
	for (int i = 0; i < len; i++)
	{
		unsigned int digit = (unsigned char) bytes[i] - '0';

		if (digit > 9)
			return false;
		value = value * 10 + digit;
	}
	if (value > (uint64) PG_INT64_MAX + negative)
		return false;
	*number = (int64) (negative ? 0 - value : value);
	return true;
}

/*
 * The number that is written in these eight lower-case hexadecimal digits, four and
 * four, all checked at once; false if they are not such digits.
 */
static inline bool
ident_parse_hex(const char *left, const char *right, uint32 *number)
{
	const uint64 each = UINT64CONST(0x0101010101010101);
	uint32		halves[2];
	uint64		digits;
	uint64		values;

	memcpy(&halves[0], left, 4);
	memcpy(&halves[1], right, 4);
	digits = (uint64) pg_ntoh32(halves[0]) << 32 | pg_ntoh32(halves[1]);

	/* bit 6 is set in letters, and 'a' & 0xF is 1 */
	values = (digits & each * 0xF) + (digits >> 6 & each) * 9;
	/* adding 6 sets bit 4 of what a letter stands for */
	if ((values & each * 0xF0) != 0 ||
		values + each * '0' + ((values + each * 6) >> 4 & each) * ('a' - '0' - 10) != digits)
		return false;

	values = (values | values >> 4) & UINT64CONST(0x00FF00FF00FF00FF);
	values = (values | values >> 8) & UINT64CONST(0x0000FFFF0000FFFF);
	*number = (uint32) (values | values >> 16);
	return true;
}

/*
 * The uuid whose text form these bytes are; false if there is none.
 */
bool
ident_is_uuid(const char *bytes, int len, pg_uuid_t *uuid)
{
	uint32		words[4];
	uint64		halves[2];

	if (len != UUID_TEXT_LEN ||
		bytes[8] != '-' || bytes[13] != '-' || bytes[18] != '-' || bytes[23] != '-' ||
		!ident_parse_hex(bytes, bytes + 4, &words[0]) ||
		!ident_parse_hex(bytes + 9, bytes + 14, &words[1]) ||
		!ident_parse_hex(bytes + 19, bytes + 24, &words[2]) ||
		!ident_parse_hex(bytes + 28, bytes + 32, &words[3]))
		return false;
	halves[0] = pg_hton64((uint64) words[0] << 32 | words[1]);
	halves[1] = pg_hton64((uint64) words[2] << 32 | words[3]);
	memcpy(uuid->data, halves, UUID_LEN);
	return true;
}

/*
 * The value of the type that ident_from_datum() makes this identifier of; false if
 * there is none.
 */
bool
ident_to_datum(Oid type, text *ident, Datum *value)
{
	const char *bytes = VARDATA_ANY(ident);
	int			len = VARSIZE_ANY_EXHDR(ident);
	int64		number;
	pg_uuid_t	uuid;

	switch (type)
	{
		case TEXTOID:
		case VARCHAROID:
			*value = PointerGetDatum(ident);
			return true;
		case BPCHAROID:
			*value = PointerGetDatum(ident);
			return len == 0 || bytes[len - 1] != ' ';
		case NAMEOID:
			if (len >= NAMEDATALEN)
				return false;
			*value = DirectFunctionCall1(namein, CStringGetDatum(text_to_cstring(ident)));
			return true;
		case UUIDOID:
			if (!ident_is_uuid(bytes, len, &uuid))
				return false;
			*value = UUIDPGetDatum(memcpy(palloc(UUID_LEN), &uuid, UUID_LEN));
			return true;
		case INT2OID:
			if (!ident_is_number(bytes, len, &number) || number != (int16) number)
				return false;
			*value = Int16GetDatum((int16) number);
			return true;
		case INT4OID:
			if (!ident_is_number(bytes, len, &number) || number != (int32) number)
				return false;
			*value = Int32GetDatum((int32) number);
			return true;
		case INT8OID:
			if (!ident_is_number(bytes, len, &number))
				return false;
			*value = Int64GetDatum(number);
			return true;
		default:
			elog(ERROR, "unexpected type %u for an identifier", type);
	}
	return false;				/* keep compiler quiet */
}

/*
 * The text form of a uuid, as uuid_out() has it.
 */
static void
ident_write_uuid(const unsigned char *data, char *buffer)
{
	/* two digits for each value of a byte */
#define HEX(h) h "0" h "1" h "2" h "3" h "4" h "5" h "6" h "7" \
	h "8" h "9" h "a" h "b" h "c" h "d" h "e" h "f"
	static const char digits[] = HEX("0") HEX("1") HEX("2") HEX("3")
		HEX("4") HEX("5") HEX("6") HEX("7") HEX("8") HEX("9") HEX("a")
		HEX("b") HEX("c") HEX("d") HEX("e") HEX("f");
	static const char places[UUID_LEN] = {0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34};

	buffer[8] = buffer[13] = buffer[18] = buffer[23] = '-';
	for (int i = 0; i < UUID_LEN; i++)
		memcpy(&buffer[(int) places[i]], &digits[2 * data[i]], 2);
}

/*
 * The bytes of an identifier, the same as ident_from_datum() gives, in the buffer of
 * IDENT_BUFFER bytes or where they are, without allocating memory; NULL where that
 * cannot be.
 */
const char *
ident_bytes(Oid type, Datum value, char *buffer, int *len)
{
	switch (type)
	{
		case TEXTOID:
		case VARCHAROID:
			if (!ident_is_plain(value))
				return NULL;
			*len = VARSIZE_ANY_EXHDR(DatumGetPointer(value));
			return VARDATA_ANY(DatumGetPointer(value));
		case INT8OID:
			*len = pg_lltoa(DatumGetInt64(value), buffer);
			return buffer;
		case INT4OID:
			*len = pg_ltoa(DatumGetInt32(value), buffer);
			return buffer;
		case INT2OID:
			*len = pg_ltoa(DatumGetInt16(value), buffer);
			return buffer;
		case UUIDOID:
			ident_write_uuid(DatumGetUUIDP(value)->data, buffer);
			*len = UUID_TEXT_LEN;
			return buffer;
		default:
			return NULL;
	}
}
