-- What the server has counted in this database since it was made: of each relation the written rows (of a sequence:
-- the blocks that were looked at), and how often it was vacuumed or analyzed. The caller is alone in it.
SELECT s.oid, s.kind, s.writes, s.upkeep,
       -- The table of a TOAST table.
       CASE s.kind WHEN 't' THEN (SELECT o.oid FROM pg_class o WHERE o.reltoastrelid = s.oid) END AS owner
  FROM (
      SELECT c.oid, c.relkind::text AS kind,
             CASE c.relkind
               -- A sequence is read from its page by nextval, and by each session that reads it.
               WHEN 'S' THEN pg_stat_get_blocks_fetched(c.oid)
               ELSE pg_stat_get_tuples_inserted(c.oid) + pg_stat_get_tuples_updated(c.oid)
                  + pg_stat_get_tuples_deleted(c.oid)
             END AS writes,
             -- These change pages and estimates of tables, but no rows.
             CASE c.relkind
               WHEN 'S' THEN 0
               ELSE pg_stat_get_vacuum_count(c.oid) + pg_stat_get_autovacuum_count(c.oid)
                  + pg_stat_get_analyze_count(c.oid) + pg_stat_get_autoanalyze_count(c.oid)
             END AS upkeep
        FROM pg_class c
       WHERE c.relkind IN ('r', 'm', 't', 'p', 'S') AND NOT c.relisshared
      OFFSET 0) s
 WHERE s.writes <> 0 OR s.upkeep <> 0
