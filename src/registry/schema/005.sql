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
