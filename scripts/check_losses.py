#!/usr/bin/env python3
"""Trains with torch and peft what nightschool trained, from the same adapter, and compares the
losses step by step.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2 gguf
    python3 scripts/check_losses.py RUN.json MODEL.gguf ADAPTER_FOLDER

RUN.json is {"sequences": [[token, ...], ...], "losses": [...], "learning_rate": x}: every token but
a sequence's first is a target, all in one batch. An ignored test of tests/it/default_model.rs calls
this.
"""

import json
import pathlib
import sys

import peft
import torch
import transformers

TOLERANCE = 0.01


def main() -> None:
    run, model, adapter = sys.argv[1:]
    run = json.loads(pathlib.Path(run).read_text(encoding="utf-8"))
    model = pathlib.Path(model)
    base = transformers.AutoModelForCausalLM.from_pretrained(
        model.parent, gguf_file=model.name, dtype=torch.float32)
    adapted = peft.PeftModel.from_pretrained(base, adapter, is_trainable=True)
    parameters = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=run["learning_rate"], weight_decay=0.0)
    tokens = torch.tensor(run["sequences"])
    worst = 0.0
    for step, ours in enumerate(run["losses"]):
        optimizer.zero_grad()
        loss = adapted(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        worst = max(worst, abs(ours / loss.item() - 1.0))
        print(f"step {step}: {ours:.5f}, torch {loss.item():.5f}")
    print(f"largest difference {worst:.2e} of the loss")
    if not worst < TOLERANCE:
        sys.exit(f"the losses part: {worst:.2e} >= {TOLERANCE}")


if __name__ == "__main__":
    main()
