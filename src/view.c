/*
 * view.c
 *		Views through which every event counts as inserted: optout.guard_view(),
 *		and the trigger that stores what is inserted into them.
 *
 * A client that maps the rows of RETURNING by position to the rows that it
 * has sent mistakes the next user's key for that of a discarded event.
 * Through the view it gets a row for each event.
 *
 * The view has the table's defaults, so what the trigger receives is
 * complete, but for identity and generated columns.  It draws identity
 * values, as the server itself would, without asking for privileges on the
 * sequence.  The server computes generated columns; for a discarded event, we
 * do.
 *
 * Whoever writes needs the same privileges on the table as without the view:
 * the trigger stores as the writer.  It finds its table by the view's own
 * query, in which the server keeps the table by OID, so it follows renames.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/ruleutils.h"
#include "utils/varlena.h"

#include "compat.h"
#include "guard.h"
#include "tables.h"

#define VIEW_TRIGGER "optout_store"

PG_FUNCTION_INFO_V1(optout_guard_view);
PG_FUNCTION_INFO_V1(optout_store_event);

/* a column of the view, which is one of the table */
typedef struct ViewColumn
{
	char	   *name;			/* in the table */
	Oid			type;
	bool		always;			/* identity GENERATED ALWAYS */
	Oid			sequence;		/* of an identity */
	char	   *generated;		/* expression, or NULL */
} ViewColumn;

/* how rows inserted into a view are stored; kept from row to row */
typedef struct ViewStore
{
	int			ncolumns;
	ViewColumn *columns;
	int			nparams;		/* those that are not generated */
	Oid		   *types;
	SPIPlanPtr	insert;
	SPIPlanPtr	compute;		/* a row as it would have been stored; or NULL */
} ViewStore;

static RangeVar *view_name(text *name, Relation table);
static void view_check_existing(Oid viewid, Relation table, const char *name);
static bool view_is_ours(Relation view, Oid function);
static Oid	view_table(Relation view, List **columns);
static void view_follow_renames(Oid viewid, Relation table, const char *name);
static List *view_default_commands(Relation table, const char *name);
static char *view_expression(Relation table, AttrNumber attnum);
static ViewStore *view_store(FunctionCallInfo fcinfo);
static void view_describe_columns(ViewStore *store, Relation table, List *attnums);
static void view_prepare(ViewStore *store, Relation table);
static SPIPlanPtr view_prepare_plan(const char *query, ViewStore *store);
static void view_free_store(void *arg);
static void view_fill_in(const ViewStore *store, Datum *values, bool *nulls);
static Datum view_draw(const ViewColumn *column);
static HeapTuple view_execute(SPIPlanPtr plan, Datum *params, const char *nulls);

/*
 * optout.guard_view(relation, view)
 */
Datum
optout_guard_view(PG_FUNCTION_ARGS)
{
	Relation	table = guard_open_own_table(fcinfo);
	RangeVar   *rangevar;
	Oid			viewid;
	char	   *name;
	char	   *table_name;
	List	   *commands;
	ListCell   *cell;

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("view must not be null")));
	rangevar = view_name(PG_GETARG_TEXT_PP(1), table);
	name = quote_qualified_identifier(rangevar->schemaname, rangevar->relname);
	viewid = RangeVarGetRelid(rangevar, NoLock, true);
	if (OidIsValid(viewid))
	{
		view_check_existing(viewid, table, name);
		view_follow_renames(viewid, table, name);
	}
	table_name = tables_relation_name(table);
	commands = view_default_commands(table, name);
	relation_close(table, NoLock);

	guard_run(psprintf("CREATE OR REPLACE VIEW %s WITH (security_invoker) AS SELECT * FROM %s",
					   name, table_name), 0, NULL, NULL);
	foreach(cell, commands)
		guard_run(lfirst(cell), 0, NULL, NULL);
	guard_run(psprintf("CREATE OR REPLACE TRIGGER " VIEW_TRIGGER " INSTEAD OF INSERT ON %s"
					   " FOR EACH ROW EXECUTE FUNCTION optout.store_event()", name), 0, NULL, NULL);
	PG_RETURN_VOID();
}

/*
 * The name of the view, in the schema of its table where it names none.
 */
