-- Sequences, whose positions are read one by one.
SELECT r.heading, n.nspname::text AS schema, r.relname::text AS name,
    CASE WHEN NOT has_schema_privilege(n.oid, 'USAGE') OR NOT has_table_privilege(r.oid, 'SELECT')
        THEN 'permission denied' END AS refusal
FROM relation r
JOIN pg_class c ON c.oid = r.oid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE r.relkind = 'S'
