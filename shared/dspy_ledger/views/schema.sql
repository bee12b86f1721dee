-- The read models. Disposable: a changed schema is a new VIEW_VERSION, built by replay.
-- A version's label is looked up by (program_id, content_hash) when read, so that an execution whose
-- registration arrives later needs no second write.

CREATE TABLE checkpoint (
    one          INTEGER PRIMARY KEY CHECK (one = 1),
    view_version INTEGER NOT NULL,
    ledger_id    TEXT NOT NULL,
    position     INTEGER NOT NULL,
    event_id     TEXT
);

CREATE TABLE programs (
    program_id     TEXT PRIMARY KEY,
    name           TEXT NOT NULL,
    description    TEXT,
    tags           TEXT NOT NULL,       -- JSON array
    kind           TEXT NOT NULL,       -- signature | module
    parent_id      TEXT,                -- set when the whole program derives from another
    parent_version TEXT,
    latest_version TEXT,                -- the highest release; null while there are only pre-releases
    created_at     TEXT NOT NULL,
    updated_at     TEXT NOT NULL,
    position       INTEGER NOT NULL     -- of its first registration
) WITHOUT ROWID;

CREATE TABLE program_tags (
    tag        TEXT NOT NULL,
    program_id TEXT NOT NULL,
    PRIMARY KEY (tag, program_id)
) WITHOUT ROWID;

CREATE TABLE versions (
    program_id     TEXT NOT NULL,
    content_hash   TEXT NOT NULL,
    version        TEXT NOT NULL,       -- the label in force: the first for this content, collisions settled
    proposed       TEXT NOT NULL,       -- the label its event carried
    name           TEXT NOT NULL,
    description    TEXT,
    tags           TEXT NOT NULL,       -- JSON array
    parent_id      TEXT,
    parent_version TEXT,
    optimizer      TEXT,                -- JSON {name, params, score, run_id, changed}
    kind           TEXT NOT NULL,
    signature      TEXT,                -- JSON
    interface      TEXT,                -- JSON
    class_name     TEXT,
    module_path    TEXT,
    code_hash      TEXT,
    source_code    TEXT,
    dspy_version   TEXT,
    created_at     TEXT NOT NULL,
    event_id       TEXT NOT NULL,
    position       INTEGER NOT NULL,    -- of its first registration
    PRIMARY KEY (program_id, content_hash),
    UNIQUE (program_id, version)
) WITHOUT ROWID;

CREATE TABLE executions (
    position       INTEGER PRIMARY KEY,
    execution_id   TEXT NOT NULL,
    program_id     TEXT NOT NULL,
    content_hash   TEXT,
    program_name   TEXT,
    model_id       TEXT,
    provider       TEXT,
    base_model     TEXT,
    status         TEXT NOT NULL,
    error_type     TEXT,
    error_message  TEXT,
    started_at     TEXT NOT NULL,
    time           TEXT NOT NULL,
    latency_ms     REAL NOT NULL,
    input_tokens   INTEGER,
    output_tokens  INTEGER,
    cost_usd       REAL,
    model_pinned   INTEGER NOT NULL,
    trace_id       TEXT,
    session_id     TEXT,
    user_id        TEXT,
    tags           TEXT NOT NULL,       -- JSON array
    environment    TEXT,
    service        TEXT,
    release        TEXT
);

CREATE TABLE evaluations (
    position      INTEGER PRIMARY KEY,
    evaluation_id TEXT NOT NULL,
    program_id    TEXT,                 -- null for feedback: taken from the execution when read
    content_hash  TEXT,
    model_id      TEXT,
    provider      TEXT,
    base_model    TEXT,
    metric_name   TEXT,
    results       TEXT NOT NULL,        -- JSON, any
    dataset       TEXT,                 -- JSON {name, size, digest}
    execution_id  TEXT,
    user_id       TEXT,
    event_id      TEXT NOT NULL,
    created_at    TEXT NOT NULL
);
-- Saving an evaluation again under the same id and model replaces it.
CREATE UNIQUE INDEX evaluations_by_id
    ON evaluations (ifnull(program_id, ''), evaluation_id, ifnull(model_id, ''));

CREATE TABLE models_seen (
    model_id   TEXT PRIMARY KEY,
    provider   TEXT,
    base_model TEXT,
    model_name TEXT,
    first_seen TEXT NOT NULL,
    last_seen  TEXT NOT NULL
) WITHOUT ROWID;

-- One row per program, version content and model: totals without scanning executions.
CREATE TABLE totals (
    program_id    TEXT NOT NULL,
    content_hash  TEXT NOT NULL,        -- '' when the event had none
    model_id      TEXT NOT NULL,        -- '' when the event had none
    executions    INTEGER NOT NULL,
    errors        INTEGER NOT NULL,
    input_tokens  INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cost_usd      REAL NOT NULL,
    latency_ms    REAL NOT NULL,        -- sum
    PRIMARY KEY (program_id, content_hash, model_id)
) WITHOUT ROWID;
