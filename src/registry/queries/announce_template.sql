UPDATE pgstencil.template
   SET demand = demand * exp(-greatest(least(extract(epoch FROM now() - demand_at), 3600), 0) / 60),
       uses = greatest(2, uses * exp(-greatest(least(extract(epoch FROM now() - demand_at), 86400), 0) / 1800)),
       demand_at = now()
 WHERE id = $1
