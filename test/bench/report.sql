--
-- report.sql: the table, in Markdown that is nice to read in a terminal, too.
--
CREATE TEMP VIEW median AS
SELECT phase, name, mem, measure, percentile_cont(0.5) WITHIN GROUP (ORDER BY value) / rows AS per_row
  FROM job JOIN sample ON job = nr, LATERAL (VALUES ('cpu', cpu), ('elapsed', elapsed), ('wal', wal)) AS v (measure, value)
 WHERE run > 0
 GROUP BY job.nr, measure;

-- null where it was not measured with this work_mem
CREATE FUNCTION pg_temp.figure(c comparison, mem text) RETURNS numeric
LANGUAGE sql
RETURN (SELECT CASE c.unit WHEN 'ratio' THEN o.per_row / t.per_row
                           WHEN 'us' THEN (o.per_row - COALESCE(t.per_row, 0)) / 1000 ELSE o.per_row END
          FROM median o LEFT JOIN median t ON (t.phase, t.name, t.mem, t.measure) = (c.phase, c.theirs, figure.mem, c.measure)
         WHERE (o.phase, o.name, o.mem, o.measure) = (c.phase, c.ours, figure.mem, c.measure));

WITH figures AS (
	SELECT c.*, pg_temp.figure(c, 'default') AS by_default, pg_temp.figure(c, 'large') AS by_large FROM comparison c
), shown AS (
	SELECT nr, ARRAY[what,
	                 COALESCE(round(by_default, CASE WHEN unit IN ('ratio', 'us') THEN 2 ELSE 0 END)::text, ''),
	                 COALESCE(round(by_large, CASE WHEN unit IN ('ratio', 'us') THEN 2 ELSE 0 END)::text, ''),
	                 COALESCE('at ' || bound || ' ' || target, ''),
	                 CASE WHEN bound = 'most' AND figure <= target OR bound = 'least' AND figure >= target THEN 'reached'
	                      WHEN figure IS NOT NULL AND bound IS NOT NULL THEN 'missed' ELSE '' END] AS cells
	  FROM figures, LATERAL (SELECT CASE judged WHEN 'large' THEN by_large ELSE by_default END) AS f (figure)
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

SELECT format(E'\n*Medians of %s interleaved runs of CPU time of the backend; %s events scanned, %s copied, %s users opted out, 1 %% of the events theirs.',
              :runs, words(:events), words(:copied), words(CASE WHEN :large THEN :large_list ELSE :list END));
