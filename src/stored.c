/*
 * stored.c
 *		What guarded tables hold: which they are, how they are read, and
 *		optout.stored_events().
 *
 * A statement over a table can run code that its owner has chosen: triggers,
 * rules, functions in its indexes.  So a statement that would run with more
 * rights than that owner has runs as the owner, in a security-restricted
 * operation.  Before that, we check what the caller may do.  A statement is
 * analyzed as the caller, who has USAGE on the schemas that it names, which
 * an owner need not have.  (Where row-level security is enabled, the server
 * analyzes it again as the owner.)
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/params.h"
#include "parser/parse_node.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/tuplestore.h"

#include "authority.h"
#include "compat.h"
#include "complete.h"
#include "guards.h"
#include "links.h"
#include "stored.h"
#include "tables.h"

PG_FUNCTION_INFO_V1(optout_stored_events);

/* what a statement is analyzed with */
typedef struct StoredStatement
{
	const Match *match;
	Oid			relid;			/* what it is about */
} StoredStatement;

static List *stored_guarded_children(List *children, List *guarded);
static List *stored_guarded_parents(Oid relid, List *guarded);
static char *stored_oid_array(List *oids);
static StoredPart *stored_part(Relation rel, bool only);
static bool stored_may_keep(Relation rel);
static void stored_parser_setup(ParseState *pstate, void *arg);
static Node *stored_parameter(ParseState *pstate, ParamRef *ref);
static ParamListInfo stored_parameters(const Match *match);
static uint64 stored_result(int rc);
static bool stored_line_scans(const char *line);

/*
 * The tables with a guard of their own.  What partitions inherit is their root's, and
 * so is what TimescaleDB copies to its chunks.
 *
 * A table comes before those that it refers to, through whatever other tables, so
 * that details of events are gone before the events.  It is so by how many tables
 * can be reached from each: all that can be from those that it refers to, and more,
 * unless these refer back to it.  Where tables refer to each other in a circle, their
 * order is as good as any.
 */
List *
stored_guarded(void)
{
	Oid			argtypes[1] = {OIDOID};
	Datum		values[1];

	values[0] = ObjectIdGetDatum(guards_function());
	return tables_select_oids("WITH RECURSIVE guarded AS ("
							  "SELECT DISTINCT t.tgrelid AS relid FROM pg_trigger t "
							  "WHERE t.tgfoid = $1 AND t.tgparentid = 0 AND NOT EXISTS ("
							  "SELECT FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid "
							  "JOIN pg_trigger p ON p.tgrelid = i.inhparent "
							  "WHERE c.oid = t.tgrelid AND p.tgfoid = t.tgfoid "
							  "AND c.relnamespace = to_regnamespace('_timescaledb_internal'))"
							  "), reference AS MATERIALIZED ("
							  "SELECT DISTINCT COALESCE(pg_partition_root(k.conrelid), k.conrelid)::oid AS relid, "
							  "COALESCE(pg_partition_root(k.confrelid), k.confrelid)::oid AS to_relid "
							  "FROM pg_constraint k WHERE k.contype = 'f'"
							  "), reached (relid, through) AS ("
							  "SELECT g.relid, COALESCE(pg_partition_root(g.relid), g.relid)::oid FROM guarded g "
							  "UNION SELECT r.relid, f.to_relid "
							  "FROM reached r JOIN reference f ON f.relid = r.through"
							  ") SELECT r.relid FROM reached r GROUP BY r.relid ORDER BY count(*) DESC, r.relid",
							  1, argtypes, values);
}

/*
 * Open a guarded table; NULL where there is none any more, or it is another
 * session's temporary table, which cannot be read.
 */
Relation
stored_open(Oid relid, LOCKMODE lockmode, StoredTable *table, text *organization)
{
	Relation	rel = try_relation_open(relid, lockmode);
	List	   *shapes = NIL;

	if (rel != NULL && !RELATION_IS_OTHER_TEMP(rel))
		shapes = guards_shapes(rel);
	if (shapes == NIL)
	{
		if (rel != NULL)
			relation_close(rel, lockmode);
		return NULL;
	}
	memset(table, 0, sizeof(StoredTable));
	table->relid = relid;
	table->name = tables_relation_name(rel);
	table->is_foreign = rel->rd_rel->relkind == RELKIND_FOREIGN_TABLE;
	table->holder = match_holder(shapes, organization);
	return rel;
}

/*
 * Raise an error (42501) where the caller would not see the table, or not all of
 * its rows.
 */
