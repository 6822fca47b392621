-- Tables whose rows count: neither foreign tables, whose rows are elsewhere, nor partitioned tables, whose rows
-- are in their partitions.
SELECT r.heading, n.nspname::text AS schema, r.relname::text AS name,
    CASE WHEN NOT has_schema_privilege(n.oid, 'USAGE') OR NOT has_any_column_privilege(r.oid, 'SELECT')
            THEN 'permission denied'
        WHEN row_security_active(r.oid) THEN 'row level security hides them from this role' END AS refusal
FROM relation r
JOIN pg_class c ON c.oid = r.oid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE r.relkind = 'r' OR r.relkind = 'm' AND c.relispopulated
