-- The corpus, the game played on it, and the intent log.
--
-- Rules that src/archive/digest.rs relies on: every table has a primary key made of content;
-- columns that end in _at or _seconds hold clock times and are not compared; columns that end in
-- _json hold JSON.

PRAGMA application_id = 0x4E534348; -- "NSCH"

CREATE TABLE meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Nights and the intent log ------------------------------------------------------------------

CREATE TABLE night (
    number        INTEGER NOT NULL PRIMARY KEY CHECK (number > 0),
    seed          INTEGER NOT NULL, -- the bits of an unsigned 64-bit number
    settings_json TEXT NOT NULL CHECK (json_valid(settings_json)),
    state         TEXT NOT NULL CHECK (state IN ('running', 'finished')),
    report_json   TEXT CHECK (json_valid(report_json)),
    started_at    TEXT NOT NULL,
    finished_at   TEXT
) STRICT;

-- At most one night is under way.
CREATE UNIQUE INDEX night_running ON night (state) WHERE state = 'running';

-- A row says that the unit's results are in the archive: both are written by one transaction.
CREATE TABLE unit (
    night   INTEGER NOT NULL REFERENCES night (number),
    phase   TEXT NOT NULL,
    key     TEXT NOT NULL,
    done_at TEXT NOT NULL,
    PRIMARY KEY (night, phase, key)
) STRICT, WITHOUT ROWID;

-- Corpus -------------------------------------------------------------------------------------

CREATE TABLE source_file (
    path         TEXT NOT NULL PRIMARY KEY,
    content_hash TEXT NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('read', 'skipped', 'vanished')),
    reason       TEXT -- why it was skipped
) STRICT, WITHOUT ROWID;

CREATE TABLE document (
    id            TEXT NOT NULL PRIMARY KEY,
    title         TEXT NOT NULL,
    split         TEXT NOT NULL CHECK (split IN ('train', 'heldout')),
    retired       INTEGER NOT NULL CHECK (retired IN (0, 1)),
    first_seen_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Which files hold a document. Two copies of a file hold the same one.
CREATE TABLE source_document (
    path        TEXT NOT NULL REFERENCES source_file (path),
    document_id TEXT NOT NULL REFERENCES document (id),
    retired     INTEGER NOT NULL CHECK (retired IN (0, 1)),
    PRIMARY KEY (path, document_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX source_document_document ON source_document (document_id);

CREATE TABLE passage (
    id      TEXT NOT NULL PRIMARY KEY,
    title   TEXT NOT NULL,
    text    TEXT NOT NULL,
    retired INTEGER NOT NULL CHECK (retired IN (0, 1))
) STRICT;

-- Where a passage stands. Rows of passages that went away stay, as evidence of tasks.
CREATE TABLE document_passage (
    document_id TEXT NOT NULL REFERENCES document (id),
    passage_id  TEXT NOT NULL REFERENCES passage (id),
    ordinal     INTEGER NOT NULL,
    retired     INTEGER NOT NULL CHECK (retired IN (0, 1)),
    PRIMARY KEY (document_id, passage_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX document_passage_passage ON document_passage (passage_id);

-- Proposer and verifier ----------------------------------------------------------------------

CREATE TABLE seed (
    id     TEXT NOT NULL PRIMARY KEY,
    answer TEXT NOT NULL,
    kind   TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE seed_passage (
    seed_id    TEXT NOT NULL REFERENCES seed (id),
    ordinal    INTEGER NOT NULL,
    passage_id TEXT NOT NULL REFERENCES passage (id),
    PRIMARY KEY (seed_id, ordinal)
) STRICT, WITHOUT ROWID;

CREATE TABLE draft (
    id            TEXT NOT NULL PRIMARY KEY,
    night         INTEGER NOT NULL REFERENCES night (number),
    origin        TEXT NOT NULL CHECK (origin IN ('code', 'model')),
    seed_id       TEXT NOT NULL REFERENCES seed (id),
    question      TEXT,
    transcript    TEXT,
    model_version TEXT NOT NULL -- 'code' for rules, which are no model version
) STRICT;

CREATE INDEX draft_night ON draft (night, origin);

CREATE TABLE verdict (
    draft_id      TEXT NOT NULL REFERENCES draft (id),
    ordinal       INTEGER NOT NULL,
    name          TEXT NOT NULL, -- of the check
    rejection     TEXT,          -- NULL: passed
    required      INTEGER NOT NULL CHECK (required IN (0, 1)),
    evidence_json TEXT NOT NULL CHECK (json_valid(evidence_json)),
    PRIMARY KEY (draft_id, ordinal)
) STRICT, WITHOUT ROWID;

-- Tasks --------------------------------------------------------------------------------------

CREATE TABLE task (
    id             TEXT NOT NULL PRIMARY KEY REFERENCES draft (id),
    origin         TEXT NOT NULL CHECK (origin IN ('code', 'model')),
    question       TEXT NOT NULL,
    question_key   TEXT NOT NULL, -- the question reduced to its words, for the duplicate check
    answer         TEXT NOT NULL,
    kind           TEXT NOT NULL,
    split          TEXT NOT NULL CHECK (split IN ('train', 'heldout')),
    night          INTEGER NOT NULL REFERENCES night (number),
    state          TEXT NOT NULL CHECK (state IN ('active', 'retired')),
    retired_reason TEXT CHECK ((retired_reason IS NULL) = (state = 'active')),
    attempts       INTEGER NOT NULL DEFAULT 0,
    solved         INTEGER NOT NULL DEFAULT 0 CHECK (solved BETWEEN 0 AND attempts)
) STRICT;

CREATE INDEX task_question_key ON task (question_key);
CREATE INDEX task_night ON task (night);

CREATE TABLE task_evidence (
    task_id    TEXT NOT NULL REFERENCES task (id),
    ordinal    INTEGER NOT NULL,
    passage_id TEXT NOT NULL REFERENCES passage (id),
    PRIMARY KEY (task_id, ordinal)
) STRICT, WITHOUT ROWID;

CREATE INDEX task_evidence_passage ON task_evidence (passage_id);

CREATE TABLE task_parent (
    task_id   TEXT NOT NULL REFERENCES task (id),
    ordinal   INTEGER NOT NULL,
    parent_id TEXT NOT NULL REFERENCES task (id),
    PRIMARY KEY (task_id, ordinal),
    CHECK (task_id <> parent_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX task_parent_parent ON task_parent (parent_id);
