/*
 * ident.h
 *		Organizations and user ids as the SQL functions receive them.
 */
#ifndef OPTOUT_IDENT_H
#define OPTOUT_IDENT_H

#include "catalog/pg_type_d.h"
#include "utils/array.h"
#include "utils/uuid.h"

/* what an organization or a user id may measure, in bytes; so do the tables */
#define IDENT_MAX_LEN 1024

/* means every organization in an authority; no organization has this name */
#define EVERY_ORGANIZATION "*"

/* from this number on, users' rows are looked for all at once, and progress is
 * reported */
#define MANY_USERS 1000

/* a set of user ids: checked, sorted byte for byte, without duplicates */
typedef struct UserIds
{
	int			count;
	Datum	   *ids;			/* text */
} UserIds;

extern void ident_define_settings(void);

extern text *organization_setting_text;
extern uint32 organization_setting_version;

extern bool organization_is_valid(text *organization);
extern text *organization_check(text *organization);
extern text *organization_or_every(text *organization);
extern UserIds user_ids_from_text(text *user_id);
extern UserIds user_ids_from_array(ArrayType *array);
extern UserIds user_ids_from_datums(Datum *ids, int count);
extern Datum *idents_from_array(const char *array_name, const char *what,
								ArrayType *array, int *count);
extern bool user_ids_include(const UserIds *users, const UserIds *others);
extern int	ident_compare(Datum a, Datum b);
extern ArrayType *user_ids_to_array(const UserIds *users);

/*
 * The organization meant by an argument: NULL stands for the setting.
 * Error 22023 for what cannot be the name of an organization.
 */
static inline text *
organization_resolve(text *organization)
{
	return organization == NULL ? organization_setting_text : organization_check(organization);
}

/* a type of columns that hold ids; varchar counts as text */
typedef struct IdentType
{
	Oid			type;
	Oid			array_type;
	const char *name;
} IdentType;

#define IDENT_TYPES 7
#define IDENT_TEXT 0			/* which of them is text */

extern const IdentType ident_types[IDENT_TYPES];

extern int	ident_type(Oid type);
extern text *ident_from_datum(Oid type, Datum value);
extern bool ident_to_datum(Oid type, text *ident, Datum *value);

extern text *ident_actor(void);

/* the text form of a uuid */
#define UUID_TEXT_LEN 36

/* room for what ident_bytes() has to write */
#define IDENT_BUFFER UUID_TEXT_LEN

extern const char *ident_bytes(Oid type, Datum value, char *buffer, int *len);
extern bool ident_is_number(const char *bytes, int len, int64 *number);
extern bool ident_is_uuid(const char *bytes, int len, pg_uuid_t *uuid);

/*
 * Whether the bytes of a text are where it is.
 */
static inline bool
ident_is_plain(Datum value)
{
	return !VARATT_IS_COMPRESSED(DatumGetPointer(value)) && !VARATT_IS_EXTERNAL(DatumGetPointer(value));
}

extern char *ident_for_message(text *ident);
extern void user_ids_warn_of_uuids(const UserIds *users);

#endif							/* OPTOUT_IDENT_H */
