-- What the model wrote for its drafts, token by token; what that was worth; what learnt from it.

CREATE TABLE proposal (
    draft_id    TEXT NOT NULL PRIMARY KEY REFERENCES draft (id),
    round       INTEGER NOT NULL,
    sampling_id TEXT NOT NULL REFERENCES sampling (id),
    prompt_id   TEXT REFERENCES prompt (id), -- a first step that the model did not write
    stop        TEXT NOT NULL,
    steps_json  TEXT NOT NULL CHECK (json_valid(steps_json)), -- further [owner, tokens]
    tokens      BLOB NOT NULL, -- of these steps
    logprobs    BLOB NOT NULL, -- of the model's tokens
    attempts    INTEGER, -- NULL, like the next two, until its task was played
    solved      INTEGER CHECK (solved IS NULL OR solved BETWEEN 0 AND attempts),
    reward      REAL CHECK ((reward IS NULL) = (attempts IS NULL))
) STRICT;

CREATE TABLE new_train_step (
    night         INTEGER NOT NULL REFERENCES night (number),
    phase         TEXT NOT NULL CHECK (phase IN ('warm_start', 'policy', 'proposer')),
    adapter       TEXT NOT NULL CHECK (adapter IN ('shared', 'solver', 'proposer')),
    step          INTEGER NOT NULL,
    objective     TEXT NOT NULL CHECK (objective IN ('policy_gradient', 'likelihood', 'preference')),
    model_version TEXT NOT NULL, -- the version in the making
    metrics_json  TEXT NOT NULL CHECK (json_valid(metrics_json)),
    PRIMARY KEY (night, phase, adapter, step)
) STRICT, WITHOUT ROWID;

INSERT INTO new_train_step SELECT night, phase, adapter, step, objective, model_version, metrics_json
FROM train_step;
DROP TABLE train_step;
ALTER TABLE new_train_step RENAME TO train_step;

-- The drafts that an optimiser step learnt from; those that were turned away are no tasks.
CREATE TABLE train_draft (
    night    INTEGER NOT NULL,
    phase    TEXT NOT NULL,
    adapter  TEXT NOT NULL,
    step     INTEGER NOT NULL,
    ordinal  INTEGER NOT NULL,
    draft_id TEXT NOT NULL REFERENCES draft (id),
    PRIMARY KEY (night, phase, adapter, step, ordinal),
    FOREIGN KEY (night, phase, adapter, step)
        REFERENCES train_step (night, phase, adapter, step)
) STRICT, WITHOUT ROWID;

CREATE INDEX train_draft_draft ON train_draft (draft_id);
