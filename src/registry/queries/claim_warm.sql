WITH of AS MATERIALIZED (
    SELECT id, base_fingerprint, build_ms, added, provisional, settle_attempts, settle_tried_at, settle_failure,
           hits, created_at
      FROM pgstencil.template
     WHERE project = $1 AND definition = $2 AND fingerprint = $3 AND state = 'ready' AND outdated IS NULL
       AND NOT EXISTS (
          SELECT FROM pgstencil.database o
            JOIN pg_database p ON p.oid = o.oid
           WHERE o.template_id = template.id AND p.datallowconn)
       AND (NOT built_with ? 'unlogged_tables' OR id IN (SELECT i.template_id FROM pgstencil.intact i))
       AND NOT EXISTS (
          SELECT FROM jsonb_each_text(coalesce(built_with -> 'collations', '{}')) v
            LEFT JOIN pg_collation k
                   ON k.collname = v.key::name AND k.collnamespace = 'pg_catalog'::regnamespace
           WHERE pg_collation_actual_version(k.oid) IS DISTINCT FROM v.value)
       AND pg_has_role($7::name, built_by, 'USAGE')
       AND ($4::float8 IS NULL OR fresh_at > now() - make_interval(secs => $4::float8))
       AND ($8 OR coalesce(built_with -> 'available', '{}') = '{}')
       AND (base_fingerprint IS NULL OR $9 AND (provisional OR $10 OR $12 AND accepted_at IS NOT NULL) AND (extend <> 'always' OR $11))
     ORDER BY pg_get_userbyid(built_by) = $7 DESC, id
     LIMIT 1),
found AS MATERIALIZED (
    SELECT c.id, c.lock_key
      FROM pgstencil.clone c
     WHERE c.state = 'warm' AND c.template_id = (SELECT id FROM of)
       AND ($13::text IS NULL OR c.id = $13::text)
     LIMIT $5
       FOR UPDATE SKIP LOCKED),
locked AS MATERIALIZED (
    SELECT id FROM found WHERE pg_try_advisory_lock(lock_key)),
claimed AS (
    UPDATE pgstencil.clone c SET state = 'creating', holder = $6, created_at = now()
      FROM locked
     WHERE c.id = locked.id
 RETURNING c.id)
SELECT c.id AS clone_id, d.id AS database_id, d.role AS alias, d.ordinal, d.private_name, d.nonce, d.oid,
       of.id AS template_id,
       CASE WHEN of.base_fingerprint IS NULL THEN of.build_ms END AS full_ms,
       of.base_fingerprint, of.added, of.provisional, of.settle_attempts AS rebuild_attempts,
       extract(epoch FROM now() - of.settle_tried_at)::float8 AS rebuild_tried_s, of.settle_failure AS rebuild_failure,
       of.hits, extract(epoch FROM now() - of.created_at)::float8 AS age_s
  FROM claimed c
 CROSS JOIN of
  JOIN pgstencil.database d ON d.clone_id = c.id
