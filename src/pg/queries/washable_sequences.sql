-- The sequences of this database that can be read and set back.
SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name,
       CASE c.relpersistence WHEN 'u' THEN s.seqstart END AS reset
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_sequence s ON s.seqrelid = c.oid
 WHERE c.relkind = 'S' AND c.oid >= 16384 AND c.relpersistence IN ('p', 'u')
   AND has_schema_privilege(n.oid, 'USAGE')
   AND has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'UPDATE')
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
