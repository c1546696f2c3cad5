#!/usr/bin/env python3
"""Makes tests/fixtures/archive/version-{1,2,3,4,5,6,7}.db: archives as earlier programs wrote them.

    python3 scripts/make_archive_fixtures.py ARCHIVE

ARCHIVE is an archive in which nights were played, written by the program of its time. It is cut
down to a few tasks with all that belongs to them.

One of schema version 3 (the demo of commit 5f39f4a) makes version 3, and versions 1 and 2 by the
migrations of their time (src/archive/migrations), with the rows that those versions had. One of
version 4 (two nights of the counting school of tests/it/night at commit 8b1a819) makes version 4, and
one of version 5 (a night of that school on tests/fixtures/corpus_small.md, then an import of what it
exported of its own documents, at commit 0167e2f) version 5. One of version 6 (the demo of commit
8617393 with 32 drafts by the model and 8 tasks a round) makes version 6, and version 7 by the
migration of its time, which only dropped an index.
"""

import json
import pathlib
import sys

try:
    import pysqlite3 as sqlite3  # version 4 indexes words as SQLite 3.43 does
except ImportError:
    import sqlite3

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests/fixtures/archive"
MIGRATIONS = ROOT / "src/archive/migrations"

TABLES_1 = [
    "meta", "night", "source_file", "document", "source_document", "passage", "document_passage",
    "seed", "seed_passage", "draft", "verdict", "task", "task_evidence", "task_parent", "unit",
]
TABLES_2 = [
    "model_version", "live_model", "rollout", "step", "score", "suite", "suite_item", "evaluation",
    "evaluation_item", "promotion", "train_step",
]

# What stays: tasks of both hands, tried and not; some rejected drafts; the beginning of the rest.
CUT = """
CREATE TEMP TABLE kept AS
    SELECT id FROM (SELECT id FROM task WHERE attempts > 0 ORDER BY origin = 'code', id LIMIT 3)
    UNION SELECT id FROM (SELECT id FROM task WHERE attempts > 0 AND origin = 'code'
                          ORDER BY id LIMIT 1)
    UNION SELECT id FROM (SELECT id FROM task WHERE attempts = 0 AND origin = 'code'
                          ORDER BY id LIMIT 2);
CREATE TEMP TABLE drafts AS
    SELECT id FROM kept UNION
    SELECT id FROM (SELECT id FROM draft WHERE id NOT IN (SELECT id FROM task)
                    ORDER BY origin = 'code', id LIMIT 3);
DELETE FROM step WHERE rollout_id NOT IN
    (SELECT id FROM rollout WHERE task_id IN (SELECT id FROM kept));
DELETE FROM score WHERE rollout_id NOT IN
    (SELECT id FROM rollout WHERE task_id IN (SELECT id FROM kept));
DELETE FROM rollout WHERE task_id NOT IN (SELECT id FROM kept);
DELETE FROM task_evidence WHERE task_id NOT IN (SELECT id FROM kept);
DELETE FROM task_parent;
DELETE FROM task WHERE id NOT IN (SELECT id FROM kept);
DELETE FROM verdict WHERE draft_id NOT IN (SELECT id FROM drafts);
DELETE FROM draft WHERE id NOT IN (SELECT id FROM drafts);
DELETE FROM seed_passage WHERE seed_id NOT IN (SELECT seed_id FROM draft);
DELETE FROM seed WHERE id NOT IN (SELECT seed_id FROM draft);
DELETE FROM document_passage WHERE passage_id NOT IN
    (SELECT passage_id FROM task_evidence UNION SELECT passage_id FROM seed_passage);
DELETE FROM passage WHERE id NOT IN (SELECT passage_id FROM document_passage);
DELETE FROM source_document WHERE document_id NOT IN (SELECT document_id FROM document_passage);
DELETE FROM document WHERE id NOT IN (SELECT document_id FROM document_passage);
DELETE FROM source_file WHERE path NOT IN (SELECT path FROM source_document);
DELETE FROM suite_item WHERE ordinal >= 4;
DELETE FROM evaluation_item WHERE question_id NOT IN (SELECT question_id FROM suite_item);
DELETE FROM train_step WHERE step >= 3;
DELETE FROM meta WHERE key <> 'corpus_roots';
UPDATE night SET report_json = json_replace(report_json, '$.home', '/home');
"""


