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
