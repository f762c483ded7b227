/*
 * stored.h
 *		What guarded tables hold.
 */
#ifndef OPTOUT_STORED_H
#define OPTOUT_STORED_H

#include "storage/lockdefs.h"
#include "utils/rel.h"

#include "match.h"

/* what a statement is about, and as whom it runs */
typedef struct StoredPart
{
	Oid			relid;
	char	   *name;			/* qualified */
	char	   *from;			/* a table with all that inherits from it, or
								 * ONLY one */
	Oid			owner;			/* InvalidOid: the caller, and as a query */
	bool		forces_rls;		/* on the owner, too */
} StoredPart;

/* a guarded table, which is locked */
typedef struct StoredTable
{
	Oid			relid;
	char	   *name;			/* qualified */
	MatchHolder holder;
	bool		is_foreign;

	/* what stored_describe() finds out */
	List	   *parts;
	List	   *foreign_parts;	/* those among its children */
	bool		may_keep;		/* a trigger or rule may keep rows */
	bool		leaves_unnamed; /* rows may name no organization, and count as
								 * another's */
	char	   *condition;		/* NULL where no row can be theirs */
	List	   *sources;

	uint64		deleted;
} StoredTable;

extern List *stored_guarded(void);
extern Relation stored_open(Oid relid, LOCKMODE lockmode, StoredTable *table, text *organization);
extern void stored_check_visible(Relation rel, const char *routine);
extern void stored_deny(Relation rel, const char *detail);
extern bool stored_skips(const StoredTable *table, text *organization);
extern void stored_describe(StoredTable *table, List *guarded, Match *match);
extern void stored_tell_of_unnamed(const StoredTable *table, text *organization);
extern uint64 stored_count(const StoredTable *table, Match *match);
extern uint64 stored_run(const char *command, Match *match, const StoredPart *part);

#endif							/* OPTOUT_STORED_H */
