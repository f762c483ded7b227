/*
 * links.h
 *		Aliases of users, optout.user_alias.
 */
#ifndef OPTOUT_LINKS_H
#define OPTOUT_LINKS_H

#include "ident.h"

/* an id that is to be an alias, and its user; both text */
typedef struct Link
{
	Datum		alias;
	Datum		user;
} Link;

/* sorted by alias, then user, without duplicates */
typedef struct Links
{
	int			count;
	Link	   *links;
} Links;

extern void links_define_settings(void);

extern Links links_from_arrays(ArrayType *users, ArrayType *aliases);
extern Links links_from_user(text *user, ArrayType *aliases);
extern Links links_in_both(const Links *a, const Links *b);
extern UserIds links_users(const Links *links);
extern UserIds links_aliases(const Links *links);

extern void links_refuse_aliases(text *organization, const UserIds *users);
extern Links links_find(text *organization, const UserIds *users);
extern UserIds links_find_known(text *organization, const UserIds *users);
extern void links_refuse_known_aliases(text *organization, const UserIds *users);
extern UserIds links_lock(text *organization, const UserIds *aliases);
extern Links links_read(text *organization, const UserIds *ids);

extern Links links_missing(text *organization, const Links *links);
extern void links_write(text *organization, const Links *links, text *reason);
extern void links_refuse_persons(text *organization, const UserIds *aliases);
extern void links_copy_periods(text *organization, const Links *links, bool only_open);
extern void links_refuse_opted_out(text *organization, const Links *links);
extern uint64 links_delete(text *organization, const UserIds *aliases);

#endif							/* OPTOUT_LINKS_H */
