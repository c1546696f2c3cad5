-- What keeps a decision honest: general text, a sealed suite, going back.

-- How well a version predicts text of which no home is taught.
CREATE TABLE text_loss (
    model_version TEXT NOT NULL REFERENCES model_version (id),
    text          TEXT NOT NULL, -- hash of the text
    tokens        INTEGER NOT NULL,
    loss          REAL NOT NULL, -- mean, nats per token
    PRIMARY KEY (model_version, text)
) STRICT, WITHOUT ROWID;

-- Readings of the sealed suite: the gain in F1 of a version over the reference, there and on the
-- suite that decides, and how much larger it is on the latter.
CREATE TABLE sealed_reading (
    night         INTEGER NOT NULL PRIMARY KEY REFERENCES night (number),
    suite_id      TEXT NOT NULL REFERENCES suite (id),
    sealed_id     TEXT NOT NULL REFERENCES suite (id),
    model_version TEXT NOT NULL REFERENCES model_version (id),
    reference     TEXT NOT NULL REFERENCES model_version (id),
    gain          REAL NOT NULL,
    sealed_gain   REAL NOT NULL,
    drift_low     REAL NOT NULL,
    drift_high    REAL NOT NULL,
    drifted       INTEGER NOT NULL CHECK (drifted IN (0, 1))
) STRICT;

-- Live versions that proved worse than the one before them.
CREATE TABLE demotion (
    night         INTEGER NOT NULL REFERENCES night (number),
    suite_id      TEXT NOT NULL REFERENCES suite (id),
    model_version TEXT NOT NULL REFERENCES model_version (id),
    successor     TEXT NOT NULL REFERENCES model_version (id),
    delta         REAL NOT NULL,
    ci_low        REAL NOT NULL,
    ci_high       REAL NOT NULL,
    decided_at    TEXT NOT NULL,
    PRIMARY KEY (night, suite_id)
) STRICT, WITHOUT ROWID;

-- Tokens that the model wrote for a unit; 0 in units from before they were counted.
ALTER TABLE unit ADD COLUMN generated INTEGER NOT NULL DEFAULT 0;
