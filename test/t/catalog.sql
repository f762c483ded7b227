-- Everything that the catalogs say of the extension, a line each, for comparison of
-- one that was installed with one that was updated.  Whole rows are shown, so that
-- no column of any server release is forgotten.  OIDs, and expressions, which contain
-- some, are replaced by names and definitions.  What changes by itself is left out.
SET search_path = pg_catalog;
SET quote_all_identifiers = off;

CREATE FUNCTION pg_temp.without(r anyelement, VARIADIC names text[]) RETURNS jsonb LANGUAGE sql
	AS 'SELECT to_jsonb(r) - names - ''oid''::text';
CREATE FUNCTION pg_temp.privileges(acl aclitem[]) RETURNS text[] LANGUAGE sql
	AS $$ SELECT array_agg(concat_ws(' ', a.grantor::regrole, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END, a.privilege_type, a.is_grantable)
		ORDER BY a.grantor::regrole::text, a.grantee::regrole::text, a.privilege_type) FROM aclexplode(acl) a $$;
-- the OID is part of these names
CREATE FUNCTION pg_temp.described(class oid, object oid, sub int) RETURNS text LANGUAGE sql
	AS $$ SELECT regexp_replace(pg_describe_object(class, object, sub), '\mpg_toast_\d+', 'pg_toast_N', 'g') $$;

-- the extension, and all that is part of it or depends on what is
CREATE TEMP TABLE object AS
WITH RECURSIVE object (classid, objid) AS (
	SELECT 'pg_extension'::regclass::oid, oid FROM pg_extension WHERE extname = 'optout'
	 UNION
	SELECT 'pg_namespace'::regclass, oid FROM pg_namespace WHERE nspname = 'optout'
	 UNION
	SELECT d.classid, d.objid
	  FROM object o JOIN pg_depend d ON d.refclassid = o.classid AND d.refobjid = o.objid
	 WHERE d.deptype IN ('a', 'e', 'i')
)
SELECT DISTINCT * FROM object;

SELECT 'extension', jsonb_build_object('owner', extowner::regrole, 'schema', extnamespace::regnamespace, 'relocatable', extrelocatable, 'version', extversion,
	'config', (SELECT jsonb_object_agg(c.relation::regclass, c.condition) FROM unnest(extconfig, extcondition) AS c (relation, condition)))
  FROM pg_extension WHERE extname = 'optout'
 UNION ALL
SELECT 'object ' || pg_temp.described(classid, objid, 0), NULL FROM object
 UNION ALL
SELECT 'schema ' || nspname, pg_temp.without(n, 'nspowner', 'nspacl') || jsonb_build_object('owner', nspowner::regrole, 'acl', pg_temp.privileges(nspacl))
  FROM pg_namespace n WHERE oid IN (SELECT objid FROM object)
 UNION ALL
SELECT 'relation ' || regexp_replace(oid::regclass::text, '\d{3,}', 'N'), pg_temp.without(c, 'relname', 'relnamespace', 'reltype', 'relowner', 'relam', 'relfilenode', 'relpages',
		'reltuples', 'relallvisible', 'relallfrozen', 'reltoastrelid', 'relfrozenxid', 'relminmxid', 'relacl')
	   || jsonb_build_object('owner', relowner::regrole, 'type', reltype <> 0, 'am', (SELECT amname FROM pg_am WHERE oid = relam), 'toast', reltoastrelid <> 0,
		'acl', pg_temp.privileges(relacl), 'view', CASE relkind WHEN 'v' THEN pg_get_viewdef(oid) END)
  FROM pg_class c WHERE oid IN (SELECT objid FROM object)
 UNION ALL
SELECT 'column ' || regexp_replace(attrelid::regclass::text, '\d{3,}', 'N') || ' ' || attnum,
	   pg_temp.without(a, 'attrelid', 'atttypid', 'attcollation', 'attcacheoff', 'attoptions', 'attacl')
	   || jsonb_build_object('type', format_type(atttypid, atttypmod), 'collation', attcollation::regcollation, 'acl', pg_temp.privileges(attacl),
		'options', (SELECT array_agg(o) FROM unnest(attoptions) AS o WHERE o NOT LIKE 'pg_attver=%'),
		'default', (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = attrelid AND adnum = attnum))
  FROM pg_attribute a WHERE attrelid IN (SELECT objid FROM object)
 UNION ALL
