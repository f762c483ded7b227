/*
 * subxact.c
 *		Subtransactions of our own: to catch errors, or to take back locks.
 *
 * An error must not leave one of them behind.  Whoever catches the error, such as
 * an EXCEPTION clause of PL/pgSQL, ends the current subtransaction, which has to be
 * its own.  So what runs in one stands in PG_TRY, also where the error is only
 * passed on:
 *
 *		Subxact		subxact = subxact_begin();
 *
 *		PG_TRY();
 *		{
 *			...
 *			subxact_end(&subxact, true);
 *		}
 *		PG_CATCH();
 *		{
 *			error = subxact_catch(&subxact);
 *		}
 *		PG_END_TRY();
 *
 * Memory context and resource owner are those of before at the end of each.
 */
#include "postgres.h"

#include "access/xact.h"

#include "subxact.h"

/*
 * Begin a subtransaction.  The current memory context is one that goes with it.
 */
Subxact
subxact_begin(void)
{
	Subxact		subxact = {CurrentMemoryContext, CurrentResourceOwner};

	BeginInternalSubTransaction(NULL);
	return subxact;
}

/*
 * Commit it, or roll it back.
 */
void
subxact_end(const Subxact *subxact, bool commit)
{
	if (commit)
		ReleaseCurrentSubTransaction();
	else
		RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(subxact->context);
	CurrentResourceOwner = subxact->owner;
}

/*
 * Roll it back after an error, and return that, in the memory of the caller.
 */
ErrorData *
subxact_catch(const Subxact *subxact)
{
	ErrorData  *error;

	MemoryContextSwitchTo(subxact->context);
	error = CopyErrorData();
	FlushErrorState();
	subxact_end(subxact, false);
	return error;
}
