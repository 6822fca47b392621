-- Extensions: a template that was built on a copy of another one.

ALTER TABLE pgstencil.template
    -- The template that it was extended from; it may be gone by now.
    ADD COLUMN base_fingerprint text CHECK (base_fingerprint ~ '^[0-9a-f]{64}$'),
    -- Paths of the migrations that were added to it, in order.
    ADD COLUMN added jsonb NOT NULL DEFAULT '[]',
    -- How many extensions lie between it and a build from nothing.
    ADD COLUMN chain integer NOT NULL DEFAULT 0,
    -- A build from nothing is to take its place.
    ADD COLUMN provisional boolean NOT NULL DEFAULT false,
    -- When the build from nothing began that its oldest contents are of.
    ADD COLUMN fresh_at timestamptz NOT NULL DEFAULT now(),
    -- The builds from nothing that were to take its place: how many began, when the last one did,
    -- and why that one failed, if it did not just disappear.
    ADD COLUMN settle_attempts integer NOT NULL DEFAULT 0,
    ADD COLUMN settle_tried_at timestamptz,
    ADD COLUMN settle_failure text,
    -- How the extended template that it took the place of differed; empty if it did not.
    ADD COLUMN difference text,
    ADD CHECK ((base_fingerprint IS NOT NULL) = (chain > 0)),
    ADD CHECK (provisional <= (chain > 0));
UPDATE pgstencil.template SET fresh_at = created_at;
CREATE INDEX template_definition ON pgstencil.template (project, definition, state);

-- How many migrations an extension added.
ALTER TABLE pgstencil.event ADD COLUMN files integer;
