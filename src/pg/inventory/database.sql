-- Extensions, foreign servers, publications and other objects without a schema.
SELECT o.heading, 0 AS rank, 0::int8 AS number, l.line
FROM other o
JOIN pg_extension e ON e.oid = o.oid
CROSS JOIN LATERAL (VALUES ('version ' || e.extversion), ('schema ' || quote_ident(e.extnamespace::regnamespace::text))) l(line)
WHERE o.classid = 'pg_extension'::regclass

UNION ALL
-- Without the extension's schema, or all members would differ if it differs.
SELECT o.heading, 1, 0, concat_ws(' ', 'member', i.type, replace(CASE m.classid WHEN 'pg_proc'::regclass THEN m.objid::regprocedure::text
    ELSE i.identity END, quote_ident(e.extnamespace::regnamespace::text) || '.', ''))
FROM other o
JOIN pg_extension e ON e.oid = o.oid
JOIN pg_depend m ON m.refclassid = 'pg_extension'::regclass AND m.refobjid = e.oid AND m.deptype = 'e'
CROSS JOIN LATERAL pg_identify_object(m.classid, m.objid, 0) i
-- Row types and arrays follow from their tables and types; some versions record them, too.
WHERE o.classid = 'pg_extension'::regclass AND i.identity IS NOT NULL AND NOT (m.classid = 'pg_type'::regclass
    AND m.objid IN (SELECT objid FROM pg_depend WHERE classid = 'pg_type'::regclass AND deptype = 'i'))

UNION ALL
SELECT o.heading, 0, 0, l.line
FROM other o
JOIN pg_foreign_data_wrapper f ON f.oid = o.oid
CROSS JOIN LATERAL (
    SELECT format('handler %s validator %s', f.fdwhandler::regproc, f.fdwvalidator::regproc) AS line
    UNION ALL SELECT format('option %I %L', p.option_name, p.option_value) FROM pg_options_to_table(f.fdwoptions) p
    WHERE p.option_name !~* 'pass|secret|token|key$'
    UNION ALL SELECT format('option %I hidden (digest %s)', p.option_name,
        substr(encode(sha256(convert_to(current_setting('pgstencil.veil') || p.option_value, 'UTF8')), 'hex'), 1, 8)) FROM pg_options_to_table(f.fdwoptions) p
    WHERE p.option_name ~* 'pass|secret|token|key$'
) l
WHERE o.classid = 'pg_foreign_data_wrapper'::regclass

UNION ALL
SELECT o.heading, 0, 0, l.line
FROM other o
JOIN pg_foreign_server f ON f.oid = o.oid
JOIN pg_foreign_data_wrapper w ON w.oid = f.srvfdw
CROSS JOIN LATERAL (
    SELECT concat_ws(' ', 'foreign data wrapper', quote_ident(w.fdwname), 'type ' || quote_literal(f.srvtype),
        'version ' || quote_literal(f.srvversion)) AS line
    UNION ALL SELECT format('option %I %L', p.option_name, p.option_value)
    FROM pg_options_to_table(f.srvoptions) p WHERE p.option_name !~* 'pass|secret|token|key$'
    UNION ALL SELECT format('option %I hidden (digest %s)', p.option_name,
        substr(encode(sha256(convert_to(current_setting('pgstencil.veil') || p.option_value, 'UTF8')), 'hex'), 1, 8))
    FROM pg_options_to_table(f.srvoptions) p WHERE p.option_name ~* 'pass|secret|token|key$'
) l
WHERE o.classid = 'pg_foreign_server'::regclass

UNION ALL
-- The values may be passwords, and not all roles see them.
SELECT 'server ' || quote_ident(u.srvname), 1, 0, concat_ws(' ', 'user mapping for',
    CASE u.umuser WHEN 0 THEN 'public' ELSE quote_ident(u.usename) END,
    (SELECT format('options (%s)', string_agg(format('%I hidden (digest %s)', p.option_name,
            substr(encode(sha256(convert_to(current_setting('pgstencil.veil') || p.option_value, 'UTF8')), 'hex'), 1, 8)), ', ' ORDER BY p.option_name COLLATE "C"))
        FROM pg_options_to_table(u.umoptions) p HAVING count(*) > 0))
FROM pg_user_mappings u

