-- The views of the system would take more time to plan than all of this takes.
SELECT d.datname::text AS database, o.what, o.fix FROM (
      SELECT s.datoid AS oid, format('replication slot `%s` is in use by pid %s', s.slot_name, s.active_pid) AS what,
        format('SELECT pg_terminate_backend(%s);', s.active_pid) AS fix
      FROM pg_get_replication_slots() s WHERE s.active AND s.datoid = ANY($1)
    UNION ALL
      SELECT s.subdbid, format('it contains subscription `%s`', s.subname),
        format('in that database: ALTER SUBSCRIPTION %1$I DISABLE; '
          'ALTER SUBSCRIPTION %1$I SET (slot_name = NONE); DROP SUBSCRIPTION %1$I;', s.subname)
      FROM pg_subscription s WHERE s.subdbid = ANY($1)
    UNION ALL
      SELECT x.dbid, format('it contains prepared transaction `%s` of role `%s`', x.gid, pg_get_userbyid(x.ownerid)),
        format('in that database: ROLLBACK PREPARED %L;', x.gid)
      FROM pg_prepared_xact() x WHERE x.dbid = ANY($1)
    UNION ALL
      SELECT a.datid, format('a session of role `%s` is connected to it (pid %s)', r.rolname, a.pid),
        format('as a superuser: SELECT pg_terminate_backend(%s);', a.pid)
      FROM pg_stat_get_activity(NULL) a JOIN pg_roles r ON r.oid = a.usesysid
      WHERE a.datid = ANY($1) AND NOT pg_has_role(r.oid, 'USAGE')
        AND (r.rolsuper OR NOT pg_has_role('pg_signal_backend', 'USAGE'))
    ) o JOIN pg_database d ON d.oid = o.oid ORDER BY 1, 2
