-- What pgstencil knows of its databases. Never edited: changes come as a further numbered file.

CREATE SCHEMA pgstencil;

CREATE TABLE pgstencil.meta (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version    integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- One built set of databases for (definition, fingerprint).
CREATE TABLE pgstencil.template (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project      text NOT NULL,
    definition   text NOT NULL,
    fingerprint  text NOT NULL CHECK (fingerprint ~ '^[0-9a-f]{64}$'),
    state        text NOT NULL CHECK (state IN ('building', 'ready', 'broken')),
    recipe       jsonb NOT NULL,
    built_with   jsonb NOT NULL DEFAULT '{}',
    builder      jsonb NOT NULL,
    log_tail     text NOT NULL DEFAULT '',
    build_ms     bigint,
    hits         bigint NOT NULL DEFAULT 0,
    -- Why it is broken, in words.
    reason       text,
    -- A failed build that a person wanted to look at.
    kept_until   timestamptz,
    created_at   timestamptz NOT NULL DEFAULT now(),
    sealed_at    timestamptz,
    last_used_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((state = 'ready') <= (sealed_at IS NOT NULL))
);
CREATE UNIQUE INDEX template_ready ON pgstencil.template (project, definition, fingerprint)
    WHERE state = 'ready';
CREATE UNIQUE INDEX template_building ON pgstencil.template (project, definition, fingerprint)
    WHERE state = 'building';

-- A set of databases made from a template, for one user.
CREATE TABLE pgstencil.clone (
    id           text PRIMARY KEY,
    project      text NOT NULL,
    definition   text NOT NULL,
    fingerprint  text NOT NULL CHECK (fingerprint ~ '^[0-9a-f]{64}$'),
    template_id  bigint REFERENCES pgstencil.template ON DELETE SET NULL,
    -- What a person calls it: the name of its first database.
    name         text NOT NULL,
    state        text NOT NULL CHECK (state IN ('creating', 'leased', 'released')),
    -- 'session': as long as a session holds the lock; 'expiry': until expires_at.
    lease        text NOT NULL CHECK (lease IN ('session', 'expiry')),
    expires_at   timestamptz,
    orphaned_at  timestamptz,
    holder       jsonb NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now()
);

-- One physical database. The row is committed before its CREATE and goes after its DROP.
CREATE TABLE pgstencil.database (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    template_id  bigint REFERENCES pgstencil.template,
    clone_id     text REFERENCES pgstencil.clone,
    role         text NOT NULL,
    ordinal      integer NOT NULL,
    private_name text NOT NULL UNIQUE,
    -- The name that it has once it is present.
    name         text NOT NULL,
    nonce        text NOT NULL,
    oid          oid,
    state        text NOT NULL CHECK (state IN ('creating', 'present', 'dropping')),
    bytes        bigint,
    files        bigint,
    replay       jsonb NOT NULL DEFAULT '{}',
    CHECK (num_nonnulls(template_id, clone_id) = 1)
);
CREATE INDEX database_template ON pgstencil.database (template_id);
CREATE INDEX database_clone ON pgstencil.database (clone_id);

-- What happened, for expected times and for what was saved; bounded by pgstencil.
CREATE TABLE pgstencil.event (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT now(),
    project     text NOT NULL,
    definition  text NOT NULL,
    fingerprint text NOT NULL,
    outcome     text NOT NULL,
    millis      bigint NOT NULL
);
CREATE INDEX event_definition ON pgstencil.event (project, definition, id);

INSERT INTO pgstencil.meta (version) VALUES (1);
