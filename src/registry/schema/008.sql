-- Waypoints: templates that were built by `build_until`, only to be the base of others. Like an incrementally built
-- template, a waypoint is provisional until it is proved.
ALTER TABLE pgstencil.template
    ADD COLUMN waypoint boolean NOT NULL DEFAULT false,
    DROP CONSTRAINT template_check2,
    ADD CHECK (provisional <= (chain > 0 OR waypoint));

-- Definitions whose waypoints failed, or whose second step changed nothing: none is built again until the commands
-- change. `commands` is a hash of them.
CREATE TABLE pgstencil.no_waypoint (
    project    text NOT NULL,
    definition text NOT NULL,
    commands   text NOT NULL,
    why        text NOT NULL,
    at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project, definition)
);

-- How often a template was used within the last hours: each use counts one, and a third of that half an hour later.
-- `demand_at` is the time of this, too. Templates that exist are in use.
ALTER TABLE pgstencil.template ADD COLUMN uses double precision NOT NULL DEFAULT 0;
UPDATE pgstencil.template SET uses = 2 WHERE state = 'ready';
