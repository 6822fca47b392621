SELECT 1 / CASE WHEN (pg_get_userbyid(d.datdba) = session_user
      OR NOT pg_has_role(session_user, 'pg_execute_server_program', 'MEMBER')
      AND pg_has_role(session_user, d.datdba, $1))
    AND pg_has_role($2::name, d.datdba, 'MEMBER')
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_namespace n
      WHERE n.nspname = 'pgstencil' AND n.nspowner <> d.datdba)
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c
      WHERE c.relnamespace = (SELECT n.oid FROM pg_catalog.pg_namespace n WHERE n.nspname = 'pgstencil')
      AND (c.relowner <> d.datdba OR c.relkind NOT IN ('r', 'i', 'S') OR c.relhasrules OR c.relrowsecurity))
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE NOT t.tgisinternal)
    THEN 1 ELSE 0 END AS trusted, $2 AS began_as,
    set_config('role', pg_get_userbyid(d.datdba)::text, false) AS role
    FROM pg_catalog.pg_database d WHERE d.datname = current_database()
