/*
 * complete.h
 *		Whether this server can know who is opted out.
 */
#ifndef OPTOUT_COMPLETE_H
#define OPTOUT_COMPLETE_H

/* nothing has happened since complete() looked */
extern bool complete_is_valid;

extern void complete_define_settings(void);
extern void complete_install_hooks(void (*changed) (void));
extern bool complete(void);
extern void complete_check(void);
extern char *complete_subscription(void);

#endif							/* OPTOUT_COMPLETE_H */
