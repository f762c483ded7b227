/*
 * coverage.h
 *		Whether the shared filter covers every row of the state table.
 */
#ifndef OPTOUT_COVERAGE_H
#define OPTOUT_COVERAGE_H

typedef enum Coverage
{
	COVERAGE_UNKNOWN,			/* rows can arrive unseen: trust nothing but
								 * the table */
	COVERAGE_PARTIAL,			/* rows are seen, but not all keys are in the
								 * filter: trust the memo */
	COVERAGE_FULL				/* trust both */
} Coverage;

extern bool filter_enabled;

extern void coverage_define_settings(void);
extern void coverage_install_hooks(void);
extern Coverage coverage(void);

#endif							/* OPTOUT_COVERAGE_H */
