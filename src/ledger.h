/*
 * ledger.h
 *		How many events were discarded.
 */
#ifndef OPTOUT_LEDGER_H
#define OPTOUT_LEDGER_H

extern void ledger_install_hooks(void);
extern void ledger_count(text *organization);
extern bool ledger_is_planning(void);

#endif							/* OPTOUT_LEDGER_H */