static RangeVar *
view_name(text *name, Relation table)
{
	RangeVar   *rangevar = makeRangeVarFromNameList(textToQualifiedNameList(name));

	if (rangevar->schemaname == NULL)
		rangevar->schemaname = get_namespace_name(RelationGetNamespace(table));
	return rangevar;
}

/*
 * Replace nothing but what we have made for this table.
 */
static void
view_check_existing(Oid viewid, Relation table, const char *name)
{
	Relation	view = relation_open(viewid, AccessShareLock);
	List	   *columns;

	if (!view_is_ours(view, tables_function("store_event")) ||
		view_table(view, &columns) != RelationGetRelid(table))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("relation %s already exists", name),
				 errdetail("It is not a view that optout.guard_view() has made over \"%s\".",
						   RelationGetRelationName(table))));
	relation_close(view, NoLock);
}

static bool
view_is_ours(Relation view, Oid function)
{
	TriggerDesc *trigdesc = view->trigdesc;

	if (view->rd_rel->relkind != RELKIND_VIEW)
		return false;
	for (int i = 0; trigdesc != NULL && i < trigdesc->numtriggers; i++)
	{
		if (trigdesc->triggers[i].tgfoid == function)
			return true;
	}
	return false;
}

/*
 * The table that the view shows, and the numbers of the columns there.
 * InvalidOid if it is any other view than that.
 */
static Oid
view_table(Relation view, List **columns)
{
	Query	   *query = get_view_query(view);
	RangeTblRef *ref;
	RangeTblEntry *rte;
	ListCell   *cell;

	*columns = NIL;
	if (list_length(query->jointree->fromlist) != 1 ||
		!IsA(linitial(query->jointree->fromlist), RangeTblRef))
		return InvalidOid;
	ref = linitial_node(RangeTblRef, query->jointree->fromlist);
	rte = rt_fetch(ref->rtindex, query->rtable);
	if (rte->rtekind != RTE_RELATION)
		return InvalidOid;

	foreach(cell, query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, cell);
		Var		   *var = (Var *) entry->expr;

		if (entry->resjunk || !IsA(var, Var) || var->varno != ref->rtindex || var->varattno <= 0)
			return InvalidOid;
		*columns = lappend_int(*columns, var->varattno);
	}
	return rte->relid;
}

/*
 * Give the columns of the view the names that the table's have now.
 */
static void
view_follow_renames(Oid viewid, Relation table, const char *name)
{
	Relation	view = relation_open(viewid, AccessShareLock);
	List	   *commands = NIL;
	List	   *columns;
	ListCell   *cell;

	view_table(view, &columns);
	foreach(cell, columns)
	{
		char	   *before = NameStr(TupleDescAttr(RelationGetDescr(view), foreach_current_index(cell))->attname);
		char	   *after = get_attname(RelationGetRelid(table), lfirst_int(cell), false);

		if (strcmp(before, after) != 0)
			commands = lappend(commands, psprintf("ALTER VIEW %s RENAME COLUMN %s TO %s", name,
												  pstrdup(quote_identifier(before)), quote_identifier(after)));
	}
	relation_close(view, NoLock);
	foreach(cell, commands)
		guard_run(lfirst(cell), 0, NULL, NULL);
}

/*
 * What gives the view the defaults of the table.
 */
static List *
view_default_commands(Relation table, const char *name)
{
	TupleDesc	tupdesc = RelationGetDescr(table);
	List	   *commands = NIL;

	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(tupdesc, i);
		char	   *expression = NULL;

		if (att->attisdropped)
			continue;
		if (att->attgenerated == '\0')
			expression = view_expression(table, i + 1);
		commands = lappend(commands, psprintf("ALTER VIEW %s ALTER %s %s%s", name,
											  quote_identifier(NameStr(att->attname)),
											  expression ? "SET DEFAULT " : "DROP DEFAULT", expression ? expression : ""));
	}
	return commands;
}

/*
 * The default or generation expression of a column; NULL where it has none.
 */
static char *
view_expression(Relation table, AttrNumber attnum)
{
	TupleConstr *constr = RelationGetDescr(table)->constr;

	for (int i = 0; constr != NULL && i < constr->num_defval; i++)
	{
		if (constr->defval[i].adnum == attnum)
			return deparse_expression(stringToNode(constr->defval[i].adbin),
									  deparse_context_for(RelationGetRelationName(table), RelationGetRelid(table)),
									  false, false);
	}
	return NULL;
}

