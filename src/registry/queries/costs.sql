SELECT (SELECT millis FROM pgstencil.event
         WHERE project = $1 AND definition = $2 AND outcome <> 'hit' AND outcome IN $3
         ORDER BY id DESC LIMIT 1) AS full_build,
       (SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY millis)
          FROM (SELECT millis FROM pgstencil.event
                 WHERE project = $1 AND definition = $2 AND outcome <> 'hit' AND outcome = $4
                   AND ($6 IS NULL OR at > now() - make_interval(secs => $6))
                 ORDER BY id DESC LIMIT 9) e) AS extension,
       (SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY millis)
          FROM (SELECT millis FROM pgstencil.event
                 WHERE project = $1 AND definition = $2 AND outcome = $5 AND $6 IS NULL
                 ORDER BY id DESC LIMIT 9) h) AS hit
