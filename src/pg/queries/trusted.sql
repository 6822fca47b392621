-- The written rows of this database, catalogs included, and whether the counters can be a proof.
SELECT pg_stat_get_db_tuples_inserted(d.oid) + pg_stat_get_db_tuples_updated(d.oid)
     + pg_stat_get_db_tuples_deleted(d.oid) AS writes,
       current_setting('track_counts')::boolean
   AND pg_stat_get_db_stat_reset_time(d.oid) IS NULL
   -- Other access methods need not count what they write; 2 is `heap`.
   AND NOT EXISTS (
      SELECT FROM pg_class c WHERE c.relkind IN ('r', 'm', 't') AND c.relam <> 2 AND NOT c.relisshared)
   -- A function of a superuser's may switch the counters off.
   AND NOT EXISTS (
      SELECT FROM pg_proc f
       WHERE f.oid >= 16384 AND (f.proconfig::text ILIKE '%track_counts%' OR f.prosrc ILIKE '%track_counts%'))
       AS trusted
  FROM pg_database d
 WHERE d.datname = current_database()