void
stored_check_visible(Relation rel, const char *routine)
{
	if (object_aclcheck(NamespaceRelationId, RelationGetNamespace(rel), GetUserId(), ACL_USAGE) != ACLCHECK_OK)
		stored_deny(rel, psprintf("%s needs USAGE on the schema of every guarded table.", routine));
	if (check_enable_rls(RelationGetRelid(rel), GetUserId(), true) == RLS_ENABLED)
		stored_deny(rel, psprintf("Row-level security of the table would apply, and %s would miss what it hides.", routine));
}

void
stored_deny(Relation rel, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for table %s", tables_relation_name(rel)),
			 errdetail_internal("%s", detail)));
}

/*
 * How to find the events in a table, which is locked.
 *
 * Children that have a guard of their own come in their own turn, with all that
 * inherits from them.  There, what the guards of their parents read counts as well,
 * for one sees their rows through the parents, too.  Of a table with foreign ones
 * among its children each of the others is looked into by itself.
 */
void
stored_describe(StoredTable *table, List *guarded, Match *match)
{
	Relation	rel = relation_open(table->relid, NoLock);
	List	   *children = find_all_inheritors(table->relid, AccessShareLock, NULL);
	List	   *except = stored_guarded_children(children, guarded);
	List	   *shapes = guards_shapes(rel);
	List	   *parts = NIL;
	ListCell   *cell;

	foreach(cell, children)
	{
		Relation	child = relation_open(lfirst_oid(cell), NoLock);

		if (list_member_oid(except, RelationGetRelid(child)))
			 /* not here */ ;
		else if (child->rd_rel->relkind == RELKIND_FOREIGN_TABLE)
			table->foreign_parts = lappend(table->foreign_parts, stored_part(child, true));
		else if (child->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
			parts = lappend(parts, stored_part(child, true));
		table->may_keep |= stored_may_keep(child);
		relation_close(child, NoLock);
	}
	table->parts = table->foreign_parts != NIL ? parts : list_make1(stored_part(rel, false));
	table->condition = match_condition(rel, shapes, match, &table->sources);
	table->leaves_unnamed = match_leaves_unnamed(rel, shapes, match);
	foreach(cell, stored_guarded_parents(table->relid, guarded))
	{
		Relation	parent = relation_open(lfirst_oid(cell), AccessShareLock);
		List	   *sources;
		char	   *condition;

		shapes = guards_shapes(parent);
		condition = match_condition(parent, shapes, match, &sources);

		if (condition != NULL)
			table->condition = table->condition != NULL ?
				psprintf("%s OR %s", table->condition, condition) : condition;
		table->sources = list_concat(table->sources, sources);
		table->leaves_unnamed |= match_leaves_unnamed(parent, shapes, match);
		relation_close(parent, NoLock);
	}
	if (table->condition != NULL && except != NIL)
		table->condition = psprintf("(%s) AND e.tableoid <> ALL (%s)", table->condition, stored_oid_array(except));
	relation_close(rel, NoLock);
}

/*
 * Those of a table and its children that a guarded child stands for.
 */
static List *
stored_guarded_children(List *children, List *guarded)
{
	List	   *result = NIL;
	ListCell   *cell;

	foreach(cell, children)
	{
		if (foreach_current_index(cell) > 0 && list_member_oid(guarded, lfirst_oid(cell)))
			result = list_concat_unique_oid(result, find_all_inheritors(lfirst_oid(cell), NoLock, NULL));
	}
	return result;
}

/*
 * The guarded tables that a table inherits from, other than as a partition, which
 * has got their guards.
 */
static List *
stored_guarded_parents(Oid relid, List *guarded)
{
	List	   *result = NIL;
	ListCell   *cell;

	foreach(cell, guarded)
	{
		Oid			parent = lfirst_oid(cell);
		char		relkind = get_rel_relkind(parent);

		/* a table that is no parent of this one may have been dropped */
		if (parent != relid && relkind != '\0' && relkind != RELKIND_PARTITIONED_TABLE &&
			has_subclass(parent) &&
			list_member_oid(find_all_inheritors(parent, NoLock, NULL), relid))
			result = lappend_oid(result, parent);
	}
	return result;
}

static char *
stored_oid_array(List *oids)
{
	StringInfoData result;
	ListCell   *cell;

	initStringInfo(&result);
	foreach(cell, oids)
		appendStringInfo(&result, "%s%u", foreach_current_index(cell) > 0 ? "," : "'{", lfirst_oid(cell));
	appendStringInfoString(&result, "}'::oid[]");
	return result.data;
}

static StoredPart *
stored_part(Relation rel, bool only)
{
	StoredPart *result = palloc0(sizeof(StoredPart));

	result->relid = RelationGetRelid(rel);
	result->name = tables_relation_name(rel);
	result->from = psprintf("%s%s", only ? "ONLY " : "", result->name);
	/* another server asks who connects to it */
	if (rel->rd_rel->relkind != RELKIND_FOREIGN_TABLE)
		result->owner = rel->rd_rel->relowner;
	result->forces_rls = rel->rd_rel->relforcerowsecurity;
	return result;
}

/*
 * Whether there is anything that can keep a DELETE from deleting, or put something
 * in its place.  Of foreign keys, those that set other values can.
 */
static bool
stored_may_keep(Relation rel)
{
	TriggerDesc *trigdesc = rel->trigdesc;

	if (rel->rd_rel->relhasrules ||
		(rel->rd_rel->relkind == RELKIND_RELATION && rel->rd_rel->relam != HEAP_TABLE_AM_OID))
		return true;
	for (int i = 0; trigdesc != NULL && i < trigdesc->numtriggers; i++)
	{
		Trigger    *trigger = &trigdesc->triggers[i];

		if (TRIGGER_FOR_DELETE(trigger->tgtype) && trigger->tgfoid != F_RI_FKEY_CASCADE_DEL &&
			trigger->tgfoid != F_RI_FKEY_NOACTION_DEL && trigger->tgfoid != F_RI_FKEY_RESTRICT_DEL)
			return true;
	}
	return false;
}

/*
 * Whether the table holds no event of the organization's.  If that is only because
 * of the caller's setting, say so.
 */
bool
stored_skips(const StoredTable *table, text *organization)
{
	if (table->holder == MATCH_WRITERS)
		ereport(NOTICE,
				(errmsg("skipping table %s", table->name),
				 errdetail("Its events count as those of organization \"%s\", which the setting optout.organization names.",
						   ident_for_message(organization_setting_text)),
				 errhint("If they are those of organization \"%s\", change the setting, or guard the table with a fixed_organization.",
						 ident_for_message(organization))));
	return table->holder != MATCH_OURS;
}

/*
 * Say so where events that name no organization are not looked at.  Whether there
 * are any would take another look at the table.
 */
void
stored_tell_of_unnamed(const StoredTable *table, text *organization)
{
	if (table->leaves_unnamed)
		ereport(NOTICE,
				(errmsg("skipping events of table %s that name no organization", table->name),
				 errdetail("They count as those of organization \"%s\", which the setting optout.organization names.",
						   ident_for_message(organization_setting_text)),
				 errhint("If they are those of organization \"%s\", change the setting.",
						 ident_for_message(organization))));
}

uint64
stored_count(const StoredTable *table, Match *match)
{
	uint64		count = 0;
	ListCell   *cell;

	if (table->condition == NULL)
		return 0;
	foreach(cell, table->parts)
	{
		StoredPart *part = lfirst(cell);

		CHECK_FOR_INTERRUPTS();
		count += stored_run(psprintf("SELECT count(*) FROM %s AS e WHERE %s", part->from, table->condition),
							match, part);
	}
	return count;
}

/*
 * Analyze a statement as the caller, and run it as the owner of the table, if there
 * is one to run it as.  Returns how many rows it has deleted or counted, or of how
 * many tables a plan reads all.
 */
uint64
stored_run(const char *command, Match *match, const StoredPart *part)
{
	StoredStatement statement = {match, part->relid};
	TablesCaller caller;
	SPIPlanPtr	plan;
	uint64		result;

	SPI_connect();
	plan = SPI_prepare_params(command, stored_parser_setup, &statement, 0);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare_params failed: %s", SPI_result_code_string(SPI_result));

	caller = tables_become_owner(part->owner, part->forces_rls ? SECURITY_NOFORCE_RLS : 0);
	if (strncmp(command, "EXPLAIN", strlen("EXPLAIN")) == 0)
		(void) set_config_option("enable_seqscan", "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	result = stored_result(SPI_execute_plan_with_paramlist(plan, stored_parameters(match),
														   !OidIsValid(part->owner), 0));
	tables_become_caller(&caller);
	SPI_finish();
	return result;
}

