-- The columns of the tables whose rows count, by name, with the properties that their digests need.
SELECT r.heading, n.nspname::text AS schema, r.relname::text AS name, jsonb_agg(jsonb_build_object(
    'name', a.attname,
    -- Columns that may contain the time of the build: see `Kind`.
    'kind', CASE
        WHEN t.base = 'timestamptz'::regtype THEN 'timestamptz'
        WHEN t.base = 'timestamp'::regtype THEN 'timestamp'
        WHEN t.base = 'date'::regtype THEN 'date'
        WHEN t.base IN ('tstzrange'::regtype, 'tsrange'::regtype, 'daterange'::regtype) THEN 'range'
        WHEN t.base IN ('time'::regtype, 'timetz'::regtype)
            AND pg_get_expr(d.adbin, d.adrelid) ~* '\m(now|current_\w+|local\w+|\w+_timestamp)\M' THEN 'clock'
        -- The duration of a migration, as recorded by its tool.
        WHEN a.attname ~* '^(execution|elapsed)_?(time|ms)' AND t.category = 'N'
            OR r.relname ~* '^databasechangelog' AND a.attname ~* '^deployment_?id$' THEN 'server'
        WHEN t.base IN ('int4'::regtype, 'int8'::regtype, 'numeric'::regtype, 'float8'::regtype) THEN 'number'
        WHEN t.base IN ('json'::regtype, 'jsonb'::regtype, 'xml'::regtype) OR t.category = 'S' THEN 'text'
        WHEN t.base IN ('xid'::regtype, 'xid8'::regtype, 'cid'::regtype, 'tid'::regtype, 'pg_lsn'::regtype,
            'pg_snapshot'::regtype, 'txid_snapshot'::regtype) THEN 'server'
        ELSE 'other' END,
    'id', coalesce(t.base = 'oid'::regtype OR t.base IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype, 'uuid'::regtype)
            AND (a.attidentity <> '' OR a.attnum = ANY(k.keys)
                OR pg_get_expr(d.adbin, d.adrelid) ~* '^nextval\(|uuid'), false),
    'readable', has_column_privilege(r.oid, a.attnum, 'SELECT')) ORDER BY a.attname) AS columns,
    (SELECT jsonb_agg(jsonb_build_object(
            'columns', (SELECT jsonb_agg(x.attname ORDER BY u.n) FROM unnest(f.conkey) WITH ORDINALITY u(k, n)
                JOIN pg_attribute x ON x.attrelid = f.conrelid AND x.attnum = u.k),
            'table', i.type || ' ' || i.identity,
            'referred', (SELECT jsonb_agg(x.attname ORDER BY u.n) FROM unnest(f.confkey) WITH ORDINALITY u(k, n)
                JOIN pg_attribute x ON x.attrelid = f.confrelid AND x.attnum = u.k)) ORDER BY f.conname)
        FROM pg_constraint f
        CROSS JOIN LATERAL pg_identify_object('pg_class'::regclass, f.confrelid, 0) i
        WHERE f.conrelid = r.oid AND f.contype = 'f') AS refers
FROM relation r
JOIN pg_class c ON c.oid = r.oid
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type y ON y.oid = a.atttypid
CROSS JOIN LATERAL (SELECT CASE y.typtype WHEN 'd' THEN y.typbasetype ELSE y.oid END AS base, y.typcategory AS category) t
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
CROSS JOIN LATERAL (
    SELECT array_agg(key) AS keys FROM pg_constraint p CROSS JOIN LATERAL unnest(p.conkey) key
    WHERE p.conrelid = r.oid AND p.contype = 'p') k
WHERE r.relkind IN ('r', 'm', 'p')
GROUP BY r.oid, r.heading, n.nspname, r.relname
