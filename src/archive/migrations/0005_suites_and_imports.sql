-- Questions of suites by their words, so that no draft repeats one; what an export said of a task
-- that another archive accepted. The hashes are filled by src/archive/migrate.rs.

-- Of the question reduced to its words, as a task's; NULL where a person took them out.
ALTER TABLE suite_item ADD COLUMN question_hash INTEGER;
CREATE INDEX suite_item_question_hash ON suite_item (question_hash);

-- What a task was before an import brought it. Nothing in it is of this archive: its nights and
-- versions are those of the archive that made or played the task.
CREATE TABLE imported (
    task_id      TEXT NOT NULL PRIMARY KEY REFERENCES task (id),
    source       TEXT NOT NULL, -- name of the export's folder, or of the file
    export_hash  TEXT,          -- of the export's seal; NULL where the rows lay in no sealed folder
    night        INTEGER,       -- that accepted it; NULL where a person did
    played_by    TEXT,          -- the version of its latest rollout
    attempts     INTEGER NOT NULL,
    solved       INTEGER NOT NULL CHECK (solved BETWEEN 0 AND attempts),
    plays_json   TEXT NOT NULL CHECK (json_valid(plays_json)),   -- what each version made of it
    parents_json TEXT NOT NULL CHECK (json_valid(parents_json)), -- all of them, here or not
    sources_json TEXT NOT NULL CHECK (json_valid(sources_json))  -- the files of its passages
) STRICT, WITHOUT ROWID;
