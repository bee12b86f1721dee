-- The read models. Disposable: a changed schema is a new VIEW_VERSION, built by replay.
--
-- Every row but those of the roll-ups belongs to the position of the event that it came from, for ever; what
-- can change later is a new row, which closes the one it replaces. So as of position P there is what has
--     position <= P AND (until IS NULL OR until > P)
-- and as of now, what has until IS NULL. A row never tells what a later event said.
--
-- A version's label is looked up by (program_id, content_hash) when read, so that an execution whose
-- registration arrives later needs no second write.

CREATE TABLE checkpoint (
    one          INTEGER PRIMARY KEY CHECK (one = 1),
    view_version INTEGER NOT NULL,
    ledger_id    TEXT NOT NULL,
    position     INTEGER NOT NULL,
    event_id     TEXT
);

-- Events that could not be folded; those that the event store has parked for this view.
CREATE TABLE left_out (
    position INTEGER PRIMARY KEY
);

CREATE TABLE programs (
    program_id     TEXT NOT NULL,
    position       INTEGER NOT NULL,    -- of the registration that made it so
    until          INTEGER,             -- position of the row that replaced this one; null: none did
    first_position INTEGER NOT NULL,    -- of its first registration
    name           TEXT NOT NULL,
    description    TEXT,
    tags           TEXT NOT NULL,       -- JSON array
    kind           TEXT NOT NULL,       -- signature | module
    parent_id      TEXT,                -- set when the whole program derives from another
    parent_version TEXT,
    latest_version TEXT,                -- the highest release; null while there are only pre-releases
    created_at     TEXT NOT NULL,
    updated_at     TEXT NOT NULL,
    PRIMARY KEY (program_id, position)
) WITHOUT ROWID;
CREATE UNIQUE INDEX programs_now ON programs (program_id) WHERE until IS NULL;
CREATE TRIGGER programs_replaced BEFORE INSERT ON programs BEGIN
    UPDATE programs SET until = NEW.position WHERE program_id = NEW.program_id AND until IS NULL;
END;

-- The tags of one row of programs.
CREATE TABLE program_tags (
    tag        TEXT NOT NULL,
    program_id TEXT NOT NULL,
    position   INTEGER NOT NULL,
    PRIMARY KEY (tag, program_id, position)
) WITHOUT ROWID;

CREATE TABLE versions (
    program_id     TEXT NOT NULL,
    content_hash   TEXT NOT NULL,
    position       INTEGER NOT NULL,    -- of its first registration
    version        TEXT NOT NULL,       -- the label in force: the first for this content, collisions settled
    proposed       TEXT NOT NULL,       -- the label its event carried
    name           TEXT NOT NULL,
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
    PRIMARY KEY (program_id, content_hash),
    UNIQUE (program_id, version)
) WITHOUT ROWID;

-- What the last registration of a version called it: all of a version that changes.
CREATE TABLE wordings (
    program_id   TEXT NOT NULL,
    content_hash TEXT NOT NULL,
    position     INTEGER NOT NULL,
    until        INTEGER,
    description  TEXT,
    tags         TEXT NOT NULL,         -- JSON array
    PRIMARY KEY (program_id, content_hash, position)
) WITHOUT ROWID;
CREATE UNIQUE INDEX wordings_now ON wordings (program_id, content_hash) WHERE until IS NULL;
CREATE TRIGGER wordings_replaced BEFORE INSERT ON wordings BEGIN
    UPDATE wordings SET until = NEW.position
    WHERE program_id = NEW.program_id AND content_hash = NEW.content_hash AND until IS NULL;
END;

CREATE TABLE executions (
    position       INTEGER PRIMARY KEY,
    execution_id   TEXT NOT NULL,
    program_id     TEXT NOT NULL,
    content_hash   TEXT,
    program_name   TEXT,
    model_id       TEXT,
    provider       TEXT,
    base_model     TEXT,
    model_name     TEXT,
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
    until         INTEGER,
    evaluation_id TEXT NOT NULL,
    program_id    TEXT,                 -- null for feedback: taken from the execution when read
    content_hash  TEXT,
    model_id      TEXT,
    provider      TEXT,
    base_model    TEXT,
    model_name    TEXT,
    metric_name   TEXT,
    results       TEXT NOT NULL,        -- JSON, any
    dataset       TEXT,                 -- JSON {name, size, digest}
    execution_id  TEXT,
    user_id       TEXT,
    event_id      TEXT NOT NULL,
    time          TEXT NOT NULL,
    created_at    TEXT NOT NULL
);
-- Saving an evaluation again under the same id and model replaces it.
CREATE UNIQUE INDEX evaluations_by_id
    ON evaluations (ifnull(program_id, ''), evaluation_id, ifnull(model_id, '')) WHERE until IS NULL;
