-- By what questions that are nearly the same are found: 64 minimum hashes of the words and pairs of
-- words of a task's question, of each the lowest byte (src/verifier/minhash.rs). Filled by
-- src/archive/migrate.rs.
CREATE TABLE task_minhash (
    number    INTEGER NOT NULL PRIMARY KEY REFERENCES task (number),
    signature BLOB NOT NULL CHECK (length(signature) = 64)
) STRICT;
