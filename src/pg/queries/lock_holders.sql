SELECT DISTINCT format(
      'pid %s (%s, role %s, database %s) is in a transaction that began %s s ago',
      a.pid, coalesce(nullif(a.application_name, ''), 'no application name'),
    a.usename, a.datname, extract(epoch FROM now() - a.xact_start)::bigint)
    FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
    WHERE l.granted AND a.pid <> pg_backend_pid() AND a.backend_type = 'client backend'
      AND (l.locktype = 'relation' AND l.mode <> 'AccessShareLock'
        AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
        AND l.relation IN (SELECT c.oid FROM pg_catalog.pg_class c
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'pgstencil')
      OR l.locktype = 'object' AND l.database = 0 AND l.classid = 'pg_catalog.pg_database'::regclass
      OR l.locktype = 'relation' AND l.database = 0 AND l.mode <> 'AccessShareLock')
    LIMIT 3