CREATE TRIGGER evaluations_replaced BEFORE INSERT ON evaluations BEGIN
    UPDATE evaluations SET until = NEW.position
    WHERE ifnull(program_id, '') = ifnull(NEW.program_id, '') AND evaluation_id = NEW.evaluation_id
      AND ifnull(model_id, '') = ifnull(NEW.model_id, '') AND until IS NULL;
END;

-- Which program each feedback is of: that of the first execution of its id, whenever that came. It is kept as an
-- index is: made at the end of a build (feedback.sql), and up to date from then on (indexes.sql).
CREATE TABLE feedback (
    program_id TEXT NOT NULL,
    position   INTEGER NOT NULL,        -- of the row of evaluations
    PRIMARY KEY (program_id, position)
) WITHOUT ROWID;

-- Where the executions of an hour lie, block by block: others lie among them, since hosts' clocks differ, and
-- what a host kept for a while comes late, in another block.
CREATE TABLE spans (
    hour  TEXT NOT NULL,                -- of the event's time, UTC: 2026-11-22T10
    block INTEGER NOT NULL,             -- 65,536 positions
    first INTEGER NOT NULL,             -- positions
    last  INTEGER NOT NULL,
    PRIMARY KEY (hour, block)
) WITHOUT ROWID;

-- Roll-ups, of now only. Their sums are of whole numbers, which come to the same in any order and however
-- the events are batched: costs in picodollars (1e-12 USD), latencies in µs. A sum beyond 64 bits stays at
-- the highest number. An execution that did not tell its tokens or its cost counts in executions alone:
-- *_known says of how many executions a sum is.

CREATE TABLE totals (
    program_id    TEXT NOT NULL,
    content_hash  TEXT NOT NULL,        -- '' when the event had none
    model_id      TEXT NOT NULL,        -- '' when the event had none
    executions    INTEGER NOT NULL,
    errors        INTEGER NOT NULL,
    input_known   INTEGER NOT NULL,
    input_tokens  INTEGER NOT NULL,
    output_known  INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cost_known    INTEGER NOT NULL,
    cost          INTEGER NOT NULL,
    latency       INTEGER NOT NULL,
    PRIMARY KEY (program_id, content_hash, model_id)
) WITHOUT ROWID;

-- Each execution counts once at every level, in the row of what the level tells apart:
--     all       nothing
--     model     model and environment
--     program   program
--     content   program and content
--     finest    program, content, model and environment
-- A column that a level does not tell apart is '', and so is one that it does where the event had none.
CREATE TABLE hours (
    level         TEXT NOT NULL,
    program_id    TEXT NOT NULL,
    hour          TEXT NOT NULL,        -- of the event's time, UTC: 2026-11-22T10
    content_hash  TEXT NOT NULL,
    model_id      TEXT NOT NULL,
    environment   TEXT NOT NULL,
    executions    INTEGER NOT NULL,
    errors        INTEGER NOT NULL,
    input_known   INTEGER NOT NULL,
    input_tokens  INTEGER NOT NULL,
    output_known  INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cost_known    INTEGER NOT NULL,
    cost          INTEGER NOT NULL,
    latency       INTEGER NOT NULL,
    latencies     BLOB NOT NULL,        -- dspy_ledger.histogram of the latencies in µs
    PRIMARY KEY (level, program_id, hour, content_hash, model_id, environment)
) WITHOUT ROWID;

CREATE TABLE days (
    level         TEXT NOT NULL,
    program_id    TEXT NOT NULL,
    day           TEXT NOT NULL,        -- of the event's time, UTC: 2026-11-22
    content_hash  TEXT NOT NULL,
    model_id      TEXT NOT NULL,
    environment   TEXT NOT NULL,
    executions    INTEGER NOT NULL,
    errors        INTEGER NOT NULL,
    input_known   INTEGER NOT NULL,
    input_tokens  INTEGER NOT NULL,
    output_known  INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cost_known    INTEGER NOT NULL,
    cost          INTEGER NOT NULL,
    latency       INTEGER NOT NULL,
    latencies     BLOB NOT NULL,        -- dspy_ledger.histogram of the latencies in µs
    PRIMARY KEY (level, program_id, day, content_hash, model_id, environment)
) WITHOUT ROWID;
