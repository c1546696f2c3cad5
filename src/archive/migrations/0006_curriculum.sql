-- Where rollouts began, why the curriculum leaves tasks out, and how temperatures were chosen.

-- The rollout that a group goes on from; a group without a row began with its question.
CREATE TABLE group_start (
    task_id      TEXT NOT NULL REFERENCES task (id),
    night        INTEGER NOT NULL REFERENCES night (number),
    round        INTEGER NOT NULL,
    kind         TEXT NOT NULL CHECK (kind IN ('improve', 'diverge', 'continue')),
    depth        INTEGER NOT NULL CHECK (depth > 0), -- rollouts that lie before it
    from_night   INTEGER NOT NULL,
    from_round   INTEGER NOT NULL,
    from_ordinal INTEGER NOT NULL,
    steps        INTEGER, -- of the earlier rollout that are kept; NULL for all
    PRIMARY KEY (task_id, night, round),
    FOREIGN KEY (task_id, from_night, from_round, from_ordinal)
        REFERENCES rollout (task_id, night, round, ordinal)
) STRICT, WITHOUT ROWID;

CREATE INDEX group_start_from ON group_start (task_id, from_night, from_round, from_ordinal);

-- How every group went, without its tokens.
CREATE INDEX rollout_outcome
    ON rollout (task_id, night, round, model_version, stop, exact_match, reward);

-- Every change of a task's standing in the curriculum; the last row's holds. A task without one is
-- active.
CREATE TABLE standing (
    task_id  TEXT NOT NULL REFERENCES task (id),
    ordinal  INTEGER NOT NULL,
    night    INTEGER NOT NULL REFERENCES night (number),
    round    INTEGER NOT NULL, -- before which it changed
    standing TEXT NOT NULL CHECK (standing IN ('active', 'parked', 'resting')),
    reason   TEXT NOT NULL,
    attempts INTEGER NOT NULL, -- that it was decided by
    solved   INTEGER NOT NULL CHECK (solved BETWEEN 0 AND attempts),
    PRIMARY KEY (task_id, ordinal)
) STRICT, WITHOUT ROWID;

-- Rollouts that were drawn to choose a temperature. Nothing learns from them, and they count for no
-- task.
CREATE TABLE balance_sample (
    night       INTEGER NOT NULL REFERENCES night (number),
    round       INTEGER NOT NULL,
    task_id     TEXT NOT NULL REFERENCES task (id),
    temperature REAL NOT NULL,
    ordinal     INTEGER NOT NULL,
    reward      REAL NOT NULL,
    exact_match REAL NOT NULL,
    trajectory  TEXT NOT NULL, -- hash of what the model wrote
    PRIMARY KEY (night, round, task_id, temperature, ordinal)
) STRICT, WITHOUT ROWID;

CREATE INDEX balance_sample_task ON balance_sample (task_id);

-- What a round was played with, and all that the choice was made from.
CREATE TABLE balance_decision (
    night         INTEGER NOT NULL REFERENCES night (number),
    round         INTEGER NOT NULL,
    model_version TEXT NOT NULL REFERENCES model_version (id), -- that was tried
    temperature   REAL NOT NULL,
    threshold     REAL NOT NULL,
    score         REAL NOT NULL,
    permuted      INTEGER NOT NULL CHECK (permuted IN (0, 1)),
    figures_json  TEXT NOT NULL CHECK (json_valid(figures_json)),
    PRIMARY KEY (night, round)
) STRICT, WITHOUT ROWID;
