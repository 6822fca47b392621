-- Common table expressions that are put before each of the other files. An expression that a file does not
-- use costs nothing: Postgres does not run it.
--
-- Objects with oids below 16384 (FirstNormalObjectId, src/include/access/transam.h) are initdb's.
-- A column that older versions lack is written as `FROM (SELECT default AS column) missing CROSS
-- JOIN LATERAL (SELECT column FROM catalog)`: the name means the catalog's column if it
-- exists, else that of `missing`.
WITH member AS MATERIALIZED (
    SELECT classid, objid FROM pg_depend
    WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
), space AS MATERIALIZED (
    SELECT oid FROM pg_namespace WHERE nspname !~ '^pg_(temp|toast)'
), relation AS MATERIALIZED (
    SELECT c.oid, c.relname, c.relkind, c.relowner, c.relacl,
        -- For a composite type, the type is the member.
        CASE c.relkind WHEN 'c' THEN c.reltype IN (SELECT objid FROM member WHERE classid = 'pg_type'::regclass)
            ELSE c.oid IN (SELECT objid FROM member WHERE classid = 'pg_class'::regclass) END AS of_extension,
        CASE c.relkind WHEN 'c' THEN 'type' ELSE i.type END || ' ' || i.identity AS heading
    FROM pg_class c
    JOIN space s ON s.oid = c.relnamespace
    CROSS JOIN LATERAL pg_identify_object('pg_class'::regclass, c.oid, 0) i
    WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S', 'c') AND c.relpersistence <> 't'
), routine AS MATERIALIZED (
    -- Internal functions are the constructors of range types.
    SELECT p.oid, p.prokind, p.proowner, p.proacl,
        CASE p.prokind WHEN 'a' THEN 'aggregate' WHEN 'p' THEN 'procedure' ELSE 'function' END
            || ' ' || p.oid::regprocedure AS heading
    FROM pg_proc p
    JOIN space s ON s.oid = p.pronamespace
    WHERE p.oid >= 16384
        AND p.oid NOT IN (SELECT objid FROM member WHERE classid = 'pg_proc'::regclass)
        AND p.oid NOT IN (SELECT objid FROM pg_depend
                          WHERE classid = 'pg_proc'::regclass AND deptype = 'i' AND objid >= 16384)
), typ AS MATERIALIZED (
    -- Internal types are arrays, row types of tables, and multiranges.
    SELECT t.oid, t.typtype, t.typowner, t.typacl, i.type || ' ' || i.identity AS heading
    FROM pg_type t
    JOIN space s ON s.oid = t.typnamespace
    CROSS JOIN LATERAL pg_identify_object('pg_type'::regclass, t.oid, 0) i
    WHERE t.oid >= 16384
        AND t.oid NOT IN (SELECT objid FROM member WHERE classid = 'pg_type'::regclass)
        AND t.oid NOT IN (SELECT objid FROM pg_depend
                          WHERE classid = 'pg_type'::regclass AND deptype = 'i' AND objid >= 16384)
), other AS MATERIALIZED (
    -- All other kinds of objects, with owner and privileges if they have them.
    SELECT o.classid, o.oid, o.owner, o.acl, o.kind, i.type || ' ' || i.identity AS heading
    FROM (
        SELECT 'pg_namespace'::regclass::oid AS classid, oid, nspowner AS owner, nspacl AS acl, 'n'::"char" AS kind
            FROM pg_namespace WHERE (oid >= 16384 OR nspname = 'public') AND nspname !~ '^pg_(temp|toast)'
        UNION ALL SELECT 'pg_language'::regclass, oid, lanowner, lanacl, 'l' FROM pg_language WHERE oid >= 16384
        UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid, fdwowner, fdwacl, 'F' FROM pg_foreign_data_wrapper
        UNION ALL SELECT 'pg_foreign_server'::regclass, oid, srvowner, srvacl, 'S' FROM pg_foreign_server
        UNION ALL SELECT 'pg_extension'::regclass, oid, extowner, NULL, NULL FROM pg_extension
        UNION ALL SELECT 'pg_event_trigger'::regclass, oid, evtowner, NULL, NULL FROM pg_event_trigger
        UNION ALL SELECT 'pg_publication'::regclass, oid, pubowner, NULL, NULL FROM pg_publication
        UNION ALL SELECT 'pg_statistic_ext'::regclass, oid, stxowner, NULL, NULL FROM pg_statistic_ext
        UNION ALL SELECT 'pg_operator'::regclass, oid, oprowner, NULL, NULL FROM pg_operator WHERE oid >= 16384
        UNION ALL SELECT 'pg_opclass'::regclass, oid, opcowner, NULL, NULL FROM pg_opclass WHERE oid >= 16384
        UNION ALL SELECT 'pg_opfamily'::regclass, oid, opfowner, NULL, NULL FROM pg_opfamily WHERE oid >= 16384
        UNION ALL SELECT 'pg_cast'::regclass, oid, NULL, NULL, NULL FROM pg_cast WHERE oid >= 16384
            -- A range type brings the cast to its multirange.
            AND oid NOT IN (SELECT objid FROM pg_depend WHERE classid = 'pg_cast'::regclass AND deptype = 'i')
        UNION ALL SELECT 'pg_transform'::regclass, oid, NULL, NULL, NULL FROM pg_transform WHERE oid >= 16384
        UNION ALL SELECT 'pg_am'::regclass, oid, NULL, NULL, NULL FROM pg_am WHERE oid >= 16384
        UNION ALL SELECT 'pg_conversion'::regclass, oid, conowner, NULL, NULL FROM pg_conversion WHERE oid >= 16384
        UNION ALL SELECT 'pg_collation'::regclass, oid, collowner, NULL, NULL FROM pg_collation WHERE oid >= 16384
        UNION ALL SELECT 'pg_ts_config'::regclass, oid, cfgowner, NULL, NULL FROM pg_ts_config WHERE oid >= 16384
        UNION ALL SELECT 'pg_ts_dict'::regclass, oid, dictowner, NULL, NULL FROM pg_ts_dict WHERE oid >= 16384
        UNION ALL SELECT 'pg_ts_parser'::regclass, oid, NULL, NULL, NULL FROM pg_ts_parser WHERE oid >= 16384
        UNION ALL SELECT 'pg_ts_template'::regclass, oid, NULL, NULL, NULL FROM pg_ts_template WHERE oid >= 16384
    ) o
    CROSS JOIN LATERAL pg_identify_object(o.classid, o.oid, 0) i
    WHERE (o.classid, o.oid) NOT IN (SELECT classid, objid FROM member)
        AND coalesce(i.schema, '') !~ '^pg_(temp|toast)'
)