/*
 * optout.store_event(), the trigger function
 */
Datum
optout_store_event(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	TupleTableSlot *slot;
	ViewStore  *store;
	Datum	   *values;
	bool	   *isnull;
	Datum	   *params;
	char	   *nulls;
	int			nparams = 0;
	HeapTuple	row;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_INSTEAD(trigdata->tg_event) ||
		!TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" must be fired instead of an insertion into a view",
						"optout.store_event"),
				 errhint("Let optout.guard_view() create the view and the trigger.")));

	store = view_store(fcinfo);
	slot = trigdata->tg_trigslot;
	slot_getallattrs(slot);
	values = palloc(store->ncolumns * sizeof(Datum));
	isnull = palloc(store->ncolumns * sizeof(bool));
	memcpy(values, slot->tts_values, store->ncolumns * sizeof(Datum));
	memcpy(isnull, slot->tts_isnull, store->ncolumns * sizeof(bool));
	view_fill_in(store, values, isnull);

	params = palloc(store->ncolumns * sizeof(Datum));
	nulls = palloc(store->ncolumns + 1);
	for (int i = 0; i < store->ncolumns; i++)
	{
		if (store->columns[i].generated != NULL)
			continue;
		params[nparams] = values[i];
		nulls[nparams++] = isnull[i] ? 'n' : ' ';
	}
	nulls[nparams] = '\0';

	row = view_execute(store->insert, params, nulls);
	if (row == NULL && store->compute != NULL)
		row = view_execute(store->compute, params, nulls);
	if (row == NULL)
		row = heap_form_tuple(slot->tts_tupleDescriptor, values, isnull);
	return PointerGetDatum(row);
}

/*
 * Draw the values of identity columns that were not given, and refuse values for
 * columns that take none.
 */
static void
view_fill_in(const ViewStore *store, Datum *values, bool *nulls)
{
	for (int i = 0; i < store->ncolumns; i++)
	{
		const ViewColumn *column = &store->columns[i];

		if (!nulls[i] && (column->always || column->generated != NULL))
			ereport(ERROR,
					(errcode(ERRCODE_GENERATED_ALWAYS),
					 errmsg("cannot insert a non-DEFAULT value into column \"%s\"", column->name),
					 errdetail(column->always ? "Column \"%s\" is an identity column defined as GENERATED ALWAYS." :
							   "Column \"%s\" is a generated column.", column->name)));
		if (nulls[i] && OidIsValid(column->sequence))
		{
			values[i] = view_draw(column);
			nulls[i] = false;
		}
	}
}

static Datum
view_draw(const ViewColumn *column)
{
	int64		value = nextval_internal(column->sequence, false);

	/* the sequence is of the column's type */
	switch (column->type)
	{
		case INT2OID:
			return Int16GetDatum((int16) value);
		case INT4OID:
			return Int32GetDatum((int32) value);
		default:
			return Int64GetDatum(value);
	}
}

/*
 * Run a plan that gives at most one row, and return that.
 */
static HeapTuple
view_execute(SPIPlanPtr plan, Datum *params, const char *nulls)
{
	HeapTuple	row = NULL;
	int			rc;

	SPI_connect();
	rc = SPI_execute_plan(plan, params, nulls, false, 0);
	if (rc < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(rc));
	if (SPI_tuptable != NULL && SPI_processed > 0)
		row = SPI_copytuple(SPI_tuptable->vals[0]);
	SPI_finish();
	return row;
}

/*
 * How rows inserted into this view are stored.
 */
