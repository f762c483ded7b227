/*
 * support.c
 *		Planner support for the filter functions: how many rows they let through,
 *		and what a call costs.
 *
 * The share of events of opted-out users is found by asking the filter about
 * the column's most common values and about the bounds of its histogram, which
 * are a sample of the others.  Without statistics, the share of the directory's
 * users who have ever been opted out has to do.
 *
 * EXPLAIN shows the estimate, even of parts of a plan for which the executor
 * never checks EXECUTE, such as sub-plans that are pruned when it starts.  So
 * the planner checks what the executor would: whether the current user, who
 * in a view is its reader, may execute the function.  A role that may not
 * gets the estimate of a function without planner support.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_statistic.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/pathnodes.h"
#include "nodes/supportnodes.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/selfuncs.h"

#include "accepts.h"
#include "compat.h"
#include "filter.h"
#include "ident.h"
#include "periods.h"
#include "tables.h"

/*
 * What a call costs, in units of cpu_operator_cost.  The planner has the cheapest
 * condition asked first.  accepts() counts what it discards, so it is made to
 * look dear enough for what else stands in a WHERE to decide before it does.
 */
#define COST_WITH_FILTER 2
#define COST_WITHOUT_FILTER 100
#define COST_COUNTING 20

PG_FUNCTION_INFO_V1(optout_accepts_support);
PG_FUNCTION_INFO_V1(optout_is_opted_out_support);

static Node *support_answer(Node *request, bool accepts);
static double support_discarded_share(SupportRequestSelectivity *request);
static double support_share_of_values(Oid type, text *organization,
									  const AttStatsSlot *slot, bool weighted);
static double support_share_of_users(void);

/*
 * optout.accepts_support(internal)
 */
Datum
optout_accepts_support(PG_FUNCTION_ARGS)
{
	PG_RETURN_POINTER(support_answer((Node *) PG_GETARG_POINTER(0), true));
}

/*
 * optout.is_opted_out_support(internal)
 */
Datum
optout_is_opted_out_support(PG_FUNCTION_ARGS)
{
	PG_RETURN_POINTER(support_answer((Node *) PG_GETARG_POINTER(0), false));
}

static Node *
support_answer(Node *request, bool accepts)
{
	if (IsA(request, SupportRequestSelectivity))
	{
		SupportRequestSelectivity *req = (SupportRequestSelectivity *) request;
		double		discarded;

		/* what a join lets through says nothing of one column */
		if (req->is_join)
			return NULL;
		/* a cached plan must not show one role's estimate to another */
		if (req->root != NULL)
			req->root->glob->dependsOnRole = true;
		if (object_aclcheck(ProcedureRelationId, req->funcid, GetUserId(),
							ACL_EXECUTE) != ACLCHECK_OK)
			return NULL;
		discarded = support_discarded_share(req);
		CLAMP_PROBABILITY(discarded);
		req->selectivity = accepts ? 1 - discarded : discarded;
		return request;
	}
	if (IsA(request, SupportRequestCost))
	{
		/* the same for everybody: it only says whether there is a filter */
		SupportRequestCost *req = (SupportRequestCost *) request;
		int			cost = shared_blocks[0] != NULL ? COST_WITH_FILTER : COST_WITHOUT_FILTER;

		if (accepts)
			cost = Max(cost, COST_COUNTING);
		req->startup = 0;
		req->per_tuple = cpu_operator_cost * cost;
		return request;
	}
	return NULL;
}

static double
support_discarded_share(SupportRequestSelectivity *request)
{
	VariableStatData vardata;
	Node	   *organization_arg;
	text	   *organization = organization_setting_text;
	Oid			type;
	double		share = -1;

	/* the organization, if it is known already and can be one */
	organization_arg = list_length(request->args) < 2 ? NULL :
		estimate_expression_value(request->root, lsecond(request->args));
	if (organization_arg != NULL)
	{
		if (!IsA(organization_arg, Const))
			return support_share_of_users();
		if (!((Const *) organization_arg)->constisnull)
			organization = DatumGetTextPP(((Const *) organization_arg)->constvalue);
		/* an error only if the function is called */
		if (!organization_is_valid(organization))
			return support_share_of_users();
	}

	examine_variable(request->root, linitial(request->args), request->varRelid, &vardata);
	type = getBaseType(vardata.atttype);
	/* the values of rows that the user may not see are not asked about */
	if (HeapTupleIsValid(vardata.statsTuple) && ident_type(type) >= 0 &&
		statistic_proc_security_check(&vardata, request->funcid))
	{
		Form_pg_statistic stats = (Form_pg_statistic) GETSTRUCT(vardata.statsTuple);
		AttStatsSlot slot;
		double		others = 1 - stats->stanullfrac;

		share = 0;
		if (get_attstatsslot(&slot, vardata.statsTuple, STATISTIC_KIND_MCV, InvalidOid,
							 ATTSTATSSLOT_VALUES | ATTSTATSSLOT_NUMBERS))
		{
			share += support_share_of_values(type, organization, &slot, true);
			for (int i = 0; i < slot.nnumbers; i++)
				others -= slot.numbers[i];
			free_attstatsslot(&slot);
		}
		if (others > 0 &&
			get_attstatsslot(&slot, vardata.statsTuple, STATISTIC_KIND_HISTOGRAM, InvalidOid,
							 ATTSTATSSLOT_VALUES))
		{
			share += others * support_share_of_values(type, organization, &slot, false);
			free_attstatsslot(&slot);
		}
	}
	ReleaseVariableStats(vardata);

	return share >= 0 ? share : support_share_of_users();
}

/*
 * The share of these values that the filter would discard, each counted by its
 * frequency or all alike.
 */
static double
support_share_of_values(Oid type, text *organization, const AttStatsSlot *slot, bool weighted)
{
	double		share = 0;

	for (int i = 0; i < slot->nvalues; i++)
	{
		if (is_opted_out(organization, ident_from_datum(type, slot->values[i]), NULL))
			share += weighted ? slot->numbers[i] : 1.0 / slot->nvalues;
	}
	return share;
}

static double
support_share_of_users(void)
{
	Relation	rel = tables_open("product_user", AccessShareLock);
	double		users = rel->rd_rel->reltuples;

	table_close(rel, NoLock);
	return users > 0 ? periods_estimate() / users : 0;
}
