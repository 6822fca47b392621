-- Whether the server has counted no change in this database since it was made. The caller is alone in it.
SELECT current_setting('track_counts')::boolean
   AND pg_stat_get_db_tuples_inserted(d.oid) = 0
   AND pg_stat_get_db_tuples_updated(d.oid) = 0
   AND pg_stat_get_db_tuples_deleted(d.oid) = 0
   AND pg_stat_get_db_stat_reset_time(d.oid) IS NULL
   AND NOT EXISTS (
      SELECT FROM pg_class c
       WHERE NOT c.relisshared
         -- A sequence is read from its page by nextval, and by each session that reads it.
         AND (c.relkind = 'S' AND pg_stat_get_blocks_fetched(c.oid) <> 0
           -- Other access methods need not count what they write; 2 is `heap`.
           OR c.relkind IN ('r', 'm', 't') AND (c.relam <> 2
             -- These change pages and estimates of tables, but no rows.
             OR pg_stat_get_vacuum_count(c.oid) + pg_stat_get_autovacuum_count(c.oid)
              + pg_stat_get_analyze_count(c.oid) + pg_stat_get_autoanalyze_count(c.oid) <> 0)))
   -- A function of a superuser's may switch the counters off.
   AND NOT EXISTS (
      SELECT FROM pg_proc f
       WHERE f.oid >= 16384 AND (f.proconfig::text ILIKE '%track_counts%' OR f.prosrc ILIKE '%track_counts%'))
  FROM pg_database d
 WHERE d.datname = current_database()
