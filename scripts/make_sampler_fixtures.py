#!/usr/bin/env python3
"""Computes the distributions that transformers samples from, for rows of logits and settings.

    python3 -m venv /tmp/fixtures
    /tmp/fixtures/bin/pip install torch==2.15.0 transformers==5.23.0
    /tmp/fixtures/bin/python scripts/make_sampler_fixtures.py

Writes tests/fixtures/sampler.json. The processors are transformers' own, in the order in which
`generate` builds them: repetition penalty, the caller's (here a mask), temperature, top-k, top-p,
min-p. They run in float64, and once more in float32 to see that no case hangs on rounding.
"""

import json
import pathlib
import sys

import torch
import transformers
from transformers import LogitsProcessorList
from transformers import MinPLogitsWarper
from transformers import RepetitionPenaltyLogitsProcessor
from transformers import SuppressTokensLogitsProcessor
from transformers import TemperatureLogitsWarper
from transformers import TopKLogitsWarper
from transformers import TopPLogitsWarper

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "sampler.json"
OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}

torch.manual_seed(11)
ROWS = {
    "peaked": 3.0 * torch.randn(120),
    "flat": 0.2 * torch.randn(200) - 4.0,
    # Whole numbers: groups of tokens that are equally likely.
    "ties": torch.randint(-3, 4, (90,)).float(),
    # Some as far apart as a model's are.
    "steep": 9.0 * torch.randn(50) + 20.0,
}
ROWS = {name: [round(x, 4) for x in row.tolist()] for name, row in ROWS.items()}


def best(row: str, ranks: range) -> list[int]:
    """Tokens by their rank, the likeliest first."""
    order = sorted(range(len(ROWS[row])), key=lambda i: -ROWS[row][i])
    return [order[rank] for rank in ranks]


# Likely and unlikely ones, some of them twice.
SEEN = [*best("peaked", range(0, 8)), 3, 3, 17, *best("peaked", range(2, 5)), 40, 119]
# (row, previous tokens, tokens that a mask forbids, settings)
CASES = [
    ("peaked", [], [], {}),
    ("flat", [], [], {}),
    ("steep", [], [], {"temperature": 4.0}),
    ("peaked", [], [], {"temperature": 0.35}),
    ("flat", [], [], {"temperature": 0.2, "top_k": 30}),
    ("ties", [], [], {"top_k": 20}),
    ("peaked", [], [], {"top_p": 0.9}),
    ("flat", [], [], {"top_p": 0.45}),
    ("steep", [], [], {"temperature": 2.5, "top_p": 0.95}),
    ("flat", [], [], {"min_p": 0.8}),
    ("ties", [], [], {"temperature": 1.5, "min_p": 0.12}),
    ("peaked", SEEN, [], {"repetition_penalty": 1.3}),
    ("peaked", SEEN, [], {"repetition_penalty": 0.6, "temperature": 1.2}),
    ("ties", [0, 1, 2, 3, 3, 50], [], {"repetition_penalty": 2.0, "top_k": 12}),
    ("peaked", [], best("peaked", range(0, 6)), {}),
    ("steep", [], best("steep", range(1, 48)), {"temperature": 30.0}),
    ("peaked", [], [], {"temperature": 1.8, "top_k": 40, "top_p": 0.85, "min_p": 0.06}),
    ("flat", [5, 6, 7], list(range(0, 200, 3)),
     {"temperature": 0.4, "top_k": 90, "top_p": 0.8, "min_p": 0.2, "repetition_penalty": 1.1}),
    ("peaked", SEEN, best("peaked", range(1, 3)),
     {"temperature": 1.4, "top_k": 30, "top_p": 0.93, "min_p": 0.02, "repetition_penalty": 1.5}),
]


def processors(forbidden: list[int], settings: dict) -> LogitsProcessorList:
    """What `generate` would build."""
    found = LogitsProcessorList()
    if settings["repetition_penalty"] != 1.0:
        found.append(RepetitionPenaltyLogitsProcessor(settings["repetition_penalty"]))
    if forbidden:
        found.append(SuppressTokensLogitsProcessor(forbidden))
    if settings["temperature"] != 1.0:
        found.append(TemperatureLogitsWarper(settings["temperature"]))
    if settings["top_k"]:
        found.append(TopKLogitsWarper(settings["top_k"]))
    if settings["top_p"] < 1.0:
        found.append(TopPLogitsWarper(settings["top_p"]))
    if settings["min_p"] > 0.0:
        found.append(MinPLogitsWarper(settings["min_p"]))
    return found


def distribution(case: tuple, dtype: torch.dtype) -> torch.Tensor:
    """Probabilities after all processors."""
    row, previous, forbidden, settings = case
    # The numbers a model gives are float32.
    logits = torch.tensor([ROWS[row]], dtype=torch.float32).to(dtype)
    ids = torch.tensor([previous], dtype=torch.long)
    return processors(forbidden, OFF | settings)(ids, logits)[0].softmax(-1)


def check(case: tuple, probabilities: torch.Tensor) -> None:
    """That the case says the same in float32, and that no filter cut through equal tokens, of which
    torch's sort leaves the order open."""
    if not torch.equal(probabilities > 0, distribution(case, torch.float32) > 0):
        sys.exit(f"{case} hangs on rounding")
    row, previous, forbidden, settings = case
    unfiltered = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
    before = distribution((row, previous, forbidden, settings | unfiltered), torch.float64)
    kept = probabilities > 0
    if (~kept).any() and before[~kept].max() >= before[kept].min():
        sys.exit(f"{case} cuts through equal tokens")


def main() -> None:
    cases = []
    for case in CASES:
        row, previous, forbidden, settings = case
        probabilities = distribution(case, torch.float64)
        check(case, probabilities)
        cases.append({
            "row": row,
            "previous": previous,
            "forbidden": forbidden,
            "sampling": OFF | settings,
            "probabilities": [float(f"{p:.9g}") for p in probabilities.tolist()],
        })
        print(f"{row:8} {settings}: {int((probabilities > 0).sum())} tokens left")
    made = {
        "script": "scripts/make_sampler_fixtures.py",
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
    }
    lines = ",\n".join("    " + json.dumps(case) for case in cases)
    rows = ",\n".join(f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in ROWS.items())
    head = json.dumps({"made_with": made}, indent=2)[:-2]
    OUT.write_text(f'{head},\n  "rows": {{\n{rows}\n  }},\n  "cases": [\n{lines}\n  ]\n}}\n')
    json.loads(OUT.read_text())
    print(f"{OUT.name}: {len(cases)} cases, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
