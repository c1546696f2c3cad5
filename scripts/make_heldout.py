#!/usr/bin/env python3
"""Draws the bundled held-out suite, and two sets apart from it: a larger one for evaluation outside
the demo, and one on which the base model's prompt is chosen.

    python3 scripts/make_heldout.py QUESTIONS.jsonl PASSAGES.jsonl --eval-out FILE.jsonl \
        --prompt-out FILE.jsonl [--large-out FILE.jsonl]

QUESTIONS.jsonl has lines {id, question, answers[], supporting[passage ids]} and PASSAGES.jsonl
lines {id, title, text}: the SQuAD v1.1 development set. Written are

* corpus/heldout/questions.jsonl   100 questions, {id, question, answers[], title, passage};
* corpus/heldout/passages.jsonl    their paragraphs, {id, title, text, source, license};
* --eval-out (not committed)       300 questions, {id, question, answers[], supporting[]};
* --prompt-out (not committed)     100 questions, the same;
* --large-out (not committed)      1500 questions, {id, question, answers[], title, passage}, for
                                   docs/experiments.md: in an order of their own, so that the first
                                   500 are a sample too. They share paragraphs with the first two.

Each draw gives every article nearly the same number of questions and takes a second question from
a paragraph only when the article has no other left. No two of the first three draws share a
paragraph. The order comes from SHA-256 of seed and question id, so it is the same on every machine
and Python version.
"""

import argparse
import hashlib
import json
import pathlib

SEED = "nightschool-heldout-1"
HELDOUT = 100
EVALUATION = 300
PROMPT_CHOICE = 100
LARGE = 1500
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


def paragraphs(questions: list[dict]) -> set[str]:
    """The ids of the paragraphs the questions are about."""
    return {question["supporting"][0] for question in questions}


def without(by_article: dict[str, list[dict]], taken: set[str]) -> dict[str, list[dict]]:
    """The questions that are about none of the paragraphs `taken`."""
    return {
        title: [q for q in questions if q["supporting"][0] not in taken]
        for title, questions in by_article.items()
    }


def told(question: dict, passages: dict[str, dict]) -> dict:
    """A question with the article and paragraph that it is about."""
    return {
        "id": question["id"],
        "question": question["question"],
        "answers": question["answers"],
        "title": passages[question["supporting"][0]]["title"],
        "passage": question["supporting"][0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("questions", type=pathlib.Path)
    parser.add_argument("passages", type=pathlib.Path)
    parser.add_argument("--eval-out", type=pathlib.Path, required=True, help="where the 300 go")
    parser.add_argument("--prompt-out", type=pathlib.Path, required=True, help="where the 100 go")
    parser.add_argument("--large-out", type=pathlib.Path, help="where the 1500 go")
    arguments = parser.parse_args()

    passages = {row["id"]: row for row in read_jsonl(arguments.passages)}
    by_article: dict[str, list[dict]] = {}
    for question in read_jsonl(arguments.questions):
        title = passages[question["supporting"][0]]["title"]
        by_article.setdefault(title, []).append(question)

    heldout = draw("heldout", by_article, HELDOUT)
    taken = paragraphs(heldout)
    evaluation = draw("evaluation", without(by_article, taken), EVALUATION)
    rest = without(by_article, taken | paragraphs(evaluation))
    prompt_choice = draw("prompt choice", rest, PROMPT_CHOICE)

    FOLDER.mkdir(parents=True, exist_ok=True)
    write_jsonl(FOLDER / "questions.jsonl", [told(question, passages) for question in heldout])
    if arguments.large_out:
        large = draw("fixed", without(by_article, paragraphs(prompt_choice)), LARGE)
        large.sort(key=lambda question: order("parts", question["id"]))
        write_jsonl(arguments.large_out, [told(question, passages) for question in large])
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
    for path, drawn in [(arguments.eval_out, evaluation), (arguments.prompt_out, prompt_choice)]:
        keys = ("id", "question", "answers", "supporting")
        write_jsonl(path, [{key: question[key] for key in keys} for question in drawn])


if __name__ == "__main__":
    main()
