-- Rollouts and proposals whose tokens were removed: their rows stay, with empty blobs and no prompt.

-- What was decided at the end of a night; the blobs follow.
CREATE TABLE token_removal (
    night       INTEGER NOT NULL PRIMARY KEY REFERENCES night (number),
    until_night INTEGER NOT NULL CHECK (until_night > 0), -- of this night and of those before it
    done_at     TEXT -- NULL while blobs may be left
) STRICT;
