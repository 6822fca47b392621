SELECT extract(epoch FROM now() - t.last_used_at)::float8 AS idle_s
  FROM pgstencil.template t
 WHERE t.project = $1 AND t.definition = $2 AND t.fingerprint = $3
   AND EXISTS (SELECT FROM pgstencil.clone c WHERE c.template_id = t.id AND c.state = 'warm')
