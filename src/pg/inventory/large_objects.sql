-- All large objects together: the server chooses their numbers, which differ in each build.
, large AS MATERIALIZED (
    SELECT oid, lomowner AS owner, lomacl AS acl FROM pg_largeobject_metadata
)
SELECT 'large objects' AS heading, 10 AS rank, 0::int8 AS number, 'number ' || count(*) AS line FROM large HAVING count(*) > 0

UNION ALL
-- The count of the most frequent owner follows from the counts of the others.
SELECT 'large objects', 7, 0, format('owned by %I', o.name)
    || CASE WHEN row_number() OVER (ORDER BY o.count DESC, o.name) > 1 THEN ' of ' || o.count ELSE '' END
FROM (SELECT pg_get_userbyid(owner) AS name, count(*) FROM large GROUP BY 1) o

UNION ALL
SELECT 'large objects', 8, 0, concat_ws(' ', g.word, g.privilege_type, g.preposition,
    CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END,
    CASE WHEN g.is_grantable THEN 'with grant option' END,
    CASE WHEN g.grantor <> l.owner THEN 'granted by ' || quote_ident(pg_get_userbyid(g.grantor)) END, 'of', count(*))
FROM large l
CROSS JOIN LATERAL (
    (SELECT 'grant' AS word, 'to' AS preposition, x.* FROM aclexplode(l.acl) x
     EXCEPT SELECT 'grant', 'to', x.* FROM aclexplode(acldefault('L', l.owner)) x)
    UNION ALL
    (SELECT 'revoke', 'from', x.* FROM aclexplode(acldefault('L', l.owner)) x
     EXCEPT SELECT 'revoke', 'from', x.* FROM aclexplode(l.acl) x)
) g
WHERE l.acl IS NOT NULL
GROUP BY g.word, g.privilege_type, g.preposition, g.grantee, g.is_grantable, g.grantor, l.owner

UNION ALL
SELECT 'large objects', 9, 0, format('%s %L of %s', d.word, d.text, count(*))
FROM (
    SELECT objoid, 'comment' AS word, description AS text FROM pg_description WHERE classoid = 'pg_largeobject'::regclass
    UNION ALL SELECT objoid, 'security label of ' || quote_ident(provider), label FROM pg_seclabel
        WHERE classoid = 'pg_largeobject'::regclass
) d
JOIN large l ON l.oid = d.objoid
GROUP BY d.word, d.text
