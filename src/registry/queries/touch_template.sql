UPDATE pgstencil.template
   SET hits = hits + $2,
       last_used_at = now(),
       demand = $3 + demand * exp(-greatest(least(extract(epoch FROM now() - demand_at), 3600), 0) / 60),
       uses = $2 + uses * exp(-greatest(least(extract(epoch FROM now() - demand_at), 86400), 0) / 1800),
       demand_at = now()
 WHERE id = $1
