-- Builds that were not sealed, since their new migrations changed nothing.

-- The names of those migrations, and the template that holds the same without them. The state is `broken` from
-- the start, but processes that waited for this build may copy it before `kept_until`.
ALTER TABLE pgstencil.template ADD COLUMN unsealed jsonb;

-- A hash that two databases share if they have as many objects of each kind and as many rows in each table;
-- null if it was not taken.
ALTER TABLE pgstencil.database ADD COLUMN shape text;

-- Where an extended template and the build from nothing beside it differed in ids, row contents and sequences, in
-- one line. `difference` is of what else differed, and speaks against the build command.
ALTER TABLE pgstencil.comparison ADD COLUMN moved text NOT NULL DEFAULT '';
DROP INDEX pgstencil.comparison_untold;
CREATE INDEX comparison_untold ON pgstencil.comparison (project, definition)
    WHERE told_at IS NULL AND (difference <> '' OR moved <> '');

-- Databases that a command created under the name of its clone, after it had dropped that. They are left alone,
-- and told.
CREATE TABLE pgstencil.replaced (
    oid  oid PRIMARY KEY,
    name text NOT NULL,
    at   timestamptz NOT NULL DEFAULT now()
);

-- Clones whose definition has `before_release`, from their hand-over until that command has run: what it is to
-- see, and the checkout that runs it. The command itself is only in that checkout's config.
CREATE TABLE pgstencil.owed (
    clone_id      text PRIMARY KEY,
    project       text NOT NULL,
    definition    text NOT NULL,
    -- Names of the clone's databases.
    names         text[] NOT NULL,
    handed        jsonb NOT NULL,
    owner_role    text NOT NULL,
    owner_machine text NOT NULL,
    owner_name    text NOT NULL,
    owner_top     text NOT NULL,
    owner_below   text NOT NULL,
    -- When the clone was given back, or dropped by a sweep.
    due_at        timestamptz,
    -- When the command was started, which happens once.
    started_at    timestamptz,
    -- A failure that no person has been told yet.
    failure       text
);
