/*
 * accepts.h
 *		Whether a user is opted out, and whether their event may be stored.
 */
#ifndef OPTOUT_ACCEPTS_H
#define OPTOUT_ACCEPTS_H

#include "datatype/timestamp.h"

extern bool is_opted_out(text *organization, text *user_id,
						 const TimestampTz *occurred_at);
extern bool accepts_event(text *organization, text *user_id,
						  const TimestampTz *occurred_at);
extern bool accepts_event_of_all(text *organization, text **user_ids, int nuser_ids,
								 const TimestampTz *occurred_at);

#endif							/* OPTOUT_ACCEPTS_H */
