#!/usr/bin/env python3
"""Loads a base model and an adapter that nightschool saved with transformers and peft, and compares
their logits with those that nightschool computed.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2
    python3 scripts/check_adapter.py MODEL_FOLDER ADAPTER_FOLDER LOGITS.json

LOGITS.json is {"tokens": [...], "logits": [[...], ...]}. The test `torch::peft_loads_an_adapter`
calls this with an adapter that it trained.
"""

import json
import pathlib
import sys

import peft
import torch
import transformers

TOLERANCE = 1e-3


def main() -> None:
    model, adapter, values = sys.argv[1:]
    values = json.loads(pathlib.Path(values).read_text(encoding="utf-8"))
    base = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    adapted = peft.PeftModel.from_pretrained(base, adapter).eval()
    with torch.no_grad():
        found = adapted(torch.tensor([values["tokens"]])).logits[0]
    expected = torch.tensor(values["logits"])
    scale = expected.abs().max()
    difference = ((found - expected).abs().max() / scale).item()
    print(f"largest difference {difference:.2e} of the largest logit, over {expected.numel()} logits")
    if not difference < TOLERANCE:
        sys.exit(f"the adapter computes something else: {difference:.2e} >= {TOLERANCE}")


if __name__ == "__main__":
    main()
