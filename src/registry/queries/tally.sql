SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day, project, definition,
       count(*) FILTER (WHERE outcome = 'hit') AS hits,
       count(*) FILTER (WHERE outcome = 'miss') AS misses,
       count(*) FILTER (WHERE outcome = 'extended') AS extensions,
       count(*) FILTER (WHERE outcome = 'pulled') AS pulls,
       count(*) FILTER (WHERE outcome = 'waypoint') AS waypoints,
       count(*) FILTER (WHERE outcome = 'fallback') AS fallbacks,
       count(*) FILTER (WHERE outcome IN ('settled', 'verified')) AS comparisons,
       count(*) FILTER (WHERE outcome = 'differed') AS differences,
       count(*) FILTER (WHERE outcome = 'evicted') AS evictions,
       count(*) FILTER (WHERE outcome IN ('failed', 'timed_out')) AS failures,
       count(*) FILTER (WHERE outcome = 'timed_out') AS timeouts,
       coalesce(sum(millis) FILTER (WHERE outcome IN ('failed', 'timed_out')), 0)::bigint AS failed_ms,
       coalesce(sum(millis) FILTER (WHERE outcome IN ('hit', 'miss', 'extended', 'pulled', 'unsealed', 'fallback')), 0)::bigint
           AS spent_ms,
       coalesce(sum(millis) FILTER (WHERE outcome IN ('settled', 'verified')), 0)::bigint AS compared_ms,
       coalesce(sum(greatest(full_ms - millis, 0)) FILTER (WHERE outcome IN ('hit', 'extended', 'pulled')), 0)::bigint AS saved_ms
  FROM (SELECT e.*, (SELECT b.millis FROM pgstencil.event b
                      WHERE b.project = e.project AND b.definition = e.definition AND b.id < e.id AND b.outcome IN $3
                      ORDER BY b.id DESC LIMIT 1) AS full_ms
          FROM pgstencil.event e
         WHERE ($1 IS NULL OR e.definition = $1) AND ($2 IS NULL OR e.at > now() - make_interval(secs => $2))) of
 GROUP BY 1, 2, 3
 ORDER BY 1, 2, 3