static ViewStore *
view_store(FunctionCallInfo fcinfo)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	MemoryContext oldcontext;
	MemoryContextCallback *callback;
	ViewStore  *store = fcinfo->flinfo->fn_extra;
	Relation	table;
	List	   *attnums;
	Oid			relid;

	if (store != NULL)
		return store;

	relid = view_table(trigdata->tg_relation, &attnums);
	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("view \"%s\" does not show the columns of one table",
						RelationGetRelationName(trigdata->tg_relation)),
				 errhint("Let optout.guard_view() create it.")));

	/* before a value is drawn from a sequence that is not theirs */
	if (pg_class_aclcheck(relid, GetUserId(), ACL_INSERT) != ACLCHECK_OK &&
		pg_attribute_aclcheck_all(relid, GetUserId(), ACL_INSERT, ACLMASK_ALL) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(relid));

	oldcontext = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	store = palloc0(sizeof(ViewStore));
	table = table_open(relid, AccessShareLock);
	view_describe_columns(store, table, attnums);

	/* plans that are kept are not freed with the memory around them */
	callback = palloc(sizeof(MemoryContextCallback));
	callback->func = view_free_store;
	callback->arg = store;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);
	view_prepare(store, table);

	table_close(table, AccessShareLock);
	MemoryContextSwitchTo(oldcontext);
	fcinfo->flinfo->fn_extra = store;
	return store;
}

static void
view_describe_columns(ViewStore *store, Relation table, List *attnums)
{
	ListCell   *cell;

	store->columns = palloc0(list_length(attnums) * sizeof(ViewColumn));
	store->types = palloc0(list_length(attnums) * sizeof(Oid));
	foreach(cell, attnums)
	{
		ViewColumn *column = &store->columns[store->ncolumns++];
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(table), lfirst_int(cell) - 1);

		column->name = pstrdup(NameStr(att->attname));
		column->type = att->atttypid;
		column->always = att->attidentity == ATTRIBUTE_IDENTITY_ALWAYS;
		if (att->attgenerated != '\0')
			column->generated = view_expression(table, att->attnum);
		else
			store->types[store->nparams++] = att->atttypid;
		if (att->attidentity != '\0')
			column->sequence = getIdentitySequence(table, att->attnum, false);
	}
}

/*
 * Prepare the statement that stores, and the query that computes what it would
 * have stored.  What triggers have made of a row the writer learns if they may
 * read the table.
 */
static void
view_prepare(ViewStore *store, Relation table)
{
	StringInfoData names;		/* of what is stored */
	StringInfoData params;
	StringInfoData inner;		/* the same as columns of a row */
	StringInfoData all;			/* of the view */
	StringInfoData computed;
	Oid			relid = RelationGetRelid(table);
	int			nparams = 0;
	bool		returning;

	initStringInfo(&names);
	initStringInfo(&params);
	initStringInfo(&inner);
	initStringInfo(&all);
	initStringInfo(&computed);
	for (int i = 0; i < store->ncolumns; i++)
	{
		const ViewColumn *column = &store->columns[i];
		const char *name = quote_identifier(column->name);
		const char *comma = nparams > 0 ? ", " : "";

		appendStringInfo(&all, "%s%s", i > 0 ? ", " : "", name);
		appendStringInfo(&computed, "%s%s", i > 0 ? ", " : "", column->generated ? column->generated : name);
		if (column->generated != NULL)
			continue;
		nparams++;
		appendStringInfo(&names, "%s%s", comma, name);
		appendStringInfo(&params, "%s$%d", comma, nparams);
		appendStringInfo(&inner, "%s$%d AS %s", comma, nparams, name);
	}

	returning = pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) == ACLCHECK_OK &&
		check_enable_rls(relid, InvalidOid, true) != RLS_ENABLED;
	store->insert = view_prepare_plan(psprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE VALUES (%s)%s%s",
											   tables_relation_name(table), names.data, params.data,
											   returning ? " RETURNING " : "",
											   returning ? all.data : ""), store);
	if (store->nparams < store->ncolumns)
		store->compute = view_prepare_plan(psprintf("SELECT %s FROM (SELECT %s%s%u::pg_catalog.oid AS tableoid) AS %s",
													computed.data, inner.data, nparams > 0 ? ", " : "", relid,
													quote_identifier(RelationGetRelationName(table))), store);
}

static SPIPlanPtr
view_prepare_plan(const char *query, ViewStore *store)
{
	SPIPlanPtr	plan;

	SPI_connect();
	plan = SPI_prepare(query, store->nparams, store->types);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	SPI_keepplan(plan);
	SPI_finish();
	return plan;
}

static void
view_free_store(void *arg)
{
	ViewStore  *store = arg;

	if (store->insert != NULL)
		SPI_freeplan(store->insert);
	if (store->compute != NULL)
		SPI_freeplan(store->compute);
}
