/*
 * moment.h
 *		When an event occurred, where its row does not say it as timestamptz.
 */
#ifndef OPTOUT_MOMENT_H
#define OPTOUT_MOMENT_H

#include "datatype/timestamp.h"
#include "pgtime.h"

extern pg_tz *moment_time_zone(const char *name);
extern bool moment_from_timestamp(Timestamp value, pg_tz *zone, TimestampTz *result);
extern bool moment_from_text(text *value, pg_tz *zone, TimestampTz *result);

#endif							/* OPTOUT_MOMENT_H */
