#!/usr/bin/env python3
"""Compares the candidate prompts for the base model as a reader, and prints the table that
docs/few-shot/README.md records.

    python3 scripts/choose_prompt.py PASSAGES.jsonl QUESTIONS.jsonl [PROMPT ...]

QUESTIONS.jsonl are the 100 that `scripts/make_heldout.py --prompt-out` writes: they share no
paragraph with the suite that a night is judged on. Every candidate answers them by the same search
over PASSAGES.jsonl, through `nightschool eval`. Candidates are the prompts of docs/few-shot and the
program's own; name some to compare only these.
"""

import argparse
import json
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "target" / "release" / "nightschool"
CANDIDATES = ROOT / "docs" / "few-shot"
BUILT_IN = ["bare", "few_shot"]


def evaluate(prompt: str, passages: str, questions: str) -> dict:
    command = [PROGRAM, "eval", "--corpus", passages, "--questions", questions]
    command += ["--prompts", CANDIDATES, "--prompt", prompt, "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("passages")
    parser.add_argument("questions")
    parser.add_argument("prompts", nargs="*", metavar="PROMPT")
    arguments = parser.parse_args()
    prompts = arguments.prompts or BUILT_IN + sorted(p.stem for p in CANDIDATES.glob("*.jinja"))

    print("| prompt | EM | F1 | 95 % interval of F1 |\n| --- | --- | --- | --- |")
    for prompt in prompts:
        result = evaluate(prompt, arguments.passages, arguments.questions)
        low, high = result["f1_ci"]
        print(f"| `{prompt}` | {result['em']:.2f} | {result['f1']:.3f} | {low:.3f} to {high:.3f} |",
              flush=True)


if __name__ == "__main__":
    main()
