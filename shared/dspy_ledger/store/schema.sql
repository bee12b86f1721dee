-- The ledger. Not disposable: changed only by forward migrations (meta.schema_version).

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE events (
    position    INTEGER PRIMARY KEY CHECK (position > 0),  -- 1, 2, 3 … without holes
    event_id    TEXT NOT NULL UNIQUE,                      -- decides what is new
    stream_id   TEXT,                                      -- Redis's id; transport only
    type        TEXT NOT NULL,
    subject     TEXT,
    source      TEXT NOT NULL,
    sequence    INTEGER NOT NULL,
    time        TEXT NOT NULL,                             -- the producer's clock, UTC
    recorded_at TEXT NOT NULL,                             -- the writer's clock, never goes back
    payload     BLOB NOT NULL,                             -- the CloudEvent as it came
    digest      TEXT NOT NULL                              -- SHA-256 of payload
);
-- Registrations are few and read on every start; the query must spell the same term to use it.
CREATE INDEX registrations ON events (position) WHERE type = 'org.dspy-ledger.ProgramRegistered.v1';

-- Apart from the events, because a body can be erased and a fact cannot.
CREATE TABLE bodies (
    position INTEGER PRIMARY KEY REFERENCES events (position),
    body     BLOB NOT NULL
);

CREATE TABLE dead_letters (
    id          INTEGER PRIMARY KEY,
    stream_id   TEXT NOT NULL,
    digest      TEXT NOT NULL,
    reason      TEXT NOT NULL,
    detail      TEXT NOT NULL,
    recorded_at TEXT NOT NULL,
    raw         BLOB NOT NULL,
    source      TEXT,
    sequence    INTEGER,
    UNIQUE (stream_id, digest)
);

CREATE TABLE producers (
    source     TEXT PRIMARY KEY,
    settled    TEXT NOT NULL,  -- JSON: [[first, last], …] of its sequence numbers
    mark       INTEGER NOT NULL,
    first_seen TEXT NOT NULL,
    last_seen  TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE streams (
    stream  TEXT PRIMARY KEY,
    last_id TEXT NOT NULL,
    server  TEXT
) WITHOUT ROWID;
