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

-- Whose a clone is: a role of the server, in a checkout on a machine, or under the name that PGSTENCIL_OWNER
-- gives. A clone without a role is from before this; its owner is whoever its holder matches.
ALTER TABLE pgstencil.clone
    ADD COLUMN owner_role text,
    ADD COLUMN owner_machine text NOT NULL DEFAULT '',
    ADD COLUMN owner_name text NOT NULL DEFAULT '',
    ADD COLUMN owner_top text NOT NULL DEFAULT '',
    ADD COLUMN owner_below text NOT NULL DEFAULT '',
    ADD COLUMN owned_at timestamptz NOT NULL DEFAULT now(),
    -- The git repository of the checkout: path, inode and birth of its common directory.
    ADD COLUMN repository jsonb,
    -- `[clone] named = "project"`: all checkouts of the project that say so may have it, too.
    ADD COLUMN shared boolean NOT NULL DEFAULT false,
    -- Whether its name can be wanted again: without `{id}` in the pattern.
    ADD COLUMN named boolean NOT NULL DEFAULT true,
    -- The branch and the worktree that its name comes from; an empty text is the main worktree.
    ADD COLUMN bound_branch text,
    ADD COLUMN bound_worktree text,
    -- `--ttl`, if it was typed; null is `never`.
    ADD COLUMN ttl_typed boolean NOT NULL DEFAULT false,
    ADD COLUMN ttl_s double precision,
    -- Its lease ends so long after the last command in its checkout; null: it does not go by that.
    ADD COLUMN branch_ttl_s double precision,
    -- The last command in its checkout, to the hour.
    ADD COLUMN seen_at timestamptz NOT NULL DEFAULT now(),
    -- The command of `run`, and its process group if that is its own; 0: it is about to be started.
    ADD COLUMN command_pid bigint,
    ADD COLUMN command_group bigint;
UPDATE pgstencil.clone SET owned_at = created_at, seen_at = created_at;

-- Named clones that were dropped otherwise than by their owner, and why: the next one of the name tells.
CREATE TABLE pgstencil.dropped (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name          text NOT NULL,
    project       text NOT NULL,
    holder        jsonb NOT NULL,
    owner_role    text,
    owner_machine text NOT NULL,
    owner_name    text NOT NULL,
    owner_top     text NOT NULL,
    owner_below   text NOT NULL,
    owned_at      timestamptz NOT NULL,
    shared        boolean NOT NULL,
    why           text NOT NULL,
    at            timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX dropped_name ON pgstencil.dropped (name);

-- Whether whoever asked for a clone is known to have its URL. Else the clone lives only as long as the session
-- that made it, and `orphan_grace` after that.
ALTER TABLE pgstencil.clone ADD COLUMN confirmed boolean NOT NULL DEFAULT true;

-- Builds from nothing beside extended templates, and what differed: nothing, if that is empty. `core` is a
-- hash of the build command and its inputs without migrations: what it leads to is the command's fault.
CREATE TABLE pgstencil.comparison (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT now(),
    project     text NOT NULL,
    definition  text NOT NULL,
    fingerprint text NOT NULL,
    core        text NOT NULL,
    difference  text NOT NULL,
    -- When a person was told of the difference.
    told_at     timestamptz
);
CREATE INDEX comparison_core ON pgstencil.comparison (project, definition, core, id);
CREATE INDEX comparison_untold ON pgstencil.comparison (project, definition)
    WHERE told_at IS NULL AND difference <> '';

-- Extensions that failed, as the build from nothing after them did: by owner (hash of server role, machine
-- and checkout) and by the paths of the new migrations (hash).
CREATE TABLE pgstencil.failure (
    project    text NOT NULL,
    definition text NOT NULL,
    owner      text NOT NULL,
    files      text NOT NULL,
    at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project, definition, owner, files)
);

-- Why a template no longer fits, as was found elsewhere than at its use; and when the database that its build
-- started from was last looked at, if that was not the empty one.
ALTER TABLE pgstencil.template
    ADD COLUMN outdated text,
    ADD COLUMN looked_at timestamptz NOT NULL DEFAULT now();

-- What hashes of variables' values are keyed with in recipes: from a plain hash a short value can be found by
-- trying. Recipes from before this get keyed hashes here, as `RecipeKey::keyed` makes them.
ALTER TABLE pgstencil.meta ADD COLUMN recipe_key bytea NOT NULL
    DEFAULT sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8'));
UPDATE pgstencil.template t SET recipe = t.recipe || coalesce((
    SELECT jsonb_object_agg(part.name, part.entries) FROM (
        SELECT p.name, jsonb_agg(CASE jsonb_typeof(e.entry -> 'hash')
            WHEN 'string' THEN e.entry || jsonb_build_object('hash', encode(sha256(m.recipe_key ||
                sha256(m.recipe_key || convert_to((e.entry ->> 'name') || '=' || (e.entry ->> 'hash'), 'UTF8'))), 'hex'))
            ELSE e.entry END ORDER BY e.place) AS entries
        FROM pgstencil.meta m
        CROSS JOIN unnest(ARRAY['env', 'mapping']) p (name)
        CROSS JOIN LATERAL jsonb_array_elements(CASE jsonb_typeof(t.recipe -> p.name)
            WHEN 'array' THEN t.recipe -> p.name ELSE '[]' END) WITH ORDINALITY e (entry, place)
        GROUP BY p.name) part), '{}');
