-- Owners, and rights as far as they differ from what an object of its kind has by default: an
-- explicit default and none at all mean the same.
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
        -- Those of a schema are added to the global ones, so they start from nothing.
        CASE WHEN d.defaclnamespace = 0
            THEN acldefault(CASE d.defaclobjtype WHEN 'S' THEN 's' ELSE d.defaclobjtype END, d.defaclrole) END
    FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace
), rights(heading, owner, attribute, acl, standard) AS (
    SELECT heading, owner, attribute, acl, acldefault(kind, coalesce(owner, 10)) FROM object WHERE acl IS NOT NULL
    UNION ALL SELECT heading, owner, NULL, acl, standard FROM defaults
)
SELECT heading, 7 AS rank, 0::int8 AS number, 'owner ' || quote_ident(pg_get_userbyid(owner)) AS line
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
