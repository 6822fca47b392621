SELECT id, project, definition, fingerprint, state, built_with, builder, log_tail, build_ms,
       pg_get_userbyid(built_by)::text AS built_by, hits, pinned, reason, base_fingerprint, added, chain, waypoint, extend,
       unsealed, provisional, settle_failure AS rebuild_failure, settle_attempts AS rebuild_attempts,
       extract(epoch FROM now() - settle_tried_at)::float8 AS rebuild_tried_s, difference, rebuild_wait,
       to_char(accepted_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS accepted_at,
       -- Whether a crash of Postgres emptied its unlogged tables.
       built_with ? 'unlogged_tables' AND id NOT IN (SELECT i.template_id FROM pgstencil.intact i) AS emptied,
       outdated,
       (SELECT jsonb_build_array(v.key, v.value, pg_collation_actual_version(c.oid))
          FROM jsonb_each_text(coalesce(built_with -> 'collations', '{}')) v
          LEFT JOIN pg_collation c
            ON c.collname = v.key::name AND c.collnamespace = 'pg_catalog'::regnamespace
         WHERE pg_collation_actual_version(c.oid) IS DISTINCT FROM v.value LIMIT 1) AS other_collation,
       extract(epoch FROM now() - fresh_at)::float8 AS contents_s,
       extract(epoch FROM now() - created_at)::float8 AS age_s,
       extract(epoch FROM now() - last_used_at)::float8 AS idle_s,
       to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS created_at,
       to_char(last_used_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS last_used_at
  FROM pgstencil.template
