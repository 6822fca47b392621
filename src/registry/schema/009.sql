-- Facts about a database of a template that decide whether a clone can be washed: for each table that is empty in the
-- template, the tables that have to be emptied with it, and the positions of the sequences. By oids, which copies share.
CREATE TABLE pgstencil.washable (
    template_id bigint NOT NULL REFERENCES pgstencil.template ON DELETE CASCADE,
    alias       text NOT NULL,
    tables      jsonb NOT NULL,
    sequences   jsonb NOT NULL,
    PRIMARY KEY (template_id, alias)
);

-- Counters of a clone's databases, by alias, when it last became warm again after it was washed, and how often it was.
ALTER TABLE pgstencil.counted
    ADD COLUMN baselines jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN washed    integer NOT NULL DEFAULT 0;
