-- FOR TABLES IN SCHEMA; the catalog exists from 15 on.
SELECT o.heading, 1 AS rank, 0::int8 AS number, 'tables in schema ' || quote_ident(p.pnnspid::regnamespace::text) AS line
FROM pg_publication_namespace p
JOIN other o ON o.classid = 'pg_publication'::regclass AND o.oid = p.pnpubid
