WITH RECURSIVE login AS (SELECT r.oid, r.rolsuper FROM pg_catalog.pg_roles r
      WHERE r.rolname = session_user),
    member (oid) AS (SELECT l.oid FROM login l UNION SELECT m.roleid FROM member
      JOIN pg_catalog.pg_auth_members m ON m.member = member.oid $1),
    trusted (oid) AS (SELECT oid FROM member UNION SELECT r.oid FROM pg_catalog.pg_roles r, login l
      WHERE r.rolsuper AND l.rolsuper),
    things AS (SELECT c.oid, c.relowner, c.relkind, c.relhasrules, c.relrowsecurity,
        CASE c.relkind WHEN 'r' THEN 'table' WHEN 'i' THEN 'index' WHEN 'S' THEN 'sequence'
          WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table'
          WHEN 'p' THEN 'partitioned table' ELSE 'object' END || ' `pgstencil.' || c.relname || '`' AS name
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = 'pgstencil'),
    faults (place, what) AS (SELECT 1, NULL FROM pg_catalog.pg_database d
        WHERE d.datname = current_database()
        AND NOT (d.datdba IN (SELECT oid FROM trusted)
          AND pg_has_role($2::name, d.datdba, 'MEMBER'))
      UNION ALL SELECT 2, 'schema `pgstencil` belongs to role `' || pg_get_userbyid(n.nspowner) || '`'
        FROM pg_catalog.pg_namespace n WHERE n.nspname = 'pgstencil'
        AND n.nspowner NOT IN (SELECT oid FROM trusted)
      UNION ALL SELECT 3, name || ' belongs to role `' || pg_get_userbyid(relowner) || '`'
        FROM things WHERE relowner NOT IN (SELECT oid FROM trusted)
      UNION ALL SELECT 4, name || ' is not a table' FROM things WHERE relkind NOT IN ('r', 'i', 'S')
      UNION ALL SELECT 5, name || ' has rules' FROM things WHERE relkind = 'r' AND relhasrules
      UNION ALL SELECT 6, name || ' has row security' FROM things WHERE relrowsecurity
      UNION ALL SELECT 7, name || ' has trigger `' || t.tgname || '`' FROM things
        JOIN pg_catalog.pg_trigger t ON t.tgrelid = things.oid WHERE NOT t.tgisinternal)
