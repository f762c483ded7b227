/*
 * moment.c
 *		The time of an event, where its row does not hold a timestamptz.
 *
 * That is a timestamp without time zone, or a string in ISO 8601.  We read the
 * string ourselves: the type's own input takes keywords, goes by DateStyle, and
 * raises errors.
 */
#include "postgres.h"

#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "moment.h"

static bool moment_digits(const char **p, int count, int *value);
static bool moment_time(const char **p, bool basic, struct pg_tm *tm, fsec_t *fsec);
static bool moment_fraction(const char **p, fsec_t *fsec);
static bool moment_offset(const char **p, int *offset);

/*
 * The time zone of this name, as the setting TimeZone knows it; NULL if there is
 * none.
 */
pg_tz *
moment_time_zone(const char *name)
{
	pg_tz	   *zone = pg_tzset(name);

	return zone != NULL && pg_tz_acceptable(zone) ? zone : NULL;
}

/*
 * The moment at which clocks in the zone show this; false if it is out of range.
 */
bool
moment_from_timestamp(Timestamp value, pg_tz *zone, TimestampTz *result)
{
	struct pg_tm tm;
	fsec_t		fsec;
	int			offset;

	if (TIMESTAMP_NOT_FINITE(value))
	{
		*result = value;
		return true;
	}
	if (timestamp2tm(value, NULL, &tm, &fsec, NULL, NULL) != 0)
		return false;
	offset = DetermineTimeZoneOffset(&tm, zone);
	return tm2timestamp(&tm, fsec, &offset, result) == 0 && IS_VALID_TIMESTAMP(*result);
}

/*
 * The moment that a string in ISO 8601 names: a date, or date and time, with or
 * without separators, fraction and offset.  Without an offset it is the zone's.
 * False for any other string.
 */
bool
moment_from_text(text *value, pg_tz *zone, TimestampTz *result)
{
	char		string[64];
	int			len = VARSIZE_ANY_EXHDR(value);
	const char *p = string;
	struct pg_tm tm = {0};
	fsec_t		fsec = 0;
	int			offset = 0;
	bool		basic;

	if (len >= (int) sizeof(string))
		return false;
	memcpy(string, VARDATA_ANY(value), len);
	string[len] = '\0';

	if (!moment_digits(&p, 4, &tm.tm_year))
		return false;
	basic = *p != '-';
	if ((!basic && *p++ != '-') || !moment_digits(&p, 2, &tm.tm_mon) ||
		(!basic && *p++ != '-') || !moment_digits(&p, 2, &tm.tm_mday))
		return false;
	if (tm.tm_year < 1 || tm.tm_mon < 1 || tm.tm_mon > MONTHS_PER_YEAR || tm.tm_mday < 1 ||
		tm.tm_mday > day_tab[isleap(tm.tm_year)][tm.tm_mon - 1])
		return false;

	if (*p == 'T' || *p == 't' || *p == ' ')
	{
		p++;
		if (!moment_time(&p, basic, &tm, &fsec))
			return false;
		if (*p != '\0')
		{
			if (!moment_offset(&p, &offset) || *p != '\0')
				return false;
			return tm2timestamp(&tm, fsec, &offset, result) == 0;
		}
	}
	if (*p != '\0')
		return false;
	offset = DetermineTimeZoneOffset(&tm, zone);
	return tm2timestamp(&tm, fsec, &offset, result) == 0;
}

/*
 * So many digits, and what they mean.
 */
static bool
moment_digits(const char **p, int count, int *value)
{
	*value = 0;
	for (; count > 0; count--, (*p)++)
	{
		if (**p < '0' || **p > '9')
			return false;
		*value = *value * 10 + (**p - '0');
	}
	return true;
}

/*
 * hh, hh:mm, or hh:mm:ss with a fraction; hhmm and hhmmss if basic.  A second 60
 * and the end of the day, 24:00, are ISO 8601's as well.
 */
static bool
moment_time(const char **p, bool basic, struct pg_tm *tm, fsec_t *fsec)
{
	int		   *parts[] = {&tm->tm_min, &tm->tm_sec};

	if (!moment_digits(p, 2, &tm->tm_hour))
		return false;
	for (int i = 0; i < (int) lengthof(parts); i++)
	{
		if (basic ? (**p < '0' || **p > '9') : **p != ':')
			break;
		if (!basic)
			(*p)++;
		if (!moment_digits(p, 2, parts[i]))
			return false;
		if (parts[i] == &tm->tm_sec && (**p == '.' || **p == ',') && !moment_fraction(p, fsec))
			return false;
	}
	return (tm->tm_hour < 24 && tm->tm_min < 60 && tm->tm_sec <= 60) ||
		(tm->tm_hour == 24 && tm->tm_min == 0 && tm->tm_sec == 0 && *fsec == 0);
}

/*
 * A fraction of a second, rounded to microseconds.
 */
static bool
moment_fraction(const char **p, fsec_t *fsec)
{
	int			scale = USECS_PER_SEC;

	if (*++(*p) < '0' || **p > '9')
		return false;
	for (; **p >= '0' && **p <= '9'; (*p)++)
	{
		if (scale == 1)
		{
			/* the first digit that is too many decides */
			*fsec += **p >= '5';
			scale = 0;
		}
		if (scale == 0)
			continue;
		scale /= 10;
		*fsec += (**p - '0') * scale;
	}
	return true;
}

/*
 * Z, or how far ahead of UTC: +hh, +hhmm, +hh:mm, or with a minus.  Counted
 * westward, as the server does.
 */
static bool
moment_offset(const char **p, int *offset)
{
	int			sign = **p == '-' ? 1 : -1;
	int			hours;
	int			minutes = 0;

	if (**p == 'Z' || **p == 'z')
	{
		(*p)++;
		return true;
	}
	if (**p != '+' && **p != '-')
		return false;
	(*p)++;
	if (!moment_digits(p, 2, &hours))
		return false;
	if (**p == ':' || (**p >= '0' && **p <= '9'))
	{
		if (**p == ':')
			(*p)++;
		if (!moment_digits(p, 2, &minutes))
			return false;
	}
	*offset = sign * (hours * MINS_PER_HOUR + minutes) * SECS_PER_MINUTE;
	return hours <= MAX_TZDISP_HOUR && minutes < MINS_PER_HOUR;
}
