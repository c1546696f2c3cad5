#!/usr/bin/env python3
"""Writes corpus/manifest.toml: every bundled file with its role, licence, source, size and hash.

    python3 scripts/make_corpus_manifest.py
"""

import hashlib
import pathlib

CORPUS = pathlib.Path(__file__).resolve().parent.parent / "corpus"
HEAD = """\
# Made by scripts/make_corpus_manifest.py; a test compares it with the files.
#
# role: documents = ingested; questions = the held-out suite, never ingested;
#       notes = licences and explanations, never ingested.

schema_version = 1
"""
VITAL = "Lead summaries of English Wikipedia articles (Level 4 vital articles)"
SQUAD = "SQuAD v1.1 development set (Rajpurkar et al. 2016), paragraphs from English Wikipedia"


def describe(path: pathlib.PurePath) -> tuple[str, str, str]:
    """Role, licence and source of a bundled file."""
    if path.name in ("ATTRIBUTION.md", "README.md"):
        return "notes", "CC-BY-SA-4.0", "written for this repository"
    if path.parts[0] == "default":
        return "documents", "CC-BY-SA-4.0", VITAL
    role = {"passages.jsonl": "documents", "questions.jsonl": "questions"}[path.name]
    return role, "CC-BY-SA-4.0", SQUAD


def main() -> None:
    parts = [HEAD]
    for path in sorted(p for p in CORPUS.rglob("*") if p.suffix in (".md", ".jsonl")):
        name = path.relative_to(CORPUS)
        role, licence, source = describe(name)
        content = path.read_bytes()
        parts.append(
            f'[[file]]\npath = "{name.as_posix()}"\nrole = "{role}"\nlicense = "{licence}"\n'
            f'source = "{source}"\nbytes = {len(content)}\n'
            f'sha256 = "{hashlib.sha256(content).hexdigest()}"\n'
        )
    (CORPUS / "manifest.toml").write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
