-- The objects of tables: constraints, indexes, triggers, rules, policies, and settings of row security.
, marked AS MATERIALIZED (
    -- Indexes with options that the server wrote, to the index or to its columns. Unlike those of a table's
    -- columns, the options of an index's columns are the parameters of operator classes, which a person sets.
    -- Definitions show all options, so those of the server are removed from the text (`(pg_a='1', b='2')`, ` WITH (pg_a='1')`).
    SELECT c.oid, format($$( WITH)? \(%1$s(, %1$s)*\)|, %1$s|(?<=\()(%1$s, )+$$, $$pg_\w+=('([^']|'')*'|\w+)$$) AS cut
    FROM pg_class c
    WHERE c.oid >= 16384 AND c.relkind IN ('i', 'I') AND EXISTS (
        SELECT FROM unnest(c.reloptions) o WHERE o LIKE 'pg\_%'
        UNION ALL SELECT FROM pg_attribute a CROSS JOIN LATERAL unnest(a.attoptions) o
            WHERE a.attrelid = c.oid AND o LIKE 'pg\_%')
)
SELECT r.heading, 2 AS rank, 0::int8 AS number,
    format('constraint %I %s', k.conname,
            CASE WHEN m.cut IS NULL THEN d.text ELSE regexp_replace(d.text, m.cut, '', 'g') END)
        || CASE WHEN k.conislocal THEN '' ELSE ' inherited' END AS line
FROM relation r
JOIN pg_constraint k ON k.conrelid = r.oid
LEFT JOIN marked m ON m.oid = k.conindid
CROSS JOIN LATERAL (SELECT pg_get_constraintdef(k.oid) AS text) d
-- NOT NULL is listed with the column, a constraint trigger as a trigger; the parts of a foreign key to a
-- partitioned table that exist for each partition follow from the key.
LEFT JOIN pg_constraint parent ON parent.oid = k.conparentid AND parent.conrelid = k.conrelid
WHERE k.contype NOT IN ('n', 't') AND parent.oid IS NULL

UNION ALL
SELECT r.heading, 3, 0, x.line
FROM relation r
JOIN pg_index i ON i.indrelid = r.oid
JOIN pg_class c ON c.oid = i.indexrelid
LEFT JOIN pg_tablespace ts ON ts.oid = c.reltablespace
LEFT JOIN pg_inherits h ON h.inhrelid = c.oid
LEFT JOIN pg_constraint k ON k.conindid = c.oid AND k.conrelid = r.oid AND k.contype IN ('p', 'u', 'x')
LEFT JOIN marked m ON m.oid = c.oid
CROSS JOIN LATERAL (SELECT pg_get_indexdef(c.oid) AS text) d
CROSS JOIN LATERAL (SELECT concat_ws(' ',
    CASE WHEN NOT i.indisvalid THEN 'invalid' END,
    CASE WHEN i.indisclustered THEN 'clustered' END,
    'tablespace ' || quote_ident(ts.spcname),
    'partition of ' || h.inhparent::regclass,
    (SELECT string_agg(format('statistics of %s: %s', a.attnum, a.attstattarget), ' ' ORDER BY a.attnum)
        FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attstattarget >= 0),
    CASE WHEN k.oid IS NOT NULL THEN
        (SELECT format('with (%s)', string_agg(o, ', ' ORDER BY o COLLATE "C")) FROM unnest(c.reloptions) o
            WHERE o NOT LIKE 'pg\_%' HAVING count(*) > 0) END) AS text) more
-- The index of a constraint is listed with the constraint, unless it has properties of its own.
CROSS JOIN LATERAL (SELECT CASE
    WHEN k.oid IS NULL THEN rtrim(format('index %I: %s %s', c.relname,
        CASE WHEN m.cut IS NULL THEN d.text ELSE regexp_replace(d.text, m.cut, '', 'g') END, more.text))
    WHEN more.text <> '' THEN format('index %I: %s', c.relname, more.text) END AS line) x
WHERE x.line IS NOT NULL

UNION ALL
SELECT r.heading, 4, 0, format('trigger %I: %s', t.tgname, pg_get_triggerdef(t.oid)) || CASE t.tgenabled
    WHEN 'D' THEN ' disabled' WHEN 'R' THEN ' enabled replica' WHEN 'A' THEN ' enabled always' ELSE '' END
FROM relation r JOIN pg_trigger t ON t.tgrelid = r.oid
-- Before 15 a partition's copy of its parent's trigger counts as internal.
WHERE NOT t.tgisinternal OR t.tgparentid <> 0 AND t.tgconstraint = 0

UNION ALL
-- DISABLE TRIGGER ALL disables foreign keys too. The names of their triggers contain oids.
SELECT DISTINCT r.heading, 4, 0::int8, format('triggers of constraint %I %s', k.conname, CASE t.tgenabled
    WHEN 'D' THEN 'disabled' WHEN 'R' THEN 'enabled replica' ELSE 'enabled always' END)
FROM relation r
JOIN pg_trigger t ON t.tgrelid = r.oid
JOIN pg_constraint k ON k.oid = t.tgconstraint
WHERE t.tgisinternal AND t.tgenabled <> 'O'

UNION ALL
SELECT r.heading, 5, 0, format('rule %I: %s', w.rulename, pg_get_ruledef(w.oid)) || CASE w.ev_enabled
    WHEN 'D' THEN ' disabled' WHEN 'R' THEN ' enabled replica' WHEN 'A' THEN ' enabled always' ELSE '' END
FROM relation r JOIN pg_rewrite w ON w.ev_class = r.oid WHERE w.rulename <> '_RETURN'

UNION ALL
SELECT r.heading, 5, 0, concat_ws(' ', format('policy %I:', p.polname),
    CASE WHEN p.polpermissive THEN 'permissive' ELSE 'restrictive' END,
    'for', CASE p.polcmd WHEN 'r' THEN 'select' WHEN 'a' THEN 'insert' WHEN 'w' THEN 'update'
        WHEN 'd' THEN 'delete' ELSE 'all' END,
    'to', (SELECT string_agg(CASE role WHEN 0 THEN 'public' ELSE quote_ident(pg_get_userbyid(role)) END, ', '
            ORDER BY pg_get_userbyid(role) COLLATE "C") FROM unnest(p.polroles) role),
    'using (' || pg_get_expr(p.polqual, p.polrelid) || ')',
    'with check (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')')
FROM relation r JOIN pg_policy p ON p.polrelid = r.oid
