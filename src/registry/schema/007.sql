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
