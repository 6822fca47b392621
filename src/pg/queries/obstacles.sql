SELECT o.database, o.what, o.fix FROM (
      SELECT s.database::text AS database, s.datoid AS oid,
        format('replication slot `%s` is in use by pid %s', s.slot_name, s.active_pid) AS what,
        format('SELECT pg_terminate_backend(%s);', s.active_pid) AS fix
      FROM pg_replication_slots s WHERE s.active AND s.datoid IS NOT NULL
    UNION ALL
      SELECT d.datname::text, d.oid, format('it contains subscription `%s`', s.subname),
        format('in that database: ALTER SUBSCRIPTION %1$I DISABLE; '
          'ALTER SUBSCRIPTION %1$I SET (slot_name = NONE); DROP SUBSCRIPTION %1$I;', s.subname)
      FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
    UNION ALL
      SELECT d.datname::text, d.oid, format('it contains prepared transaction `%s` of role `%s`', x.gid, x.owner),
        format('in that database: ROLLBACK PREPARED %L;', x.gid)
      FROM pg_prepared_xacts x JOIN pg_database d ON d.datname = x.database
    UNION ALL
      SELECT d.datname::text, d.oid, format('a session of role `%s` is connected to it (pid %s)', r.rolname, a.pid),
        format('as a superuser: SELECT pg_terminate_backend(%s);', a.pid)
      FROM pg_stat_get_activity(NULL) a JOIN pg_database d ON d.oid = a.datid JOIN pg_roles r ON r.oid = a.usesysid
      WHERE NOT pg_has_role(r.oid, 'USAGE')
        AND (r.rolsuper OR NOT pg_has_role('pg_signal_backend', 'USAGE'))
    ) o WHERE o.oid = ANY($1) ORDER BY 1, 2
