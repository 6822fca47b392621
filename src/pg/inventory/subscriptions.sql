-- The properties of subscriptions that only superusers may read. The columns differ by version.
SELECT 'subscription ' || quote_ident(s.subname) AS heading, 1 AS rank, 0::int8 AS number, l.line
FROM pg_subscription s
CROSS JOIN LATERAL to_jsonb(s) j
CROSS JOIN LATERAL (
    SELECT format('connection hidden (digest %s)',
        substr(encode(sha256(convert_to(current_setting('pgstencil.veil') || s.subconninfo, 'UTF8')), 'hex'), 1, 8)) AS line
    UNION ALL SELECT format('%s %s', substr(o.key, 4), o.value) FROM jsonb_each_text(j) o
    -- A skipped position belongs to this server.
    WHERE o.key NOT IN ('oid', 'subdbid', 'subname', 'subowner', 'subenabled', 'subconninfo', 'subpublications', 'subskiplsn')
        AND o.value IS NOT NULL
) l
WHERE s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
