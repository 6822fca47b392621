-- Warm clones: made ahead of time, for nobody yet. And what copies were measured to cost.

ALTER TABLE pgstencil.clone DROP CONSTRAINT clone_state_check;
ALTER TABLE pgstencil.clone
    ADD CHECK (state IN ('creating', 'warm', 'leased', 'released')),
    -- The number of its advisory lock, so that one statement can claim and lock it.
    ADD COLUMN lock_key bigint,
    ADD CHECK ((state = 'warm') <= (lock_key IS NOT NULL));
CREATE INDEX clone_warm ON pgstencil.clone (template_id) WHERE state = 'warm';

-- Only what is known to be there is handed out.
ALTER TABLE pgstencil.database ADD CHECK (state <> 'present' OR oid IS NOT NULL) NOT VALID;

-- How many clones were asked for lately: each counts one, and a third of that a minute later.
ALTER TABLE pgstencil.template
    ADD COLUMN demand double precision NOT NULL DEFAULT 0,
    ADD COLUMN demand_at timestamptz NOT NULL DEFAULT now();

-- What else of its config others must know: how many warm clones it wants, and how long the sweep waits
-- with its orphans. Null: not noted yet.
ALTER TABLE pgstencil.project
    ADD COLUMN warm bigint NOT NULL DEFAULT 0,
    ADD COLUMN warm_max bigint NOT NULL DEFAULT 0,
    ADD COLUMN grace_s double precision;

-- When the server's disk was last found full by somebody who made warm clones.
ALTER TABLE pgstencil.meta ADD COLUMN full_at timestamptz;

-- What `pgstencil bench` measured on this server, the last time for each size and strategy.
CREATE TABLE pgstencil.measurement (
    strategy text NOT NULL CHECK (strategy IN ('wal_log', 'file_copy', 'reflink')),
    bytes    bigint NOT NULL,
    files    bigint NOT NULL,
    -- Whether the server kept its data safe from a crash of the host.
    fsync    boolean NOT NULL,
    millis   double precision NOT NULL,
    -- How many copies that is the best, or the median, of.
    samples  bigint NOT NULL,
    at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (strategy, bytes, files, fsync)
);

-- What builds took is asked for at many hits, and lies between thousands of them.
CREATE INDEX event_build ON pgstencil.event (project, definition, id) WHERE outcome <> 'hit';
