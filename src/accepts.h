/*
 * accepts.h
 *		Whether a user is opted out, and whether their event may be stored.
 */
#ifndef OPTOUT_ACCEPTS_H
#define OPTOUT_ACCEPTS_H

#include "datatype/timestamp.h"

#include "ident.h"

/* what is known of a user at once */
typedef enum Answer
{
	NOT_KNOWN,
	NOT_OPTED_OUT,
	OPTED_OUT
} Answer;

extern void accepts_install_hooks(void);
extern bool is_opted_out(text *organization, text *user_id,
						 const TimestampTz *occurred_at);
extern Answer is_opted_out_at_once(text *organization, Oid type, Datum user_id, bool has_time);
extern bool accepts_event_of_all(text *organization, text **user_ids, int nuser_ids,
								 const TimestampTz *occurred_at);

#endif							/* OPTOUT_ACCEPTS_H */