SELECT 'constraint ' || conname || ' on ' || conrelid::regclass,
	   pg_temp.without(c, 'connamespace', 'conrelid', 'contypid', 'conindid', 'confrelid', 'conbin', 'conparentid')
	   || jsonb_build_object('definition', pg_get_constraintdef(oid), 'index', conindid::regclass)
  FROM pg_constraint c WHERE oid IN (SELECT objid FROM object)
 UNION ALL
SELECT 'index ' || regexp_replace(indexrelid::regclass::text, '\d{3,}', 'N'), pg_temp.without(i, 'indexrelid', 'indrelid', 'indexprs', 'indpred', 'indcheckxmin')
	   || jsonb_build_object('definition', regexp_replace(pg_get_indexdef(indexrelid), 'pg_toast_\d+', 'pg_toast_N', 'g'))
  FROM pg_index i WHERE indexrelid IN (SELECT objid FROM object)
 UNION ALL
SELECT 'trigger ' || tgname || ' on ' || tgrelid::regclass,
	   pg_temp.without(t, 'tgrelid', 'tgparentid', 'tgfoid', 'tgconstrrelid', 'tgconstrindid', 'tgconstraint', 'tgqual')
	   || jsonb_build_object('definition', pg_get_triggerdef(oid), 'function', tgfoid::regprocedure)
  FROM pg_trigger t WHERE oid IN (SELECT objid FROM object)
 UNION ALL
SELECT 'rule ' || rulename || ' on ' || ev_class::regclass, pg_temp.without(r, 'ev_class', 'ev_qual', 'ev_action') || jsonb_build_object('definition', pg_get_ruledef(oid))
  FROM pg_rewrite r WHERE oid IN (SELECT objid FROM object)
 UNION ALL
SELECT 'routine ' || oid::regprocedure, pg_temp.without(p, 'pronamespace', 'proowner', 'prolang', 'provariadic', 'prosupport', 'prorettype', 'proargtypes', 'proallargtypes',
		'proargdefaults', 'protrftypes', 'prosqlbody', 'proacl')
	   || jsonb_build_object('owner', proowner::regrole, 'language', (SELECT lanname FROM pg_language WHERE oid = prolang), 'support', prosupport::regproc,
		'arguments', pg_get_function_arguments(oid), 'result', pg_get_function_result(oid), 'acl', pg_temp.privileges(proacl))
  FROM pg_proc p WHERE oid IN (SELECT objid FROM object)
 UNION ALL
SELECT 'type ' || oid::regtype, pg_temp.without(t, 'typname', 'typnamespace', 'typowner', 'typrelid', 'typelem', 'typarray', 'typbasetype', 'typcollation', 'typacl', 'typdefaultbin')
	   || jsonb_build_object('owner', typowner::regrole, 'relation', typrelid::regclass, 'element', typelem::regtype, 'array', typarray::regtype, 'acl', pg_temp.privileges(typacl))
  FROM pg_type t WHERE oid IN (SELECT objid FROM object)
 UNION ALL
SELECT 'event trigger ' || evtname, pg_temp.without(e, 'evtowner', 'evtfoid') || jsonb_build_object('owner', evtowner::regrole, 'function', evtfoid::regprocedure)
  FROM pg_event_trigger e WHERE oid IN (SELECT objid FROM object)
 UNION ALL
SELECT 'comment on ' || pg_temp.described(classoid, objoid, objsubid), to_jsonb(description)
  FROM pg_description WHERE (classoid, objoid) IN (SELECT classid, objid FROM object)
 UNION ALL
SELECT 'initial privileges on ' || pg_temp.described(classoid, objoid, objsubid), to_jsonb(pg_temp.privileges(initprivs))
  FROM pg_init_privs WHERE (classoid, objoid) IN (SELECT classid, objid FROM object)
 UNION ALL
SELECT 'dependency of ' || pg_temp.described(classid, objid, objsubid) || ' on ' || pg_temp.described(refclassid, refobjid, refobjsubid), to_jsonb(deptype)
  FROM pg_depend WHERE (classid, objid) IN (SELECT classid, objid FROM object)
 UNION ALL
SELECT 'dependency of ' || pg_temp.described(classid, objid, objsubid) || ' on role ' || refobjid::regrole, to_jsonb(deptype)
  FROM pg_shdepend WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND (classid, objid) IN (SELECT classid, objid FROM object)
 ORDER BY 1, 2;
