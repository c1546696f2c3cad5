-- What lists filter and sort by, one row per rollout, and the links that lineage lacked.
--
-- `number` is the order in which drafts came; lists page by it. It is not content, and not compared.
-- The columns that need more than SQL (question_hash, steps_json, tokens, logprobs) are filled by
-- src/archive/migrate.rs, which also drops the tables that they come from.

-- Which passages stood where: the corpus that something was made from.
CREATE TABLE corpus_version (
    id            TEXT NOT NULL PRIMARY KEY, -- hash of documents, passages and their places
    documents     INTEGER NOT NULL,
    passages      INTEGER NOT NULL,
    first_seen_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- How tokens were drawn.
CREATE TABLE sampling (
    id            TEXT NOT NULL PRIMARY KEY, -- hash of the settings
    settings_json TEXT NOT NULL CHECK (json_valid(settings_json))
) STRICT, WITHOUT ROWID;

-- Nights and evaluations, with a check that older SQLite programs do not take for broken: to them
-- json_valid(NULL) is false. ------------------------------------------------------------------

CREATE TABLE new_night (
    number        INTEGER NOT NULL PRIMARY KEY CHECK (number > 0),
    seed          INTEGER NOT NULL, -- the bits of an unsigned 64-bit number
    settings_json TEXT NOT NULL CHECK (json_valid(settings_json)),
    state         TEXT NOT NULL CHECK (state IN ('running', 'finished')),
    report_json   TEXT CHECK (report_json IS NULL OR json_valid(report_json)),
    started_at    TEXT NOT NULL,
    finished_at   TEXT
) STRICT;

INSERT INTO new_night SELECT number, seed, settings_json, state, report_json, started_at, finished_at
FROM night;
DROP TABLE night;
ALTER TABLE new_night RENAME TO night;
CREATE UNIQUE INDEX night_running ON night (state) WHERE state = 'running';

CREATE TABLE new_evaluation (
    id            TEXT NOT NULL PRIMARY KEY,
    night         INTEGER NOT NULL REFERENCES night (number),
    suite_id      TEXT NOT NULL REFERENCES suite (id),
    model_version TEXT NOT NULL REFERENCES model_version (id),
    prompt        TEXT NOT NULL,
    metrics_json  TEXT CHECK (metrics_json IS NULL OR json_valid(metrics_json)),
    finished_at   TEXT -- NULL, like the metrics, until all questions are answered
) STRICT;

INSERT INTO new_evaluation
SELECT id, night, suite_id, model_version, prompt, metrics_json, finished_at FROM evaluation;
DROP TABLE evaluation;
ALTER TABLE new_evaluation RENAME TO evaluation;

-- Drafts and tasks ---------------------------------------------------------------------------

CREATE TABLE new_draft (
    number         INTEGER NOT NULL PRIMARY KEY,
    id             TEXT NOT NULL UNIQUE,
    night          INTEGER REFERENCES night (number), -- NULL for a person's
    origin         TEXT NOT NULL CHECK (origin IN ('code', 'model', 'person')),
    seed_id        TEXT NOT NULL REFERENCES seed (id),
    question       TEXT,
    transcript     TEXT,
    model_version  TEXT NOT NULL, -- 'code' or 'person' for hands that are no model version
    rejection      TEXT,          -- of the first required check that turned it away; NULL: a task
    corpus_version TEXT REFERENCES corpus_version (id) -- NULL where it was not noted
) STRICT;

INSERT INTO new_draft (number, id, night, origin, seed_id, question, transcript, model_version,
                       rejection)
SELECT row_number() OVER (ORDER BY night, rowid), id, night, origin, seed_id, question, transcript,
       model_version,
       (SELECT v.rejection FROM verdict v
        WHERE v.draft_id = draft.id AND v.required = 1 AND v.rejection IS NOT NULL
        ORDER BY v.ordinal LIMIT 1)
FROM draft;

CREATE TABLE new_task (
    number         INTEGER NOT NULL PRIMARY KEY REFERENCES draft (number),
    id             TEXT NOT NULL UNIQUE REFERENCES draft (id),
    origin         TEXT NOT NULL CHECK (origin IN ('code', 'model', 'person')),
    question_hash  INTEGER NOT NULL, -- of the question reduced to its words, for duplicates
    kind           TEXT NOT NULL,
    hops           INTEGER NOT NULL,
    split          TEXT NOT NULL CHECK (split IN ('train', 'heldout')),
    night          INTEGER REFERENCES night (number),
    document_id    TEXT NOT NULL REFERENCES document (id), -- where its first passage stood
    proposed_by    TEXT NOT NULL, -- the draft's model version
    played_by      TEXT REFERENCES model_version (id), -- the version of its latest rollout
    state          TEXT NOT NULL CHECK (state IN ('active', 'stale', 'retired')),
    state_reason   TEXT CHECK ((state_reason IS NULL) = (state = 'active')),
    attempts       INTEGER NOT NULL DEFAULT 0,
    solved         INTEGER NOT NULL DEFAULT 0 CHECK (solved BETWEEN 0 AND attempts),
    -- The share of attempts that failed; -1 before the first.
    difficulty     REAL NOT NULL GENERATED ALWAYS AS
                   (iif(attempts = 0, -1.0, 1.0 - CAST(solved AS REAL) / attempts)),
    band           TEXT NOT NULL GENERATED ALWAYS AS (CASE
                       WHEN attempts = 0 THEN 'untried'
                       WHEN solved = 0 THEN 'never'
                       WHEN solved = attempts THEN 'always'
                       WHEN solved * 3 < attempts THEN 'hard'
                       WHEN solved * 3 > attempts * 2 THEN 'easy'
                       ELSE 'medium' END)
) STRICT;

INSERT INTO new_task (number, id, origin, question_hash, kind, hops, split, night, document_id,
                      proposed_by, played_by, state, state_reason, attempts, solved)
SELECT d.number, t.id, t.origin, 0, t.kind,
       (SELECT count(*) FROM task_evidence e WHERE e.task_id = t.id), t.split, t.night,
       (SELECT doc.id FROM task_evidence e
        JOIN document_passage dp ON dp.passage_id = e.passage_id
        JOIN document doc ON doc.id = dp.document_id
        WHERE e.task_id = t.id
        ORDER BY e.ordinal, dp.retired OR doc.retired, doc.split = 'train', doc.id LIMIT 1),
       d.model_version,
       (SELECT r.model_version FROM rollout r WHERE r.task_id = t.id
        ORDER BY r.night DESC, r.round DESC LIMIT 1),
       t.state, t.retired_reason, t.attempts, t.solved
FROM task t JOIN new_draft d ON d.id = t.id
ORDER BY d.number;

-- What each version made of a task.
CREATE TABLE task_play (
    task_id       TEXT NOT NULL REFERENCES task (id),
    model_version TEXT NOT NULL REFERENCES model_version (id),
    attempts      INTEGER NOT NULL CHECK (attempts > 0),
    solved        INTEGER NOT NULL CHECK (solved BETWEEN 0 AND attempts),
    PRIMARY KEY (task_id, model_version)
) STRICT, WITHOUT ROWID;

INSERT INTO task_play (task_id, model_version, attempts, solved)
SELECT r.task_id, r.model_version, count(*), sum(s.exact_match >= 0.5)
FROM rollout r JOIN score s ON s.rollout_id = r.id
GROUP BY r.task_id, r.model_version;

DROP TABLE draft;
ALTER TABLE new_draft RENAME TO draft;
DROP TABLE task;
ALTER TABLE new_task RENAME TO task;

CREATE INDEX draft_fate ON draft (night, origin, rejection);
CREATE INDEX draft_rejection ON draft (rejection);
CREATE INDEX draft_seed ON draft (seed_id);

-- One per filter of `task list`, in the order in which tasks came and in that of difficulty.
CREATE INDEX task_question_hash ON task (question_hash);
CREATE INDEX task_difficulty ON task (difficulty);
CREATE INDEX task_band ON task (band);
CREATE INDEX task_origin ON task (origin);
CREATE INDEX task_origin_difficulty ON task (origin, difficulty);
CREATE INDEX task_hops ON task (hops);
CREATE INDEX task_hops_difficulty ON task (hops, difficulty);
CREATE INDEX task_state ON task (state);
CREATE INDEX task_state_difficulty ON task (state, difficulty);
CREATE INDEX task_night ON task (night);
CREATE INDEX task_night_difficulty ON task (night, difficulty);
CREATE INDEX task_document ON task (document_id);
CREATE INDEX task_proposed_by ON task (proposed_by);
CREATE INDEX task_proposed_by_difficulty ON task (proposed_by, difficulty);
CREATE INDEX task_played_by ON task (played_by);
CREATE INDEX task_played_by_difficulty ON task (played_by, difficulty);

-- The words of questions and answers, by the task's number.
CREATE VIRTUAL TABLE task_words USING fts5 (
    question, answer,
    content = '', contentless_delete = 1, tokenize = 'unicode61 remove_diacritics 2'
);

INSERT INTO task_words (rowid, question, answer)
SELECT t.number, d.question, s.answer
FROM task t JOIN draft d ON d.number = t.number JOIN seed s ON s.id = d.seed_id;

-- For people and their tools: a task with its words.
CREATE VIEW task_view AS
SELECT t.number, t.id, t.origin, d.question, s.answer, t.kind, t.hops, t.split, t.night,
       t.document_id, doc.title AS topic, t.proposed_by, t.played_by, t.state, t.state_reason,
       t.attempts, t.solved, iif(t.attempts = 0, NULL, t.difficulty) AS difficulty, t.band
FROM task t
JOIN draft d ON d.number = t.number
JOIN seed s ON s.id = d.seed_id
JOIN document doc ON doc.id = t.document_id;

-- Tasks that went through the gate again, because their evidence changed.
CREATE TABLE verification (
    task_id        TEXT NOT NULL REFERENCES task (id),
    ordinal        INTEGER NOT NULL,
    night          INTEGER NOT NULL REFERENCES night (number),
    corpus_version TEXT REFERENCES corpus_version (id),
    accepted       INTEGER NOT NULL CHECK (accepted IN (0, 1)),
    evidence_json  TEXT NOT NULL CHECK (json_valid(evidence_json)),
    verdicts_json  TEXT NOT NULL CHECK (json_valid(verdicts_json)),
    PRIMARY KEY (task_id, ordinal)
) STRICT, WITHOUT ROWID;

-- Rollouts -----------------------------------------------------------------------------------

-- What rollouts begin with, once for all that share it: a group does. Blobs, here and below: zlib
-- over little-endian numbers of 32 bits.
CREATE TABLE prompt (
    id     TEXT NOT NULL PRIMARY KEY, -- hash of the tokens
    tokens BLOB NOT NULL
) STRICT;

-- A token sequence with its score.
CREATE TABLE new_rollout (
    task_id        TEXT NOT NULL REFERENCES task (id),
    night          INTEGER NOT NULL REFERENCES night (number),
    round          INTEGER NOT NULL,
    ordinal        INTEGER NOT NULL, -- within the group
    model_version  TEXT NOT NULL REFERENCES model_version (id),
    sampling_id    TEXT REFERENCES sampling (id), -- NULL where it was not noted
    prompt_id      TEXT REFERENCES prompt (id), -- a first step that the model did not write
    answer         TEXT,
    stop           TEXT NOT NULL,
    queries_json   TEXT NOT NULL CHECK (json_valid(queries_json)),
    retrieved_json TEXT NOT NULL CHECK (json_valid(retrieved_json)),
    steps_json     TEXT NOT NULL CHECK (json_valid(steps_json)), -- further [owner, tokens]
    tokens         BLOB NOT NULL, -- of these steps
    logprobs       BLOB NOT NULL, -- of the model's tokens
    exact_match    REAL NOT NULL,
    f1             REAL NOT NULL,
    reward         REAL NOT NULL,
    PRIMARY KEY (task_id, night, round, ordinal)
) STRICT;

-- Trainer ------------------------------------------------------------------------------------

-- What an optimiser step learnt from.
CREATE TABLE train_item (
    night   INTEGER NOT NULL,
    phase   TEXT NOT NULL,
    adapter TEXT NOT NULL,
    step    INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    task_id TEXT NOT NULL REFERENCES task (id),
    round   INTEGER, -- of the rollout, like its ordinal; NULL for a demonstration
    rollout INTEGER,
    PRIMARY KEY (night, phase, adapter, step, ordinal),
    FOREIGN KEY (night, phase, adapter, step)
        REFERENCES train_step (night, phase, adapter, step)
) STRICT, WITHOUT ROWID;

CREATE INDEX train_item_task ON train_item (task_id);

-- Which version was live, one after another; the last row's is.
CREATE TABLE live_change (
    number        INTEGER NOT NULL PRIMARY KEY,
    model_version TEXT NOT NULL REFERENCES model_version (id),
    reason        TEXT NOT NULL,
    changed_at    TEXT NOT NULL
) STRICT;

INSERT INTO live_change (model_version, reason, changed_at)
SELECT candidate, 'promoted in night ' || night, decided_at FROM promotion
WHERE promoted = 1 ORDER BY night;

-- People -------------------------------------------------------------------------------------

-- What a person decided about a task.
CREATE TABLE curation (
    task_id     TEXT NOT NULL REFERENCES task (id),
    ordinal     INTEGER NOT NULL,
    action      TEXT NOT NULL
                CHECK (action IN ('accept', 'reject', 'edit', 'retire', 'restore')),
    note        TEXT NOT NULL,
    replaced_by TEXT REFERENCES task (id), -- what an edit made of it
    decided_at  TEXT NOT NULL,
    PRIMARY KEY (task_id, ordinal)
) STRICT, WITHOUT ROWID;

-- What was taken out on request. It names nothing that was in it.
CREATE TABLE removal (
    number        INTEGER NOT NULL PRIMARY KEY,
    document_id   TEXT NOT NULL,
    passages      INTEGER NOT NULL,
    drafts        INTEGER NOT NULL,
    tasks         INTEGER NOT NULL,
    rollouts      INTEGER NOT NULL,
    adapters_json TEXT NOT NULL CHECK (json_valid(adapters_json)), -- versions trained on it
    removed_at    TEXT NOT NULL
) STRICT;