# The same from version 4 on, where a rollout is one row and tasks go by number, too.
CUT_4 = """
CREATE TEMP TABLE kept AS
    SELECT id FROM (SELECT id FROM task WHERE attempts > 0 ORDER BY solved = 0, origin = 'code', id
                    LIMIT 4)
    UNION SELECT id FROM (SELECT id FROM task WHERE attempts = 0 AND origin = 'code'
                          ORDER BY id LIMIT 2)
    UNION SELECT task_id FROM verification
    {more};
CREATE TEMP TABLE drafts AS
    SELECT id FROM kept UNION
    SELECT id FROM (SELECT id FROM draft WHERE rejection IS NOT NULL
                    ORDER BY origin = 'code', id LIMIT 3);
DELETE FROM train_item WHERE task_id NOT IN (SELECT id FROM kept);
DELETE FROM rollout WHERE task_id NOT IN (SELECT id FROM kept);
DELETE FROM task_play WHERE task_id NOT IN (SELECT id FROM kept);
{proposals}
DELETE FROM prompt WHERE id NOT IN (SELECT prompt_id FROM rollout WHERE prompt_id NOT NULL
    {prompts});
DELETE FROM task_evidence WHERE task_id NOT IN (SELECT id FROM kept);
DELETE FROM task_parent WHERE task_id NOT IN (SELECT id FROM kept);
DELETE FROM task_words WHERE rowid IN (SELECT number FROM task WHERE id NOT IN
    (SELECT id FROM kept));
{deletions}
DELETE FROM task WHERE id NOT IN (SELECT id FROM kept);
DELETE FROM verdict WHERE draft_id NOT IN (SELECT id FROM drafts);
DELETE FROM draft WHERE id NOT IN (SELECT id FROM drafts);
DELETE FROM seed_passage WHERE seed_id NOT IN (SELECT seed_id FROM draft);
DELETE FROM seed WHERE id NOT IN (SELECT seed_id FROM draft);
DELETE FROM document_passage WHERE passage_id NOT IN
    (SELECT passage_id FROM task_evidence UNION SELECT passage_id FROM seed_passage);
DELETE FROM passage WHERE id NOT IN (SELECT passage_id FROM document_passage);
{documents}
DELETE FROM suite_item WHERE ordinal >= 4;
DELETE FROM evaluation_item WHERE question_id NOT IN (SELECT question_id FROM suite_item);
DELETE FROM train_item WHERE step >= 3;
DELETE FROM train_step WHERE step >= 3;
DELETE FROM meta WHERE key NOT IN ('corpus_roots', 'corpus_version');
UPDATE model_version SET path = 'model' WHERE kind = 'base';
UPDATE night SET report_json = json_replace(report_json, '$.home', '/home'),
                 settings_json = json_replace(settings_json, '$.model', 'model');
"""


def columns(db, table):
    return [row[1] for row in db.execute(f"PRAGMA table_info({table})")]


def empty(path, version):
    """An archive of a version without rows."""
    path.unlink(missing_ok=True)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = wal")
    for migration in sorted(MIGRATIONS.glob("*.sql"))[:version]:
        db.executescript(migration.read_text())
    db.execute(f"PRAGMA user_version = {version}")
    return db


def fill(db, source, tables, changes=""):
    """Copies the columns that both have."""
    db.execute("ATTACH ? AS source", (str(source),))
    db.execute("BEGIN")
    db.execute("PRAGMA defer_foreign_keys = 1")
    for table in tables:
        both = ", ".join(c for c in columns(db, table))
        db.execute(f"INSERT INTO main.{table} ({both}) SELECT {both} FROM source.{table}")
    db.execute(changes or "SELECT 1")
    db.execute("COMMIT")
    db.execute("DETACH source")


