-- Text search configurations, dictionaries, parsers, templates.
SELECT o.heading, 0 AS rank, 0::int8 AS number,
    'parser ' || (pg_identify_object('pg_ts_parser'::regclass, c.cfgparser, 0)).identity AS line
FROM other o JOIN pg_ts_config c ON c.oid = o.oid WHERE o.classid = 'pg_ts_config'::regclass

UNION ALL
SELECT o.heading, 1, 0, format('mapping for %s with %s', t.alias,
    string_agg(m.mapdict::regdictionary::text, ', ' ORDER BY m.mapseqno))
FROM other o
JOIN pg_ts_config c ON c.oid = o.oid
JOIN pg_ts_config_map m ON m.mapcfg = c.oid
CROSS JOIN LATERAL (SELECT alias FROM ts_token_type(c.cfgparser) WHERE tokid = m.maptokentype) t
WHERE o.classid = 'pg_ts_config'::regclass
GROUP BY o.heading, t.alias

UNION ALL
SELECT o.heading, 0, 0, concat_ws(' ', 'template', (pg_identify_object('pg_ts_template'::regclass, d.dicttemplate, 0)).identity,
    '(' || d.dictinitoption || ')')
FROM other o JOIN pg_ts_dict d ON d.oid = o.oid WHERE o.classid = 'pg_ts_dict'::regclass

UNION ALL
SELECT o.heading, 0, 0, format('start %s gettoken %s end %s headline %s lextypes %s',
    p.prsstart, p.prstoken, p.prsend, p.prsheadline, p.prslextype)
FROM other o JOIN pg_ts_parser p ON p.oid = o.oid WHERE o.classid = 'pg_ts_parser'::regclass

UNION ALL
SELECT o.heading, 0, 0, format('init %s lexize %s', t.tmplinit, t.tmpllexize)
FROM other o JOIN pg_ts_template t ON t.oid = o.oid WHERE o.classid = 'pg_ts_template'::regclass
