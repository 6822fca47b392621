-- The tables of this database. `fit`: it is empty to the last byte, and TRUNCATE and ANALYZE make it so again.
SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind = 'p' AS partitioned,
       (c.relkind = 'p'
         OR NOT c.relhassubclass AND c.relam = 2 AND c.relpersistence IN ('p', 'u')
        AND c.relpages = 0 AND c.reltuples = 0 AND pg_relation_size(c.oid) = 0
        AND (c.reltoastrelid = 0 OR pg_relation_size(c.reltoastrelid) = 0))
   AND has_table_privilege(c.oid, 'TRUNCATE')
   -- 32: a trigger that fires on TRUNCATE.
   AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgtype & 32 <> 0)
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
       AS fit
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND c.oid >= 16384 AND c.relpersistence <> 't'
