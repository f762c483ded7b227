/*
 * accepts.h
 *		Whether a user's event may be stored.
 */
#ifndef OPTOUT_ACCEPTS_H
#define OPTOUT_ACCEPTS_H

#include "datatype/timestamp.h"

extern bool accepts_covered(text *organization, text *user_id,
							const TimestampTz *occurred_at);

#endif							/* OPTOUT_ACCEPTS_H */
