#!/usr/bin/env python3
"""Loads a model folder, and an adapter if one is named, with transformers and peft, and compares
their logits with those that nightschool computed.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2
    python3 scripts/check_logits.py LOGITS.json MODEL_FOLDER [ADAPTER_FOLDER]

LOGITS.json is {"tokens": [...], "logits": [[...], ...]}. Ignored tests of tests/it/torch.rs and
tests/it/families.rs call this with an adapter that they trained and with models that they exported.
"""

import json
import pathlib
import sys

import peft
import torch
import transformers

TOLERANCE = 1e-3


def main() -> None:
    values, model, *adapter = sys.argv[1:]
    values = json.loads(pathlib.Path(values).read_text(encoding="utf-8"))
    transformers.AutoTokenizer.from_pretrained(model)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for folder in adapter:
        loaded = peft.PeftModel.from_pretrained(loaded, folder)
    with torch.no_grad():
        found = loaded.eval()(torch.tensor([values["tokens"]])).logits[0]
    expected = torch.tensor(values["logits"])
    scale = expected.abs().max()
    difference = ((found - expected).abs().max() / scale).item()
    print(f"largest difference {difference:.2e} of the largest logit, over {expected.numel()} logits")
    if not difference < TOLERANCE:
        sys.exit(f"it computes something else: {difference:.2e} >= {TOLERANCE}")


if __name__ == "__main__":
    main()
