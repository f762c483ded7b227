/*
 * key.h
 *		Keys of users: what filter, cache and memo know them by.
 */
#ifndef OPTOUT_KEY_H
#define OPTOUT_KEY_H

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "utils/builtins.h"

#include "ident.h"

/*
 * A user of an organization of this database, hashed with the server's secret.
 * No two users are expected to have the same one.
 */
typedef struct UserKey
{
	uint64		low;
	uint64		high;
} UserKey;

/* what the hashes of an organization's users begin with */
typedef struct KeySeed
{
	uint64		seed;
	int			len;			/* of the name; -1 where there is none */
	char		name[IDENT_MAX_LEN];
} KeySeed;

/* of the last organization that was named, and of the setting's */
extern KeySeed key_named;
extern KeySeed key_setting;
extern uint32 key_setting_version;

/* counts secrets; a key made with another one is void */
extern uint64 key_generation;

extern void key_use_secret(uint64 secret);
extern uint64 key_make_seed(text *organization);
extern uint64 key_hash_value(const char *user_id, int len, uint64 seed);

/*
 * The seed of an organization's users, if it has been made already.  Then the
 * name is known to be one.
 */
static inline bool
key_find_seed(text *organization, uint64 *seed)
{
	if (organization == organization_setting_text)
	{
		*seed = key_setting.seed;
		return likely(key_setting_version == organization_setting_version);
	}
	*seed = key_named.seed;
	return likely((int) VARSIZE_ANY_EXHDR(organization) == key_named.len &&
				  memcmp(VARDATA_ANY(organization), key_named.name, key_named.len) == 0);
}

static inline uint64
key_seed(text *organization)
{
	uint64		seed;

	return likely(key_find_seed(organization, &seed)) ? seed : key_make_seed(organization);
}

/*
 * The lower half of a user's key, which is enough for the filter.
 *
 * A column of numbers or uuids names the same user as a column of their text forms.
 * To make the text of each value, only to hash it, takes longer than all else: what
 * has been written in small pieces cannot be read in larger ones until it has arrived
 * in the cache.  So it is the other way around: a text that is the text form of a
 * number or uuid is hashed as that is.  An id that has the same bytes as a number or
 * uuid thus shares its lower half, whatever the secret; the upper half, a hash of the
 * text form, tells them apart.
 */
static inline uint64
key_hash_number(int64 number, uint64 seed)
{
	return XXH3_64bits_withSeed(&number, sizeof(number), seed);
}

static inline uint64
key_hash_uuid(const pg_uuid_t *uuid, uint64 seed)
{
	return XXH3_64bits_withSeed(uuid->data, UUID_LEN, seed);
}

static inline uint64
key_hash_text(const char *user_id, int len, uint64 seed)
{
	/* what is as long as a bigint or a uuid may be one */
	if (len <= MAXINT8LEN || len == UUID_TEXT_LEN)
		return key_hash_value(user_id, len, seed);
	return XXH3_64bits_withSeed(user_id, len, seed);
}

/*
 * The same for a value of any type of id; false if that takes ident_from_datum().
 */
static inline bool
key_hash(Oid type, Datum user_id, uint64 seed, uint64 *hash)
{
	switch (type)
	{
		case TEXTOID:
		case VARCHAROID:
			if (unlikely(!ident_is_plain(user_id)))
				return false;
			*hash = key_hash_text(VARDATA_ANY(DatumGetPointer(user_id)),
								  VARSIZE_ANY_EXHDR(DatumGetPointer(user_id)), seed);
			return true;
		case UUIDOID:
			*hash = key_hash_uuid(DatumGetUUIDP(user_id), seed);
			return true;
		case INT8OID:
			*hash = key_hash_number(DatumGetInt64(user_id), seed);
			return true;
		case INT4OID:
			*hash = key_hash_number(DatumGetInt32(user_id), seed);
			return true;
		case INT2OID:
			*hash = key_hash_number(DatumGetInt16(user_id), seed);
			return true;
		default:
			return false;
	}
}

/*
 * The key that has this lower half.
 */
static inline UserKey
key_complete(uint64 hash, const char *user_id, int len, uint64 seed)
{
	UserKey		key = {hash, XXH3_64bits_withSeed(user_id, len, ~seed)};

	return key;
}

static inline UserKey
key_of(text *user_id, uint64 seed)
{
	const char *bytes = VARDATA_ANY(user_id);
	int			len = VARSIZE_ANY_EXHDR(user_id);

	return key_complete(key_hash_text(bytes, len, seed), bytes, len, seed);
}

#endif							/* OPTOUT_KEY_H */
