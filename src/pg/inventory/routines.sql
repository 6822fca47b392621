-- Functions, procedures, window functions; aggregates, for which the server has no definition.
SELECT r.heading, 0 AS rank, 0::int8 AS number, E'definition\n' || rtrim(pg_get_functiondef(r.oid), E'\n') AS line
FROM routine r WHERE r.prokind <> 'a'

UNION ALL
SELECT r.heading, 0, 0, l.line
FROM routine r
JOIN pg_aggregate a ON a.aggfnoid = r.oid
JOIN pg_proc p ON p.oid = r.oid
CROSS JOIN LATERAL (VALUES
    (format('arguments (%s) returns %s', pg_get_function_arguments(p.oid), format_type(p.prorettype, NULL))),
    (CASE a.aggkind WHEN 'o' THEN 'ordered-set' WHEN 'h' THEN 'hypothetical-set' END || ' ' || a.aggnumdirectargs),
    (format('sfunc %s stype %s sspace %s initcond %L', a.aggtransfn, format_type(a.aggtranstype, NULL),
        a.aggtransspace, a.agginitval)),
    (CASE WHEN a.aggfinalfn <> 0 THEN format('finalfunc %s extra %s modify %s',
        a.aggfinalfn, a.aggfinalextra, a.aggfinalmodify) END),
    (CASE WHEN a.aggcombinefn <> 0 THEN 'combinefunc ' || a.aggcombinefn END),
    (CASE WHEN a.aggserialfn <> 0 THEN format('serialfunc %s deserialfunc %s', a.aggserialfn, a.aggdeserialfn) END),
    (CASE WHEN a.aggmtransfn <> 0 THEN format('msfunc %s minvfunc %s mstype %s msspace %s minitcond %L',
        a.aggmtransfn, a.aggminvtransfn, format_type(a.aggmtranstype, NULL), a.aggmtransspace, a.aggminitval) END),
    (CASE WHEN a.aggmfinalfn <> 0 THEN format('mfinalfunc %s extra %s modify %s',
        a.aggmfinalfn, a.aggmfinalextra, a.aggmfinalmodify) END),
    (CASE WHEN a.aggsortop <> 0 THEN 'sortop ' || a.aggsortop::regoperator END),
    (CASE p.proparallel WHEN 's' THEN 'parallel safe' WHEN 'r' THEN 'parallel restricted' END)
) l(line)
WHERE l.line IS NOT NULL
