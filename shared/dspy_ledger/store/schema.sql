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
    digest      TEXT NOT NULL,                             -- SHA-256 of payload
    seal        INTEGER NOT NULL                           -- CRC-32 of what payload does not say
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
    dropped_at  TEXT,                -- set when an operator gave it up: raw is empty then
    UNIQUE (stream_id, digest)
);

-- Events that a projection could not fold, and left out.
CREATE TABLE parked (
    projection  TEXT NOT NULL,
    position    INTEGER NOT NULL,
    detail      TEXT NOT NULL,
    recorded_at TEXT NOT NULL,
    PRIMARY KEY (projection, position)
) WITHOUT ROWID;

-- One producer's sequence numbers; ranges are JSON: [[first, last], …].
CREATE TABLE producers (
    source      TEXT PRIMARY KEY,
    mark        INTEGER NOT NULL,    -- each of 1 … mark arrived or was written off
    arrived     TEXT NOT NULL,       -- stored or dead-lettered
    dropped     TEXT NOT NULL,       -- as it reported
    unconfirmed TEXT NOT NULL,       -- as it reported
    sampled_out INTEGER NOT NULL,
    reported    INTEGER NOT NULL,    -- the highest number its reports name
    stored      INTEGER NOT NULL,    -- how many of its events are in the store
    first_seen  TEXT NOT NULL,
    last_seen   TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE streams (
    stream  TEXT PRIMARY KEY,
    last_id TEXT NOT NULL,
    server  TEXT
) WITHOUT ROWID;
