/*
 * match.h
 *		Which stored rows are somebody's events.
 */
#ifndef OPTOUT_MATCH_H
#define OPTOUT_MATCH_H

#include "nodes/pg_list.h"
#include "utils/rel.h"

#include "ident.h"

/* an array of ids of each type, and an organization of each */
#define MATCH_PARAMETERS (2 * IDENT_TYPES)

/* whom to look for: parameters of all conditions */
typedef struct Match
{
	text	   *organization;
	bool		is_setting;		/* it is the one that the setting names */
	int			nids[IDENT_TYPES];	/* how many ids the type has values for */
	Oid			types[MATCH_PARAMETERS];
	Datum		values[MATCH_PARAMETERS];
	char		nulls[MATCH_PARAMETERS];
} Match;

/* where rows of a table hold an id */
typedef struct MatchSource
{
	const char *name;			/* column or path */
	char	   *condition;		/* a row has one of the ids there */
	char	   *index;			/* what an index has to be on to serve that */
} MatchSource;

/* whose events a table holds */
typedef enum MatchHolder
{
	MATCH_OURS,					/* the organization's, if not all of them */
	MATCH_OTHERS,				/* all are another organization's */
	MATCH_WRITERS				/* all count as another's, which the setting
								 * names */
} MatchHolder;

extern MatchHolder match_holder(List *shapes, text *organization);
extern void match_users(Match *match, text *organization, const UserIds *users,
						const UserIds *aliases, int limit);
extern char *match_condition(Relation rel, List *shapes, const Match *match, List **sources);
extern bool match_leaves_unnamed(Relation rel, List *shapes, const Match *match);

#endif							/* OPTOUT_MATCH_H */
