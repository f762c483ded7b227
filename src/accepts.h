/*
 * accepts.h
 *		Whether a user is opted out, and whether their event may be stored.
 */
#ifndef OPTOUT_ACCEPTS_H
#define OPTOUT_ACCEPTS_H

#include "datatype/timestamp.h"

#include "coverage.h"
#include "filter.h"
#include "ident.h"
#include "key.h"

/* look-ups of this transaction, by what answered them */
extern uint64 accepts_lookups[LOOKUP_KINDS];

extern void accepts_install_hooks(void);
extern bool is_opted_out(text *organization, text *user_id,
						 const TimestampTz *occurred_at);
extern bool accepts_event(text *organization, text *user_id,
						  const TimestampTz *occurred_at);
extern bool accepts_event_of_all(text *organization, text **user_ids, int nuser_ids,
								 const TimestampTz *occurred_at);

/*
 * Whether the filter alone says that an event of the user may be stored, as it
 * does of nearly all.  If not, the caller has to ask accepts_event().  The
 * organization is the setting's if it is NULL.
 *
 * This is what a row costs that is kept: a hash and one look at memory.  It is
 * sound for any time the event may have, for the filter holds all users who have
 * any period.
 */
static pg_attribute_always_inline bool
accepts_at_once(text *organization, Oid type, Datum user_id)
{
	char		buffer[IDENT_BUFFER];
	const char *bytes;
	int			len;
	uint64		seed;

	if (unlikely(!coverage_is_held()) ||
		unlikely(!key_find_seed(organization != NULL ? organization : organization_setting_text,
								&seed)))
		return false;
	bytes = ident_bytes(type, user_id, buffer, &len);
	if (unlikely(bytes == NULL) || unlikely(filter_maybe_contains(key_hash(bytes, len, seed))))
		return false;
	accepts_lookups[LOOKUP_FILTER]++;
	return true;
}

#endif							/* OPTOUT_ACCEPTS_H */
