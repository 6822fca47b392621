-- Builds that were not sealed, since their new migrations changed nothing.

-- The names of those migrations, and the template that holds the same without them. The state is `broken` from
-- the start, but processes that waited for this build may copy it before `kept_until`.
ALTER TABLE pgstencil.template ADD COLUMN unsealed jsonb;

-- A hash that two databases share if they have as many objects of each kind and as many rows in each table;
-- null if it was not taken.
ALTER TABLE pgstencil.database ADD COLUMN shape text;
