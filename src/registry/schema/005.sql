-- Notes that cannot be trusted, owners of clones, and what else the promises under faults need.

-- Comparisons found differences that Postgres itself makes: since 15.20 it writes `pg_attver=NUMBER` into the
-- options of every column. The notes do not say what differed, so none of them counts.
DELETE FROM pgstencil.event WHERE outcome = 'differed';
UPDATE pgstencil.template SET difference = NULL WHERE difference <> '';

-- The templates whose unlogged tables and sequences hold what their build left there. When Postgres recovers
-- from a crash it empties all unlogged tables, and this one with them: a template that should be listed here
-- and is not has lost those contents.
CREATE UNLOGGED TABLE pgstencil.intact (
    template_id bigint PRIMARY KEY REFERENCES pgstencil.template ON DELETE CASCADE
);

-- The role as which the build command's sessions began. It owns what they made, so another role may use the
-- template only if it inherits from this one: each role that does not has a template of its own. Of older
-- templates the registry's owner is as good a guess as any.
ALTER TABLE pgstencil.template ADD COLUMN built_by oid;
UPDATE pgstencil.template SET built_by =
    (SELECT datdba FROM pg_database WHERE datname = current_database());
ALTER TABLE pgstencil.template ALTER COLUMN built_by SET NOT NULL;
DROP INDEX pgstencil.template_ready;
CREATE UNIQUE INDEX template_ready ON pgstencil.template (project, definition, fingerprint, built_by)
    WHERE state = 'ready';

-- What was noted of collations was never read, and was by database; now it is by collation.
UPDATE pgstencil.template SET built_with = built_with - 'collations';