/*
 * Have each analysis of a statement, also a later one of the same plan, see that it
 * is about the table that is meant.  The table is locked and keeps its name, but who
 * renames its schema locks nothing, and could have anything found in its place.
 */
static void
stored_parser_setup(ParseState *pstate, void *arg)
{
	pstate->p_paramref_hook = stored_parameter;
	pstate->p_ref_hook_state = arg;
}

/*
 * There is a parameter in each condition, and analyzed after the table.
 */
static Node *
stored_parameter(ParseState *pstate, ParamRef *ref)
{
	const StoredStatement *statement = pstate->p_ref_hook_state;
	const RangeTblEntry *rte;
	Param	   *param = makeNode(Param);

	while (pstate->parentParseState != NULL)
		pstate = pstate->parentParseState;
	rte = linitial_node(RangeTblEntry, pstate->p_rtable);
	if (rte->rtekind != RTE_RELATION || rte->relid != statement->relid)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("schema of table \"%s\" has been renamed meanwhile",
						get_rel_name(statement->relid)),
				 errhint("Try again.")));

	param->paramkind = PARAM_EXTERN;
	param->paramid = ref->number;
	param->paramtype = statement->match->types[ref->number - 1];
	param->paramtypmod = -1;
	param->paramcollid = get_typcollation(param->paramtype);
	param->location = ref->location;
	return (Node *) param;
}

