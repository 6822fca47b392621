SELECT EXISTS (
          SELECT FROM pgstencil.clone c
           WHERE c.state = 'released' OR c.expires_at <= now() OR c.orphaned_at IS NOT NULL
              OR (c.state = 'creating' OR c.state = 'leased' AND (c.lease = 'session' OR NOT c.confirmed))
             AND NOT EXISTS (
                SELECT FROM pg_locks l
                 WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
                   AND l.classid = (c.lock_key >> 32 & 4294967295)::oid AND l.objid = (c.lock_key & 4294967295)::oid))
    OR EXISTS (
          SELECT FROM pgstencil.clone c
            LEFT JOIN pgstencil.template t ON t.id = c.template_id
            LEFT JOIN pgstencil.project p ON p.name = c.project
           WHERE c.state = 'warm'
             AND (t.id IS NULL OR t.state <> 'ready' OR t.last_used_at < now() - interval '10 minutes'
                  OR (SELECT count(*) FROM pgstencil.clone w WHERE w.template_id = c.template_id AND w.state = 'warm')
                     > coalesce((p.settings ->> 'warm_max')::bigint, 0)))
    OR EXISTS (SELECT FROM pgstencil.template WHERE state <> 'ready')
