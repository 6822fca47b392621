SELECT t.id,
       (demand * exp(-greatest(least(extract(epoch FROM now() - demand_at), 3600), 0) / 60))::float8 AS demand,
       (uses * exp(-greatest(least(extract(epoch FROM now() - demand_at), 86400), 0) / 1800))::float8 AS uses,
       (SELECT count(*) FROM pgstencil.clone c WHERE c.template_id = t.id AND (c.state = 'warm'
            -- Nothing was written to it, as far as sessions have reported, so it will be warm again.
            OR c.state = 'released' AND EXISTS (
                 SELECT FROM pgstencil.counted n
                  WHERE n.clone_id = c.id AND NOT EXISTS (
                       SELECT FROM pgstencil.database w
                        WHERE w.clone_id = c.id
                          AND pg_stat_get_db_tuples_inserted(w.oid) + pg_stat_get_db_tuples_updated(w.oid)
                              + pg_stat_get_db_tuples_deleted(w.oid)
                              <> coalesce((n.baselines -> w.role ->> 'writes')::bigint, 0))))) AS warm,
       (SELECT coalesce(sum(d.bytes), 0) FROM pgstencil.database d WHERE d.template_id = t.id)::bigint AS bytes,
       (SELECT coalesce(sum(d.bytes * (1 + w.count)), 0)
          FROM pgstencil.template o
          JOIN pgstencil.database d ON d.template_id = o.id
         CROSS JOIN LATERAL (
            SELECT count(*) FROM pgstencil.clone c WHERE c.template_id = o.id AND c.state = 'warm') w
         WHERE o.project = t.project AND o.state = 'ready')::bigint AS total,
       jsonb_array_length(coalesce(t.built_with -> 'login_triggers', '[]')) > 0 AS login_triggers,
       (SELECT coalesce(m.full_at > now() - interval '10 minutes', false) FROM pgstencil.meta m) AS full,
       coalesce(t.sealed_at > pg_postmaster_start_time(), false) AS has_cache
  FROM pgstencil.template t
 WHERE t.project = $1 AND t.definition = $2 AND t.fingerprint = $3 AND t.state = 'ready'
   AND pg_has_role($4::name, t.built_by, 'USAGE')
 ORDER BY pg_get_userbyid(t.built_by) = $4 DESC, t.id
 LIMIT 1
