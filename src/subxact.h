/*
 * subxact.h
 *		Subtransactions of our own.
 */
#ifndef OPTOUT_SUBXACT_H
#define OPTOUT_SUBXACT_H

#include "utils/elog.h"
#include "utils/palloc.h"
#include "utils/resowner.h"

/* what was current before it began */
typedef struct Subxact
{
	MemoryContext context;
	ResourceOwner owner;
} Subxact;

extern Subxact subxact_begin(void);
extern void subxact_end(const Subxact *subxact, bool commit);
extern ErrorData *subxact_catch(const Subxact *subxact);

#endif							/* OPTOUT_SUBXACT_H */
