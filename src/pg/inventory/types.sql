-- Enums with their labels in order, domains, ranges, base types. Columns of composite types are in
-- columns.sql.
SELECT t.heading, 1 AS rank, row_number() OVER (PARTITION BY e.enumtypid ORDER BY e.enumsortorder) AS number,
    format('label %s %L', row_number() OVER (PARTITION BY e.enumtypid ORDER BY e.enumsortorder), e.enumlabel) AS line
FROM typ t JOIN pg_enum e ON e.enumtypid = t.oid

UNION ALL
SELECT t.heading, 0, 0, concat_ws(' ', 'domain over', format_type(d.typbasetype, d.typtypmod),
    CASE WHEN d.typcollation <> b.typcollation THEN 'collate ' || d.typcollation::regcollation END,
    'default ' || coalesce(pg_get_expr(d.typdefaultbin, 0), d.typdefault),
    CASE WHEN nn.conname <> d.typname || '_not_null' THEN 'constraint ' || quote_ident(nn.conname) END,
    CASE WHEN d.typnotnull THEN 'not null' END)
FROM typ t
JOIN pg_type d ON d.oid = t.oid
JOIN pg_type b ON b.oid = d.typbasetype
-- From 17 on NOT NULL is a constraint with a name, by default derived from the domain's.
LEFT JOIN pg_constraint nn ON nn.contypid = t.oid AND nn.contype = 'n'
WHERE t.typtype = 'd'

UNION ALL
SELECT t.heading, 2, 0, format('constraint %I %s', k.conname, pg_get_constraintdef(k.oid))
FROM typ t JOIN pg_constraint k ON k.contypid = t.oid WHERE k.contype <> 'n'

UNION ALL
SELECT t.heading, 0, 0, concat_ws(' ', 'range of', format_type(g.rngsubtype, NULL),
    'operator class', (pg_identify_object('pg_opclass'::regclass, g.rngsubopc, 0)).identity,
    CASE WHEN g.rngcollation <> 0 THEN 'collate ' || g.rngcollation::regcollation END,
    CASE WHEN g.rngcanonical <> 0 THEN 'canonical ' || g.rngcanonical END,
    CASE WHEN g.rngsubdiff <> 0 THEN 'subtype_diff ' || g.rngsubdiff END,
    CASE WHEN g.rngmultitypid <> 0 THEN 'multirange ' || format_type(g.rngmultitypid, NULL) END)
FROM (SELECT 0::oid AS rngmultitypid) missing
CROSS JOIN LATERAL (
    SELECT rngtypid, rngsubtype, rngsubopc, rngcollation, rngcanonical, rngsubdiff, rngmultitypid FROM pg_range
) g
JOIN typ t ON t.oid = g.rngtypid

UNION ALL
SELECT t.heading, 0, 0, CASE WHEN NOT b.typisdefined THEN 'shell type' ELSE concat_ws(' ',
    'base type input', b.typinput, 'output', b.typoutput, 'receive', b.typreceive, 'send', b.typsend,
    'typmod_in', b.typmodin, 'typmod_out', b.typmodout, 'analyze', b.typanalyze, 'subscript', b.typsubscript,
    'length', b.typlen, CASE WHEN b.typbyval THEN 'by value' END, 'alignment', b.typalign,
    'storage', b.typstorage, 'category', b.typcategory, CASE WHEN b.typispreferred THEN 'preferred' END,
    'delimiter', b.typdelim, 'default ' || b.typdefault,
    CASE WHEN b.typelem <> 0 THEN 'element ' || format_type(b.typelem, NULL) END,
    CASE WHEN b.typcollation <> 0 THEN 'collatable' END) END
FROM (SELECT 0::regproc AS typsubscript) missing
CROSS JOIN LATERAL (
    SELECT oid, typisdefined, typinput, typoutput, typreceive, typsend, typmodin, typmodout, typanalyze,
        typsubscript, typlen, typbyval, typalign, typstorage, typcategory, typispreferred, typdelim,
        typdefault, typelem, typcollation
    FROM pg_type
) b
JOIN typ t ON t.oid = b.oid
WHERE t.typtype IN ('b', 'p')

UNION ALL
SELECT t.heading, 0, 0, 'composite type' FROM typ t WHERE t.typtype = 'c'

UNION ALL
SELECT t.heading, 0, 0, 'enum' FROM typ t WHERE t.typtype = 'e'
