-- Casts, operators, operator classes and families, access methods, transforms, languages,
-- conversions, collations.
SELECT o.heading, 0 AS rank, 0::int8 AS number, concat_ws(' ',
    CASE c.castmethod WHEN 'f' THEN 'with function ' || c.castfunc::regprocedure
        WHEN 'i' THEN 'with inout' ELSE 'without function' END,
    CASE c.castcontext WHEN 'i' THEN 'as implicit' WHEN 'a' THEN 'as assignment' END) AS line
FROM other o JOIN pg_cast c ON c.oid = o.oid WHERE o.classid = 'pg_cast'::regclass

UNION ALL
SELECT o.heading, 0, 0, concat_ws(' ', 'function', p.oprcode, 'returns', format_type(p.oprresult, NULL),
    CASE WHEN p.oprcom <> 0 THEN 'commutator ' || p.oprcom::regoperator END,
    CASE WHEN p.oprnegate <> 0 THEN 'negator ' || p.oprnegate::regoperator END,
    CASE WHEN p.oprrest <> 0 THEN 'restrict ' || p.oprrest END,
    CASE WHEN p.oprjoin <> 0 THEN 'join ' || p.oprjoin END,
    CASE WHEN p.oprcanhash THEN 'hashes' END, CASE WHEN p.oprcanmerge THEN 'merges' END)
FROM other o JOIN pg_operator p ON p.oid = o.oid WHERE o.classid = 'pg_operator'::regclass

UNION ALL
SELECT o.heading, 0, 0, concat_ws(' ', CASE WHEN c.opcdefault THEN 'default' END,
    'for type', format_type(c.opcintype, NULL),
    'family', (pg_identify_object('pg_opfamily'::regclass, c.opcfamily, 0)).identity,
    CASE WHEN c.opckeytype <> 0 THEN 'storage ' || format_type(c.opckeytype, NULL) END)
FROM other o JOIN pg_opclass c ON c.oid = o.oid WHERE o.classid = 'pg_opclass'::regclass

UNION ALL
-- Also members that were added to families of initdb.
SELECT 'operator family ' || i.identity, 1, 0, concat_ws(' ', l.line,
    (SELECT 'of class ' || (pg_identify_object(d.refclassid, d.refobjid, 0)).identity FROM pg_depend d
        WHERE d.classid = l.classid AND d.objid = l.oid AND d.refclassid = 'pg_opclass'::regclass))
FROM (
    SELECT amopfamily AS family, format('operator %s %s %s', amopstrategy, amopopr::regoperator,
        CASE amoppurpose WHEN 's' THEN 'for search' ELSE 'for order by '
            || (pg_identify_object('pg_opfamily'::regclass, amopsortfamily, 0)).identity END) AS line,
        'pg_amop'::regclass AS classid, oid
    FROM pg_amop WHERE oid >= 16384
    UNION ALL
    SELECT amprocfamily, format('function %s (%s, %s) %s', amprocnum,
        format_type(amproclefttype, NULL), format_type(amprocrighttype, NULL), amproc::regprocedure),
        'pg_amproc'::regclass, oid
    FROM pg_amproc WHERE oid >= 16384
) l
CROSS JOIN LATERAL pg_identify_object('pg_opfamily'::regclass, l.family, 0) i
WHERE l.family NOT IN (SELECT objid FROM member WHERE classid = 'pg_opfamily'::regclass)

UNION ALL
SELECT o.heading, 0, 0, format('%s handler %s', CASE a.amtype WHEN 't' THEN 'table' ELSE 'index' END, a.amhandler)
FROM other o JOIN pg_am a ON a.oid = o.oid WHERE o.classid = 'pg_am'::regclass

UNION ALL
SELECT o.heading, 0, 0, format('from sql with %s to sql with %s', t.trffromsql::regprocedure, t.trftosql::regprocedure)
FROM other o JOIN pg_transform t ON t.oid = o.oid WHERE o.classid = 'pg_transform'::regclass

UNION ALL
SELECT o.heading, 0, 0, concat_ws(' ', CASE WHEN l.lanpltrusted THEN 'trusted' END,
    'handler', l.lanplcallfoid::regproc, 'inline', l.laninline::regproc, 'validator', l.lanvalidator::regproc)
FROM other o JOIN pg_language l ON l.oid = o.oid WHERE o.classid = 'pg_language'::regclass

UNION ALL
SELECT o.heading, 0, 0, concat_ws(' ', CASE WHEN c.condefault THEN 'default' END,
    'for', pg_encoding_to_char(c.conforencoding), 'to', pg_encoding_to_char(c.contoencoding), 'from', c.conproc)
FROM other o JOIN pg_conversion c ON c.oid = o.oid WHERE o.classid = 'pg_conversion'::regclass

UNION ALL
-- The names of the columns differ by version. collversion is set by the server.
SELECT o.heading, 0, 0, concat_ws(' ', 'provider', j ->> 'collprovider',
    'locale ' || quote_literal(coalesce(j ->> 'colllocale', j ->> 'colliculocale')),
    'lc_collate ' || quote_literal(j ->> 'collcollate'), 'lc_ctype ' || quote_literal(j ->> 'collctype'),
    'rules ' || quote_literal(j ->> 'collicurules'),
    CASE WHEN NOT c.collisdeterministic THEN 'nondeterministic' END)
FROM other o
JOIN pg_collation c ON c.oid = o.oid
CROSS JOIN LATERAL to_jsonb(c) j
WHERE o.classid = 'pg_collation'::regclass