UNION ALL
SELECT o.heading, 0, 0, concat_ws(' ', 'publishes', CASE WHEN p.puballtables THEN 'all tables,' END,
    CASE WHEN p.pubinsert THEN 'insert' END, CASE WHEN p.pubupdate THEN 'update' END,
    CASE WHEN p.pubdelete THEN 'delete' END, CASE WHEN p.pubtruncate THEN 'truncate' END,
    CASE WHEN p.pubviaroot THEN 'via partition root' END,
    'generated columns ' || (to_jsonb(p) ->> 'pubgencols'))
FROM other o JOIN pg_publication p ON p.oid = o.oid WHERE o.classid = 'pg_publication'::regclass

UNION ALL
SELECT o.heading, 1, 0, concat_ws(' ', 'table', p.prrelid::regclass,
    (SELECT format('(%s)', string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum))
        FROM pg_attribute a WHERE a.attrelid = p.prrelid AND a.attnum = ANY(p.prattrs) HAVING count(*) > 0),
    'where ' || pg_get_expr(p.prqual, p.prrelid))
FROM (SELECT NULL::int2vector AS prattrs, NULL::pg_node_tree AS prqual) missing
CROSS JOIN LATERAL (SELECT prpubid, prrelid, prattrs, prqual FROM pg_publication_rel) p
JOIN other o ON o.classid = 'pg_publication'::regclass AND o.oid = p.prpubid

UNION ALL
SELECT 'subscription ' || quote_ident(s.subname), 0, 0, concat_ws(' ',
    CASE WHEN s.subenabled THEN 'enabled' ELSE 'disabled' END, 'to', s.subpublications,
    'owner', quote_ident(pg_get_userbyid(s.subowner)))
FROM pg_subscription s
WHERE s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())

UNION ALL
SELECT o.heading, 0, 0, concat_ws(' ', pg_get_statisticsobjdef(s.oid),
    CASE WHEN s.stxstattarget >= 0 THEN 'statistics ' || s.stxstattarget END)
FROM other o JOIN pg_statistic_ext s ON s.oid = o.oid WHERE o.classid = 'pg_statistic_ext'::regclass

UNION ALL
SELECT o.heading, 0, 0, concat_ws(' ', 'on', e.evtevent,
    (SELECT format('when tag in (%s)', string_agg(quote_literal(t), ', ' ORDER BY t COLLATE "C"))
        FROM unnest(e.evttags) t HAVING count(*) > 0),
    'execute', e.evtfoid::regproc,
    CASE e.evtenabled WHEN 'D' THEN 'disabled' WHEN 'R' THEN 'enabled replica' WHEN 'A' THEN 'enabled always' END)
FROM other o JOIN pg_event_trigger e ON e.oid = o.oid WHERE o.classid = 'pg_event_trigger'::regclass

UNION ALL
-- The names of the columns differ by version.
SELECT 'database', 0, 0, concat_ws(' ', 'encoding', pg_encoding_to_char(d.encoding), 'provider ' || (j ->> 'datlocprovider'),
    'locale ' || quote_literal(coalesce(j ->> 'datlocale', j ->> 'daticulocale')),
    'lc_collate', quote_literal(j ->> 'datcollate'), 'lc_ctype', quote_literal(j ->> 'datctype'),
    'rules ' || quote_literal(j ->> 'daticurules'))
FROM pg_database d CROSS JOIN LATERAL to_jsonb(d) j WHERE d.datname = current_database()

UNION ALL
SELECT 'database', 0, 0, 'tablespace ' || quote_ident(t.spcname)
FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace
WHERE d.datname = current_database() AND t.spcname <> 'pg_default'

UNION ALL
SELECT 'database', 12, 0, concat_ws(' ', 'setting', v.name,
    CASE WHEN v.name ~* 'pass|secret|token|key$' THEN 'hidden (digest '
        || substr(encode(sha256(convert_to(current_setting('pgstencil.veil') || v.value, 'UTF8')), 'hex'), 1, 8) || ')'
        ELSE '= ' || v.value END,
    CASE WHEN s.setrole <> 0 THEN 'for role ' || quote_ident(pg_get_userbyid(s.setrole)) END)
FROM pg_db_role_setting s
CROSS JOIN LATERAL unnest(s.setconfig) pair
-- The value may contain more equal signs.
CROSS JOIN LATERAL (SELECT split_part(pair, '=', 1) AS name, substr(pair, strpos(pair, '=') + 1) AS value) v
WHERE s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
