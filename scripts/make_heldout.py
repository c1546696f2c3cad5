#!/usr/bin/env python3
"""Draws the bundled held-out suite, and a larger disjoint set for evaluation outside the demo.

    python3 scripts/make_heldout.py QUESTIONS.jsonl PASSAGES.jsonl --eval-out FILE.jsonl

QUESTIONS.jsonl has lines {id, question, answers[], supporting[passage ids]} and PASSAGES.jsonl
lines {id, title, text}: the SQuAD v1.1 development set. Written are

* corpus/heldout/questions.jsonl   100 questions, {id, question, answers[], title, passage};
* corpus/heldout/passages.jsonl    their paragraphs, {id, title, text, source, license};
* FILE.jsonl (not committed)       300 questions, {id, question, answers[]}.

Both draws give every article nearly the same number of questions and take a second question from
a paragraph only when the article has no other left. The 300 share no question with the 100, nor
a paragraph. The order comes from SHA-256 of seed and question id, so it is the same on every
machine and Python version.
"""

import argparse
import hashlib
import json
import pathlib

SEED = "nightschool-heldout-1"
HELDOUT = 100
EVALUATION = 300
FOLDER = pathlib.Path(__file__).resolve().parent.parent / "corpus" / "heldout"
SOURCE = "SQuAD v1.1 development set (Rajpurkar et al. 2016); paragraph from English Wikipedia"
LICENSE = "CC-BY-SA-4.0"


def read_jsonl(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def write_jsonl(path: pathlib.Path, rows: list[dict]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    print(f"{path}: {len(rows)} lines")


def order(draw: str, key: str) -> str:
    """Where `key` stands in the draw called `draw`."""
    return hashlib.sha256(f"{SEED}/{draw}/{key}".encode()).hexdigest()


def draw(name: str, by_article: dict[str, list[dict]], count: int) -> list[dict]:
    """`count` questions, in rounds: one from every article, from paragraphs not yet used."""
    queues = {
        title: sorted(questions, key=lambda question: order(name, question["id"]))
        for title, questions in by_article.items()
    }
    titles = sorted(queues, key=lambda title: order(name, title))
    used: set[str] = set()
    drawn: list[dict] = []
    while len(drawn) < count:
        if not any(queues.values()):
            raise SystemExit(f"only {len(drawn)} of {count} questions could be drawn")
        for title in titles:
            queue = queues[title]
            if not queue or len(drawn) == count:
                continue
            fresh = (q for q in queue if q["supporting"][0] not in used)
            question = next(fresh, queue[0])
            queue.remove(question)
            used.add(question["supporting"][0])
            drawn.append(question)
    return sorted(drawn, key=lambda question: question["id"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("questions", type=pathlib.Path)
    parser.add_argument("passages", type=pathlib.Path)
    parser.add_argument("--eval-out", type=pathlib.Path, required=True, help="where the 300 go")
    arguments = parser.parse_args()

    passages = {row["id"]: row for row in read_jsonl(arguments.passages)}
    by_article: dict[str, list[dict]] = {}
    for question in read_jsonl(arguments.questions):
        title = passages[question["supporting"][0]]["title"]
        by_article.setdefault(title, []).append(question)

    heldout = draw("heldout", by_article, HELDOUT)
    taken = {question["supporting"][0] for question in heldout}
    rest = {
        title: [q for q in questions if q["supporting"][0] not in taken]
        for title, questions in by_article.items()
    }
    evaluation = draw("evaluation", rest, EVALUATION)

    FOLDER.mkdir(parents=True, exist_ok=True)
    write_jsonl(FOLDER / "questions.jsonl", [
        {
            "id": question["id"],
            "question": question["question"],
            "answers": question["answers"],
            "title": passages[question["supporting"][0]]["title"],
            "passage": question["supporting"][0],
        }
        for question in heldout
    ])
    write_jsonl(FOLDER / "passages.jsonl", [
        {
            "id": id,
            "title": passages[id]["title"],
            "text": passages[id]["text"],
            "source": SOURCE,
            "license": LICENSE,
        }
        for id in sorted(taken)
    ])
    write_jsonl(arguments.eval_out, [
        {key: question[key] for key in ("id", "question", "answers")} for question in evaluation
    ])


if __name__ == "__main__":
    main()
