/*
 * key.c
 *		Keys of users: what filter, cache and memo know them by.
 *
 * They are hashes, so that shared memory names nobody.  They depend on a
 * random secret, so that nobody can choose ids that collide.  The server's
 * backends share one secret (shared.c); without shared memory, each has its
 * own for its memo.  The two halves of a key are two hashes of the id, by
 * different seeds, since the lower is all that most look-ups need.
 *
 * A seed is made from the secret, the database and the organization.  There
 * are few of these, so the last seed is kept.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "key.h"

KeySeed		key_named = {.len = -1};
KeySeed		key_setting = {.len = -1};
uint32		key_setting_version = 0;
uint64		key_generation = 1;

/* 0: none yet */
static uint64 key_secret = 0;

/*
 * Make keys with this secret from now on.
 */
void
key_use_secret(uint64 secret)
{
	key_secret = secret;
	key_generation++;
	key_named.len = -1;
	key_setting_version = 0;
}

/*
 * The seed of the hashes of an organization's users in this database, which is
 * kept.  The caller has made sure that this is an organization's name.
 */
uint64
key_make_seed(text *organization)
{
	bool		is_setting = organization == organization_setting_text;
	KeySeed    *seed = is_setting ? &key_setting : &key_named;
	int			len = VARSIZE_ANY_EXHDR(organization);

	if (key_secret == 0 && !pg_strong_random(&key_secret, sizeof(key_secret)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random secret"),
				 errhidestmt(true), errhidecontext(true)));
	if (len > IDENT_MAX_LEN)
		elog(ERROR, "organization has %d bytes", len);

	seed->seed = XXH3_64bits_withSeed(VARDATA_ANY(organization), len,
									  XXH3_64bits_withSeed(&MyDatabaseId, sizeof(Oid), key_secret));
	seed->len = len;
	memcpy(seed->name, VARDATA_ANY(organization), len);
	if (is_setting)
		key_setting_version = organization_setting_version;
	return seed->seed;
}

/*
 * The lower half for an id that may be the text form of a number or uuid.
 */
uint64
key_hash_value(const char *user_id, int len, uint64 seed)
{
	int64		number;
	pg_uuid_t	uuid;

	if (ident_is_number(user_id, len, &number))
		return key_hash_number(number, seed);
	if (ident_is_uuid(user_id, len, &uuid))
		return key_hash_uuid(&uuid, seed);
	return XXH3_64bits_withSeed(user_id, len, seed);
}
