INSERT INTO pgstencil.project (name, max_bytes, max_templates, max_idle_s, keep, warm, warm_max, grace_s)
SELECT new.*
  FROM (VALUES ($1, $2::bigint, $3::bigint, $4::float8, $5::bigint, $6::bigint, $7::bigint, $8::float8))
       new (name, max_bytes, max_templates, max_idle_s, keep, warm, warm_max, grace_s)
 WHERE NOT EXISTS (
    SELECT FROM pgstencil.project old
     WHERE old.name = new.name
       AND (old.max_bytes, old.max_templates, old.max_idle_s, old.keep, old.warm, old.warm_max, old.grace_s)
           IS NOT DISTINCT FROM
           (new.max_bytes, new.max_templates, new.max_idle_s, new.keep, new.warm, new.warm_max, new.grace_s))
ON CONFLICT (name) DO UPDATE SET
    max_bytes = excluded.max_bytes,
    max_templates = excluded.max_templates,
    max_idle_s = excluded.max_idle_s,
    keep = excluded.keep,
    warm = excluded.warm,
    warm_max = excluded.warm_max,
    grace_s = excluded.grace_s,
    noted_at = now()