static ParamListInfo
stored_parameters(const Match *match)
{
	ParamListInfo result = makeParamList(MATCH_PARAMETERS);

	for (int i = 0; i < MATCH_PARAMETERS; i++)
	{
		result->params[i].value = match->values[i];
		result->params[i].isnull = match->nulls[i] == 'n';
		result->params[i].pflags = PARAM_FLAG_CONST;
		result->params[i].ptype = match->types[i];
	}
	return result;
}

static uint64
stored_result(int rc)
{
	uint64		result = 0;
	bool		isnull;

	switch (rc)
	{
		case SPI_OK_DELETE:
			return SPI_processed;
		case SPI_OK_SELECT:
			return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
		case SPI_OK_UTILITY:
			for (uint64 i = 0; i < SPI_processed; i++)
				result += stored_line_scans(SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1));
			return result;
		default:
			/* a rule has made something else of it */
			if (rc < 0)
				elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(rc));
			return 0;
	}
}

/*
 * Whether this is the line of a plan that reads all of a table.
 */
static bool
stored_line_scans(const char *line)
{
	line += strspn(line, " ->");
	if (strncmp(line, "Parallel ", strlen("Parallel ")) == 0)
		line += strlen("Parallel ");
	return strncmp(line, "Seq Scan on ", strlen("Seq Scan on ")) == 0;
}

/*
 * optout.stored_events(user_ids, organization)
 *
 * It counts as the caller, who may do so in the same way themselves.  So it looks
 * into foreign tables as well.
 */
Datum
optout_stored_events(PG_FUNCTION_ARGS)
{
	UserIds		users = user_ids_from_array(PG_ARGISNULL(0) ? NULL : PG_GETARG_ARRAYTYPE_P(0));
	text	   *organization = organization_resolve(PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1));
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	List	   *guarded;
	UserIds		aliases;
	Match		match;
	ListCell   *cell;

	authority_require_read(organization);
	complete_check();
	InitMaterializedSRF(fcinfo, 0);

	links_refuse_known_aliases(organization, &users);
	aliases = links_find_known(organization, &users);
	match_users(&match, organization, &users, &aliases, PG_INT32_MAX);
	guarded = stored_guarded();
	foreach(cell, guarded)
	{
		StoredTable table;
		Relation	rel = stored_open(lfirst_oid(cell), AccessShareLock, &table, organization);
		Datum		values[2];
		bool		nulls[2] = {false};
		uint64		count;

		if (rel == NULL)
			continue;
		if (table.holder == MATCH_OURS)
		{
			stored_check_visible(rel, "optout.stored_events()");
			if (pg_class_aclcheck(table.relid, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
				stored_deny(rel, "optout.stored_events() needs SELECT on every guarded table.");
		}
		relation_close(rel, NoLock);
		if (stored_skips(&table, organization))
			continue;

		stored_describe(&table, guarded, &match);
		stored_tell_of_unnamed(&table, organization);
		table.parts = list_concat(table.parts, table.foreign_parts);
		count = stored_count(&table, &match);
		if (count == 0)
			continue;
		values[0] = ObjectIdGetDatum(table.relid);
		values[1] = Int64GetDatum((int64) count);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
