-- Comments, security labels, and objects that are dropped with an extension (DEPENDS ON EXTENSION). The objects
-- of a table are listed with the table.
SELECT CASE WHEN i.type = 'composite type' THEN 'type' ELSE i.type END || ' '
        || CASE w.classid WHEN 'pg_proc'::regclass THEN w.objid::regprocedure::text ELSE i.identity END AS heading,
    9 AS rank, 0::int8 AS number,
    concat_ws(' ', d.word, CASE WHEN w.what IS NOT NULL THEN 'on ' || w.what || ' ' || quote_ident(w.name) END,
        quote_literal(d.text)) AS line
FROM (
    SELECT classoid, objoid, objsubid, 'comment' AS word, description AS text FROM pg_description
    UNION ALL SELECT classoid, objoid, objsubid, 'security label of ' || quote_ident(provider), label FROM pg_seclabel
    UNION ALL SELECT p.classid, p.objid, p.objsubid, 'dependence on extension ' || quote_ident(e.extname), NULL
        FROM pg_depend p JOIN pg_extension e ON p.refclassid = 'pg_extension'::regclass AND e.oid = p.refobjid
        WHERE p.deptype = 'x'
) d
LEFT JOIN pg_constraint k ON d.classoid = 'pg_constraint'::regclass AND k.oid = d.objoid
LEFT JOIN pg_index x ON d.classoid = 'pg_class'::regclass AND x.indexrelid = d.objoid
LEFT JOIN pg_class xc ON xc.oid = x.indexrelid
LEFT JOIN pg_trigger t ON d.classoid = 'pg_trigger'::regclass AND t.oid = d.objoid
LEFT JOIN pg_rewrite r ON d.classoid = 'pg_rewrite'::regclass AND r.oid = d.objoid
LEFT JOIN pg_policy p ON d.classoid = 'pg_policy'::regclass AND p.oid = d.objoid
LEFT JOIN pg_attribute a ON d.objsubid > 0 AND a.attrelid = d.objoid AND a.attnum = d.objsubid
CROSS JOIN LATERAL (SELECT
    CASE WHEN k.oid IS NOT NULL THEN 'constraint' WHEN x.indexrelid IS NOT NULL THEN 'index'
        WHEN t.oid IS NOT NULL THEN 'trigger' WHEN r.oid IS NOT NULL THEN 'rule'
        WHEN p.oid IS NOT NULL THEN 'policy' WHEN a.attnum IS NOT NULL THEN 'column' END AS what,
    coalesce(k.conname, xc.relname, t.tgname, r.rulename, p.polname, a.attname) AS name,
    CASE WHEN k.contypid <> 0 THEN 'pg_type'::regclass
        WHEN coalesce(k.oid, x.indexrelid, t.oid, r.oid, p.oid) IS NOT NULL THEN 'pg_class'::regclass
        ELSE d.classoid END::oid AS classid,
    coalesce(nullif(k.contypid, 0), k.conrelid, x.indrelid, t.tgrelid, r.ev_class, p.polrelid, d.objoid) AS objid
) w
CROSS JOIN LATERAL pg_identify_object(w.classid, w.objid, 0) i
WHERE (d.objoid >= 16384 OR d.classoid = 'pg_namespace'::regclass AND d.objoid IN (SELECT oid FROM pg_namespace WHERE nspname = 'public'))
    AND d.classoid <> 'pg_largeobject'::regclass
    AND coalesce(i.schema, '') !~ '^pg_(temp|toast)'
    AND (d.classoid, d.objoid) NOT IN (SELECT classid, objid FROM member)
