SELECT c.id, t.id AS template_id, coalesce(t.project, c.project) AS project, coalesce(t.state = 'ready', false) AS is_ready,
       coalesce(extract(epoch FROM now() - t.last_used_at), 0)::float8 AS idle_s,
       (SELECT coalesce(sum(d.bytes), 0) FROM pgstencil.database d WHERE d.template_id = t.id)::bigint AS bytes,
       (SELECT coalesce(sum(d.bytes), 0)
          FROM pgstencil.template o
          JOIN pgstencil.database d ON d.template_id = o.id
         WHERE o.project = coalesce(t.project, c.project) AND o.state = 'ready')::bigint AS of_templates,
       EXISTS (SELECT FROM pgstencil.template o
                WHERE o.project = t.project AND o.definition = t.definition
                  AND o.state = 'ready' AND o.last_used_at > t.last_used_at) AS superseded,
       (SELECT count(*) FROM pgstencil.clone u
         WHERE u.template_id = t.id AND u.state = 'leased' AND u.lease = 'session') AS in_use
  FROM pgstencil.clone c
  LEFT JOIN pgstencil.template t ON t.id = c.template_id
 WHERE c.state = 'warm' OR c.id = $1
 ORDER BY t.last_used_at DESC, c.id = $1, c.created_at, c.id
