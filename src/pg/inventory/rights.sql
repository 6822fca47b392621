-- Owners, and privileges that differ from the default of an object of that kind: an explicit default and no
-- entry mean the same. For objects of initdb and extensions, only privileges that were changed since: the
-- initial ones are in pg_init_privs.
, object(heading, owner, acl, kind, attribute) AS (
    SELECT heading, relowner, relacl, CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", NULL::name
        FROM relation WHERE NOT of_extension AND relkind <> 'c'
    UNION ALL SELECT r.heading, NULL, a.attacl, 'c', a.attname
        FROM relation r JOIN pg_attribute a ON a.attrelid = r.oid
        WHERE NOT r.of_extension AND a.attacl IS NOT NULL AND NOT a.attisdropped
    UNION ALL SELECT heading, proowner, proacl, 'f', NULL FROM routine
    UNION ALL SELECT heading, typowner, typacl, 'T', NULL FROM typ
    UNION ALL SELECT heading, owner, acl, kind, NULL FROM other
), defaults(heading, owner, acl, standard) AS (
    SELECT concat_ws(' ', 'default privileges for role', quote_ident(pg_get_userbyid(d.defaclrole)),
            CASE WHEN d.defaclnamespace <> 0 THEN 'in schema ' || quote_ident(n.nspname) END,
            'on', CASE d.defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'functions'
                WHEN 'T' THEN 'types' WHEN 'n' THEN 'schemas' WHEN 'L' THEN 'large objects'
                ELSE d.defaclobjtype::text END),
        d.defaclrole, d.defaclacl,
        -- The privileges of a schema are added to the global ones, so they start empty.
        CASE WHEN d.defaclnamespace = 0
            THEN acldefault(CASE d.defaclobjtype WHEN 'S' THEN 's' ELSE d.defaclobjtype END, d.defaclrole) END
    FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace
), made(classid, oid, owner, acl, initial, kind, attribute) AS (
    -- pg_dump omits information_schema; the server does not record its initial privileges.
    SELECT 'pg_class'::regclass::oid, c.oid, c.relowner, c.relacl, p.initprivs,
            CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", NULL::name
        FROM pg_class c
        LEFT JOIN pg_init_privs p ON p.classoid = 'pg_class'::regclass AND p.objoid = c.oid AND p.objsubid = 0
        WHERE c.relacl IS DISTINCT FROM p.initprivs AND c.relnamespace <> 'information_schema'::regnamespace
    UNION ALL SELECT 'pg_class'::regclass, c.oid, c.relowner, a.attacl, p.initprivs, 'c', a.attname
        FROM pg_attribute a
        JOIN pg_class c ON c.oid = a.attrelid
        LEFT JOIN pg_init_privs p ON p.classoid = 'pg_class'::regclass AND p.objoid = c.oid AND p.objsubid = a.attnum
        WHERE a.attacl IS DISTINCT FROM p.initprivs AND c.relnamespace <> 'information_schema'::regnamespace
            AND NOT a.attisdropped
    UNION ALL SELECT 'pg_proc'::regclass, c.oid, c.proowner, c.proacl, p.initprivs, 'f', NULL
        FROM pg_proc c
        LEFT JOIN pg_init_privs p ON p.classoid = 'pg_proc'::regclass AND p.objoid = c.oid
        WHERE c.proacl IS DISTINCT FROM p.initprivs AND c.pronamespace <> 'information_schema'::regnamespace
    UNION ALL SELECT 'pg_type'::regclass, c.oid, c.typowner, c.typacl, p.initprivs, 'T', NULL
        FROM pg_type c
        LEFT JOIN pg_init_privs p ON p.classoid = 'pg_type'::regclass AND p.objoid = c.oid
        WHERE c.typacl IS DISTINCT FROM p.initprivs AND c.typnamespace <> 'information_schema'::regnamespace
    UNION ALL SELECT 'pg_namespace'::regclass, c.oid, c.nspowner, c.nspacl, p.initprivs, 'n', NULL
        FROM pg_namespace c
        LEFT JOIN pg_init_privs p ON p.classoid = 'pg_namespace'::regclass AND p.objoid = c.oid
        WHERE c.nspacl IS DISTINCT FROM p.initprivs AND c.nspname NOT IN ('information_schema', 'public')
    UNION ALL SELECT 'pg_language'::regclass, c.oid, c.lanowner, c.lanacl, p.initprivs, 'l', NULL
        FROM pg_language c
        LEFT JOIN pg_init_privs p ON p.classoid = 'pg_language'::regclass AND p.objoid = c.oid
        WHERE c.lanacl IS DISTINCT FROM p.initprivs
    UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, c.oid, c.fdwowner, c.fdwacl, p.initprivs, 'F', NULL
        FROM pg_foreign_data_wrapper c
        LEFT JOIN pg_init_privs p ON p.classoid = 'pg_foreign_data_wrapper'::regclass AND p.objoid = c.oid
        WHERE c.fdwacl IS DISTINCT FROM p.initprivs
    UNION ALL SELECT 'pg_foreign_server'::regclass, c.oid, c.srvowner, c.srvacl, p.initprivs, 'S', NULL
        FROM pg_foreign_server c
        LEFT JOIN pg_init_privs p ON p.classoid = 'pg_foreign_server'::regclass AND p.objoid = c.oid
        WHERE c.srvacl IS DISTINCT FROM p.initprivs
), rights(heading, owner, attribute, acl, standard) AS (
    SELECT heading, owner, attribute, acl, acldefault(kind, coalesce(owner, 10)) FROM object WHERE acl IS NOT NULL
    UNION ALL SELECT heading, owner, NULL, acl, standard FROM defaults
    UNION ALL SELECT i.type || ' ' || CASE m.classid WHEN 'pg_proc'::regclass THEN m.oid::regprocedure::text ELSE i.identity END,
        m.owner, m.attribute, coalesce(m.acl, acldefault(m.kind, m.owner)), coalesce(m.initial, acldefault(m.kind, m.owner))
    FROM made m
    CROSS JOIN LATERAL pg_identify_object(m.classid, m.oid, 0) i
    WHERE m.oid < 16384 OR (m.classid, m.oid) IN (SELECT classid, objid FROM member)
)
SELECT heading, 6 AS rank, 0::int8 AS number, 'owner ' || quote_ident(pg_get_userbyid(owner)) AS line
FROM object WHERE owner IS NOT NULL

UNION ALL
SELECT r.heading, 8, 0, concat_ws(' ', g.word, g.privilege_type, '(' || quote_ident(r.attribute) || ')', g.preposition,
    CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END,
    CASE WHEN g.is_grantable THEN 'with grant option' END,
    CASE WHEN g.grantor <> r.owner THEN 'granted by ' || quote_ident(pg_get_userbyid(g.grantor)) END)
FROM rights r
CROSS JOIN LATERAL (
    (SELECT 'grant' AS word, 'to' AS preposition, x.* FROM aclexplode(r.acl) x
     EXCEPT SELECT 'grant', 'to', x.* FROM aclexplode(r.standard) x)
    UNION ALL
    (SELECT 'revoke', 'from', x.* FROM aclexplode(r.standard) x
     EXCEPT SELECT 'revoke', 'from', x.* FROM aclexplode(r.acl) x)
) g
