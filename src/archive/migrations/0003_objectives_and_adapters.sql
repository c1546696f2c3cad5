-- Which objective and which adapter a step trained, which adapters a version has, and whether its
-- weights are still there.

-- Adapters are trained side by side, so a step's key names its own.
CREATE TABLE train_step_by_adapter (
    night         INTEGER NOT NULL REFERENCES night (number),
    phase         TEXT NOT NULL CHECK (phase IN ('warm_start', 'policy')),
    adapter       TEXT NOT NULL CHECK (adapter IN ('shared', 'solver', 'proposer')),
    step          INTEGER NOT NULL,
    objective     TEXT NOT NULL CHECK (objective IN ('policy_gradient', 'likelihood', 'preference')),
    model_version TEXT NOT NULL, -- the version in the making
    metrics_json  TEXT NOT NULL CHECK (json_valid(metrics_json)),
    PRIMARY KEY (night, phase, adapter, step)
) STRICT, WITHOUT ROWID;

INSERT INTO train_step_by_adapter
    (night, phase, adapter, step, objective, model_version, metrics_json)
SELECT night, phase, 'shared', step,
       CASE phase WHEN 'warm_start' THEN 'likelihood' ELSE 'policy_gradient' END,
       model_version, metrics_json
FROM train_step;

DROP TABLE train_step;
ALTER TABLE train_step_by_adapter RENAME TO train_step;

-- NULL for a base.
ALTER TABLE model_version ADD COLUMN adapters TEXT CHECK (adapters IN ('shared', 'per_role'));
UPDATE model_version SET adapters = 'shared' WHERE kind = 'adapter';

-- The night at whose end the version's weights were removed; NULL while they are there.
ALTER TABLE model_version ADD COLUMN removed_night INTEGER REFERENCES night (number);