def finish(db, path):
    broken = db.execute("PRAGMA foreign_key_check").fetchall()
    whole = db.execute("PRAGMA integrity_check").fetchall()
    assert not broken and whole == [("ok",)], (broken, whole)
    tasks = db.execute("SELECT count(*) FROM task").fetchone()[0]
    db.execute("VACUUM")
    db.close()
    print(f"{path.relative_to(ROOT)}: {tasks} tasks, {path.stat().st_size} bytes")


# What later versions have beside, as they keep and delete it.
IMPORTED = {
    "more": "UNION SELECT id FROM (SELECT task_id AS id FROM imported ORDER BY id LIMIT 2)",
    "deletions": "DELETE FROM imported WHERE task_id NOT IN (SELECT id FROM kept);",
}
NO_PROPOSALS = {"proposals": "", "prompts": "", "documents": ""}
PROPOSALS = {
    **IMPORTED,
    "proposals": """DELETE FROM proposal WHERE draft_id NOT IN (SELECT id FROM drafts);
DELETE FROM train_draft WHERE step >= 3 OR draft_id NOT IN (SELECT id FROM drafts);
DELETE FROM task_minhash WHERE number NOT IN
    (SELECT number FROM task WHERE id IN (SELECT id FROM kept));""",
    "documents": """DELETE FROM source_document WHERE document_id NOT IN
    (SELECT document_id FROM document_passage);
DELETE FROM document WHERE id NOT IN (SELECT document_id FROM document_passage);""",
    "prompts": "UNION SELECT prompt_id FROM proposal WHERE prompt_id NOT NULL",
}
CUTS = {
    4: {"more": "", "deletions": "", **NO_PROPOSALS},
    5: {**IMPORTED, **NO_PROPOSALS},
    6: PROPOSALS,
}


def make_seven():
    """Version 6, migrated."""
    seven = FIXTURES / "version-7.db"
    seven.write_bytes((FIXTURES / "version-6.db").read_bytes())
    db = sqlite3.connect(seven, isolation_level=None)
    db.executescript((MIGRATIONS / "0007_outcomes.sql").read_text())
    db.execute("PRAGMA user_version = 7")
    finish(db, seven)


def make_later(archive, version):
    """Its file is taken as it is: words are indexed in tables of their own."""
    path = FIXTURES / f"version-{version}.db"
    path.unlink(missing_ok=True)
    source, db = sqlite3.connect(archive), sqlite3.connect(path, isolation_level=None)
    source.backup(db)
    db.execute("PRAGMA foreign_keys = 0")
    db.executescript("BEGIN;" + CUT_4.format(**CUTS[version]) + "COMMIT;")
    db.execute("INSERT INTO task_words (task_words) VALUES ('optimize')")
    hide_roots(db)
    finish(db, path)
    if version == 6:
        make_seven()


def hide_roots(db):
    """Where the corpus lay on the machine of that night is nobody's business."""
    where = "WHERE key = 'corpus_roots'"
    roots = json.loads(db.execute("SELECT value FROM meta " + where).fetchone()[0])
    for root in roots:
        root["path"] = "/corpus/" + root["label"]
    roots = json.dumps(roots, separators=(",", ":"))
    db.execute("UPDATE meta SET value = ? " + where, (roots,))


def main(archive):
    FIXTURES.mkdir(parents=True, exist_ok=True)
    version, = sqlite3.connect(archive).execute("PRAGMA user_version").fetchone()
    if version in CUTS:
        return make_later(archive, version)
    three = FIXTURES / "version-3.db"
    db = empty(three, 3)
    fill(db, archive, TABLES_1 + TABLES_2)
    db.executescript("BEGIN;" + CUT + "COMMIT;")
    hide_roots(db)
    finish(db, three)

    two = FIXTURES / "version-2.db"
    db = empty(two, 2)
    fill(db, three, TABLES_1 + TABLES_2)
    finish(db, two)

    one = FIXTURES / "version-1.db"
    db = empty(one, 1)
    # Nothing was played yet: the programs of that version had no solver.
    fill(db, three, TABLES_1, "UPDATE task SET attempts = 0, solved = 0")
    db.execute("DELETE FROM unit WHERE phase NOT IN ('propose_code', 'propose_model')")
    finish(db, one)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]).resolve())
