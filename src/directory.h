/*
 * directory.h
 *		The directory of users, optout.product_user.
 */
#ifndef OPTOUT_DIRECTORY_H
#define OPTOUT_DIRECTORY_H

#include "datatype/timestamp.h"

#include "ident.h"

extern UserIds directory_lock(text *organization, const UserIds *users);
extern void directory_enroll(text *organization, const UserIds *users,
							 text *display_name, text *email, bool signed_in);
extern void directory_not_enrolled(text *organization, text *user_id);

#endif							/* OPTOUT_DIRECTORY_H */
