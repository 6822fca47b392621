-- The properties of tables, views and sequences, without their columns and dependent objects.
SELECT r.heading, 0 AS rank, 0::int8 AS number, l.line
FROM relation r
JOIN pg_class c ON c.oid = r.oid
LEFT JOIN pg_am am ON am.oid = c.relam
LEFT JOIN pg_tablespace ts ON ts.oid = c.reltablespace
LEFT JOIN pg_class toast ON toast.oid = c.reltoastrelid
LEFT JOIN pg_foreign_table ft ON ft.ftrelid = c.oid
LEFT JOIN pg_foreign_server fs ON fs.oid = ft.ftserver
LEFT JOIN pg_sequence q ON q.seqrelid = c.oid
CROSS JOIN LATERAL (VALUES
    (CASE WHEN c.relpersistence = 'u' THEN 'unlogged' END),
    (CASE WHEN c.relkind = 'p' THEN 'partition by ' || pg_get_partkeydef(c.oid) END),
    (CASE WHEN c.relispartition THEN (
        SELECT format('partition of %s %s', h.inhparent::regclass, pg_get_expr(c.relpartbound, c.oid))
        FROM pg_inherits h WHERE h.inhrelid = c.oid) END),
    (CASE WHEN NOT c.relispartition AND c.relkind IN ('r', 'f') THEN (
        SELECT 'inherits ' || string_agg(h.inhparent::regclass::text, ', ' ORDER BY h.inhseqno)
        FROM pg_inherits h WHERE h.inhrelid = c.oid) END),
    (CASE WHEN c.reloftype <> 0 THEN 'of type ' || format_type(c.reloftype, NULL) END),
    (CASE WHEN am.amname <> 'heap' THEN 'access method ' || quote_ident(am.amname) END),
    ('tablespace ' || quote_ident(ts.spcname)),
    -- Access methods have options of their own, so every name counts except those that the server reserves.
    ((SELECT format('with (%s)', string_agg(o, ', ' ORDER BY o COLLATE "C")) FROM unnest(c.reloptions) o
        WHERE o NOT LIKE 'pg\_%' HAVING count(*) > 0)),
    ((SELECT format('with (%s)', string_agg('toast.' || o, ', ' ORDER BY o COLLATE "C"))
        FROM unnest(toast.reloptions) o WHERE o NOT LIKE 'pg\_%' HAVING count(*) > 0)),
    (CASE WHEN c.relkind IN ('r', 'p', 'm') THEN CASE c.relreplident
        WHEN 'n' THEN 'replica identity nothing'
        WHEN 'f' THEN 'replica identity full'
        WHEN 'i' THEN (SELECT 'replica identity using index ' || x.indexrelid::regclass
                       FROM pg_index x WHERE x.indrelid = c.oid AND x.indisreplident) END END),
    (CASE WHEN c.relrowsecurity THEN 'row level security enabled' END),
    (CASE WHEN c.relforcerowsecurity THEN 'row level security forced' END),
    ('server ' || quote_ident(fs.srvname)),
    ((SELECT format('options (%s)', string_agg(format('%I %L', o.option_name, o.option_value),
            ', ' ORDER BY o.option_name COLLATE "C"))
        FROM pg_options_to_table(ft.ftoptions) o HAVING count(*) > 0)),
    (CASE WHEN NOT c.relispopulated THEN 'not populated' END),
    (CASE WHEN c.relkind IN ('v', 'm') THEN E'definition\n' || pg_get_viewdef(c.oid) END),
    (CASE WHEN c.relkind = 'S' THEN concat_ws(' ', 'as', format_type(q.seqtypid, NULL),
        'start', q.seqstart, 'increment', q.seqincrement, 'minvalue', q.seqmin, 'maxvalue', q.seqmax,
        'cache', q.seqcache, CASE WHEN q.seqcycle THEN 'cycle' END) END),
    (CASE WHEN c.relkind = 'S' THEN (
        SELECT CASE d.deptype WHEN 'i' THEN 'identity of ' ELSE 'owned by ' END
            || format('%s.%I', d.refobjid::regclass, a.attname)
        FROM pg_depend d
        JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
            AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')) END)
) l(line)
WHERE NOT r.of_extension AND r.relkind <> 'c' AND l.line IS NOT NULL
