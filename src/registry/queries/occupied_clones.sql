SELECT DISTINCT d.clone_id
  FROM pgstencil.database d
 WHERE d.clone_id IS NOT NULL AND d.oid IN (
    SELECT a.datid FROM pg_stat_get_activity(NULL) a
     WHERE a.datid IS NOT NULL AND a.pid <> pg_backend_pid() AND a.usesysid IS NOT NULL
    UNION ALL
    SELECT p.oid FROM pg_prepared_xacts x JOIN pg_database p ON p.datname = x.database)
