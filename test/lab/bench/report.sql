--
-- report.sql: the table, in Markdown that is nice to read in a terminal, too.
--
CREATE TEMP VIEW least AS
SELECT phase, name, mem, unit, (min(value) / rows)::numeric AS per_row
  FROM job JOIN sample ON job = nr,
       LATERAL (VALUES ('ratio', cpu), ('elapsed', elapsed), ('ns', cpu), ('us', cpu / 1000.0), ('bytes', wal)) AS v (unit, value)
 WHERE run > 0
 GROUP BY job.nr, unit;

WITH figure AS (
	SELECT c.nr, o.mem, CASE WHEN c.unit IN ('ratio', 'elapsed') THEN o.per_row / t.per_row
	                         ELSE o.per_row - COALESCE(t.per_row, 0) END AS value
	  FROM comparison c
	  JOIN least o ON (o.phase, o.name, o.unit) = (c.phase, c.ours, c.unit)
	  LEFT JOIN least t ON (t.phase, t.name, t.unit, t.mem) = (c.phase, c.theirs, c.unit, o.mem)
), shown AS (
	SELECT nr, ARRAY[what,
	                 COALESCE(round(d.value, digits)::text, ''), COALESCE(round(l.value, digits)::text, ''),
	                 COALESCE(target, ''),
	                 CASE WHEN target LIKE '<= %' AND d.value <= bound OR target LIKE '>= %' AND l.value >= bound THEN 'reached'
	                      WHEN target IS NOT NULL THEN 'missed' ELSE '' END] AS cells
	  FROM comparison
	  LEFT JOIN (SELECT * FROM figure WHERE mem = 'default') AS d USING (nr)
	  LEFT JOIN (SELECT * FROM figure WHERE mem = 'large') AS l USING (nr),
	  LATERAL (SELECT CASE WHEN unit IN ('ns', 'bytes') THEN 0 ELSE 2 END, substr(target, 4)::numeric) AS f (digits, bound)
	UNION ALL
	SELECT -1, ARRAY['what', 'work_mem 4 MB', regexp_replace(:'work_mem', '(\d)([A-Z])', '\1 \2'), 'target', '']
	UNION ALL
	SELECT 0, '{-,-:,-:,-,-}'
), cell AS (
	SELECT nr, n, text, max(length(text)) OVER (PARTITION BY n) AS width
	  FROM shown, unnest(cells) WITH ORDINALITY AS c (text, n)
)
SELECT '| ' || string_agg(CASE WHEN nr = 0 THEN lpad(text, width::int, '-')
                               WHEN n IN (2, 3) THEN lpad(text, width) ELSE rpad(text, width) END, ' | ' ORDER BY n) || ' |'
  FROM cell GROUP BY nr ORDER BY nr;

SELECT format(E'\n*Least of %s interleaved runs, CPU time of the backend; %s events scanned, %s copied, %s users opted out, 1 %% of the events theirs.',
              :runs, words(:events), words(:copied), words(CASE WHEN :large THEN :large_list ELSE :list END));
