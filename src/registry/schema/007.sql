-- The settings of each project are one value, so that a new setting needs no new column. A setting that is missing
-- was not known to the version that recorded the row.
ALTER TABLE pgstencil.project ADD COLUMN settings jsonb;
UPDATE pgstencil.project SET settings = jsonb_build_object(
    'max_bytes', max_bytes,
    'max_templates', max_templates,
    'max_idle_s', max_idle_s,
    'keep', keep,
    'warm', warm,
    'warm_max', warm_max,
    'grace_s', grace_s);
ALTER TABLE pgstencil.project
    ALTER COLUMN settings SET NOT NULL,
    DROP COLUMN max_bytes,
    DROP COLUMN max_templates,
    DROP COLUMN max_idle_s,
    DROP COLUMN keep,
    DROP COLUMN warm,
    DROP COLUMN warm_max,
    DROP COLUMN grace_s;

-- A change of a row that touches no indexed column and fits on the row's page leaves nothing in the indexes (a HOT
-- update), and the next visitor of the page removes the old version. An index with a condition counts the columns of
-- the condition as indexed, and the state of each clone changes several times.
DROP INDEX pgstencil.clone_warm;
CREATE INDEX clone_template ON pgstencil.clone (template_id);
ALTER TABLE pgstencil.clone SET (fillfactor = 50);
ALTER TABLE pgstencil.database SET (fillfactor = 50);
ALTER TABLE pgstencil.template SET (fillfactor = 50);

-- Since when an incrementally built template counts as equal to a full build without one of its own.
ALTER TABLE pgstencil.template ADD COLUMN accepted_at timestamptz;

-- Why the last background process that looked at a provisional template did not rebuild it.
ALTER TABLE pgstencil.template ADD COLUMN rebuild_wait text;

-- The incremental builds that a comparison is evidence for: fingerprints of the compared template and of its bases,
-- up to the last one that was proved before; and their number. Older comparisons are evidence for one.
ALTER TABLE pgstencil.comparison
    ADD COLUMN covers text[] NOT NULL DEFAULT '{}',
    ADD COLUMN links integer NOT NULL DEFAULT 1;

-- Clones of which the server has counted all changes since before their first use, if this row is there: since its
-- start and its last read configuration as noted in `since`, and `settings` is a digest of what the shared catalogs
-- said of their databases then. When Postgres recovers from a crash its counters begin anew, and it empties this table
-- as all unlogged ones.
CREATE UNLOGGED TABLE pgstencil.counted (
    clone_id text PRIMARY KEY REFERENCES pgstencil.clone ON DELETE CASCADE,
    since    text NOT NULL,
    settings text NOT NULL,
    -- Whether the config asks for it although its role could switch the counters off.
    insists  boolean NOT NULL
);
