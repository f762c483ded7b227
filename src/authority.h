/*
 * authority.h
 *		Who may do what.
 */
#ifndef OPTOUT_AUTHORITY_H
#define OPTOUT_AUTHORITY_H

extern void authority_require_administer(text *organization);
extern void authority_require_read(text *organization);

#endif							/* OPTOUT_AUTHORITY_H */
