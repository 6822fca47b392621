-- The contents of large objects, as far as the role may read them, in pieces of one megabyte.
WITH large AS MATERIALIZED (
    SELECT m.oid,
        pg_has_role(m.lomowner, 'USAGE') OR EXISTS (SELECT FROM aclexplode(m.lomacl) x
            WHERE x.privilege_type = 'SELECT' AND CASE x.grantee WHEN 0 THEN true ELSE pg_has_role(x.grantee, 'USAGE') END) AS readable
    FROM pg_largeobject_metadata m
), sized AS MATERIALIZED (
    -- 262144 is INV_READ, 2 is SEEK_END.
    SELECT oid, lo_lseek64(lo_open(oid, 262144), 0, 2) AS size FROM large WHERE readable
), digested AS (
    SELECT s.size, (SELECT coalesce(sum(hashtextextended(encode(sha256(lo_get(s.oid, p.at, 1048576)), 'hex'), p.at)), 0)
        FROM generate_series(0, s.size - 1, 1048576) p(at)) AS digest
    FROM sized s
)
SELECT 'large objects' AS heading, 13 AS rank, 0::int8 AS number,
    format('contents of %s bytes, digest %s: %s', size, substr(md5(digest::text), 1, 8), count(*)) AS line
FROM digested GROUP BY size, digest

UNION ALL
SELECT 'large objects', 16, 0, format('contents unknown, permission denied: %s', count(*)) FROM large WHERE NOT readable HAVING count(*) > 0
