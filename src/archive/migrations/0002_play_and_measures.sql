-- Model versions, what they did with the tasks, and how they were judged.

CREATE TABLE model_version (
    id           TEXT NOT NULL PRIMARY KEY,
    parent       TEXT REFERENCES model_version (id),
    kind         TEXT NOT NULL CHECK (kind IN ('base', 'adapter')),
    path         TEXT NOT NULL, -- where the files lie: not content, the hash is
    content_hash TEXT NOT NULL,
    night        INTEGER REFERENCES night (number),
    note         TEXT NOT NULL,
    created_at   TEXT NOT NULL
) STRICT;

-- The one version that plays and answers. Holds at most one row.
CREATE TABLE live_model (
    one           INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    model_version TEXT NOT NULL REFERENCES model_version (id)
) STRICT;

-- Solver, reward, trainer --------------------------------------------------------------------

CREATE TABLE rollout (
    id             TEXT NOT NULL PRIMARY KEY,
    night          INTEGER NOT NULL REFERENCES night (number),
    round          INTEGER NOT NULL,
    task_id        TEXT NOT NULL REFERENCES task (id),
    ordinal        INTEGER NOT NULL, -- within the group
    model_version  TEXT NOT NULL REFERENCES model_version (id),
    answer         TEXT,
    stop           TEXT NOT NULL,
    queries_json   TEXT NOT NULL CHECK (json_valid(queries_json)),
    retrieved_json TEXT NOT NULL CHECK (json_valid(retrieved_json)),
    UNIQUE (night, round, task_id, ordinal)
) STRICT;

CREATE INDEX rollout_task ON rollout (task_id);

-- A run of tokens with one owner. Blobs: zlib over little-endian numbers.
CREATE TABLE step (
    rollout_id TEXT NOT NULL REFERENCES rollout (id),
    ordinal    INTEGER NOT NULL,
    owner      TEXT NOT NULL CHECK (owner IN ('model', 'tool')),
    tokens     BLOB NOT NULL, -- unsigned, 32 bits each
    logprobs   BLOB NOT NULL, -- float, 32 bits each; none for tool tokens
    PRIMARY KEY (rollout_id, ordinal)
) STRICT, WITHOUT ROWID;

CREATE TABLE score (
    rollout_id  TEXT NOT NULL PRIMARY KEY REFERENCES rollout (id),
    exact_match REAL NOT NULL,
    f1          REAL NOT NULL,
    reward      REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE train_step (
    night         INTEGER NOT NULL REFERENCES night (number),
    phase         TEXT NOT NULL CHECK (phase IN ('warm_start', 'policy')),
    step          INTEGER NOT NULL,
    model_version TEXT NOT NULL, -- the version in the making
    metrics_json  TEXT NOT NULL CHECK (json_valid(metrics_json)),
    PRIMARY KEY (night, phase, step)
) STRICT, WITHOUT ROWID;

-- Evaluation and promotion -------------------------------------------------------------------

CREATE TABLE suite (
    id        TEXT NOT NULL PRIMARY KEY,
    name      TEXT NOT NULL UNIQUE,
    origin    TEXT NOT NULL CHECK (origin IN ('human', 'model')),
    frozen_at TEXT NOT NULL
) STRICT;

CREATE TABLE suite_item (
    suite_id        TEXT NOT NULL REFERENCES suite (id),
    ordinal         INTEGER NOT NULL,
    question_id     TEXT NOT NULL,
    question        TEXT NOT NULL,
    answers_json    TEXT NOT NULL CHECK (json_valid(answers_json)),
    source_document TEXT NOT NULL,
    PRIMARY KEY (suite_id, ordinal),
    UNIQUE (suite_id, question_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE evaluation (
    id            TEXT NOT NULL PRIMARY KEY,
    night         INTEGER NOT NULL REFERENCES night (number),
    suite_id      TEXT NOT NULL REFERENCES suite (id),
    model_version TEXT NOT NULL REFERENCES model_version (id),
    prompt        TEXT NOT NULL,
    metrics_json  TEXT CHECK (json_valid(metrics_json)), -- NULL until all questions are answered
    finished_at   TEXT
) STRICT;

CREATE TABLE evaluation_item (
    evaluation_id       TEXT NOT NULL REFERENCES evaluation (id),
    question_id         TEXT NOT NULL,
    answer              TEXT,
    exact_match         REAL NOT NULL,
    f1                  REAL NOT NULL,
    answer_in_retrieved INTEGER NOT NULL CHECK (answer_in_retrieved IN (0, 1)),
    tokens              INTEGER NOT NULL, -- written by the model
    PRIMARY KEY (evaluation_id, question_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE promotion (
    night      INTEGER NOT NULL PRIMARY KEY REFERENCES night (number),
    candidate  TEXT NOT NULL REFERENCES model_version (id),
    incumbent  TEXT NOT NULL REFERENCES model_version (id),
    promoted   INTEGER NOT NULL CHECK (promoted IN (0, 1)),
    reason     TEXT NOT NULL,
    delta      REAL, -- NULL, like the interval: the night ended before a comparison
    ci_low     REAL,
    ci_high    REAL,
    decided_at TEXT NOT NULL
) STRICT;
