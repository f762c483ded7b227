/*
 * payload.h
 *		What a path leads to in a json or jsonb document.
 */
#ifndef OPTOUT_PAYLOAD_H
#define OPTOUT_PAYLOAD_H

/* the keys of a path, from the root of the document */
typedef struct PayloadPath
{
	const char *source;			/* as guard() was given it */
	int			nkeys;
	text	  **keys;
	Datum	   *elements;		/* the same, as jsonb_get_element() takes them */
} PayloadPath;

extern PayloadPath *payload_parse_path(const char *path);
extern bool payload_type_supported(Oid type);
extern bool payload_is_subscript(text *key, int *element);
extern Datum payload_open(Oid type, Datum document);
extern text *payload_get(Oid type, Datum opened, const PayloadPath *path, bool *is_string);

#endif							/* OPTOUT_PAYLOAD_H */
