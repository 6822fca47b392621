-- Templates that a process which may push has built, and that have not reached its remote store. A later command pushes
-- them, whatever became of that process or the store.
CREATE TABLE pgstencil.unpushed (
    template_id bigint PRIMARY KEY REFERENCES pgstencil.template ON DELETE CASCADE
);
