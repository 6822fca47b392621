-- Eviction: what a person protects, and what each project allows itself.

ALTER TABLE pgstencil.template
    -- Touched by no rule.
    ADD COLUMN pinned boolean NOT NULL DEFAULT false,
    -- `extend` of its definition when it was built: what could take its place, and what it would cost.
    ADD COLUMN extend text NOT NULL DEFAULT 'append' CHECK (extend IN ('append', 'never', 'always'));

-- The limits of each project, as its last build found them in the config: an eviction keeps those of
-- all projects, also of such as nobody works on any more. Null is no limit.
CREATE TABLE pgstencil.project (
    name          text PRIMARY KEY,
    max_bytes     bigint,
    max_templates bigint,
    max_idle_s    double precision,
    keep          bigint NOT NULL,
    noted_at      timestamptz NOT NULL DEFAULT now()
);
