SELECT least(s.usable, s.of_role) AS usable,
        least(s.usable - s.used, s.of_role - s.by_role) AS free
    FROM (SELECT current_setting('max_connections')::int8 - CASE WHEN r.rolsuper THEN 0 ELSE
            current_setting('superuser_reserved_connections')::int8
            + coalesce(current_setting('reserved_connections', true)::int8, 0) END AS usable,
        CASE WHEN r.rolconnlimit < 0 OR r.rolsuper THEN 1000000 ELSE r.rolconnlimit::int8 END AS of_role,
        (SELECT count(*) FROM pg_stat_get_activity(NULL) a WHERE a.usesysid IS NOT NULL) AS used,
        (SELECT count(*) FROM pg_stat_get_activity(NULL) a WHERE a.usesysid = r.oid) AS by_role
      FROM pg_roles r WHERE r.rolname = session_user) s
