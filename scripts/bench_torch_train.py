#!/usr/bin/env python3
"""Trains with torch and peft what `nightschool bench train` trains, and runs the two in turn.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2
    python3 scripts/bench_torch_train.py            # both, three times in turn, medians and ratio
    python3 scripts/bench_torch_train.py --peer     # torch alone, once: one line of JSON

Eight sequences of 256 random tokens, LoRA of rank 16 on all linear maps of a model with the
dimensions of SmolLM2-135M, f32, AdamW, without recomputing activations, on as many threads as
there are cores. Weights are random: they cost the same.
"""

import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "target" / "release" / "nightschool"
SEQUENCES, TOKENS, RANK, STEPS, TURNS = 8, 256, 16, 3, 3


def peer() -> dict:
    import peft
    import torch
    import transformers

    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, vocab_size=49152, tie_word_embeddings=True,
    )
    base = transformers.LlamaForCausalLM(config).float()
    adapted = peft.get_peft_model(base, peft.LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"))
    parameters = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    tokens = torch.randint(0, config.vocab_size, (SEQUENCES, TOKENS))
    seconds = []
    for _ in range(STEPS + 1):
        start = time.perf_counter()
        optimizer.zero_grad()
        adapted(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    step = statistics.median(seconds[1:])
    return {"tokens_per_s": SEQUENCES * TOKENS / step, "peak_memory_bytes": peak}


def run(command: list) -> dict:
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main() -> None:
    if "--peer" in sys.argv:
        print(json.dumps(peer()))
        return
    ours, theirs = [], []
    for _ in range(TURNS):
        ours.append(run([PROGRAM, "bench", "train", "--steps", str(STEPS), "--json"]))
        theirs.append(run([sys.executable, __file__, "--peer"]))
    rates = [statistics.median(turn["tokens_per_s"] for turn in side) for side in (ours, theirs)]
    peaks = [max(turn["peak_memory_bytes"] for turn in side) / 1e9 for side in (ours, theirs)]
    print("| | tokens/s | peak memory, GB |\n| --- | --- | --- |")
    for name, rate, peak in zip(["nightschool", "torch + peft"], rates, peaks):
        print(f"| {name} | {rate:.0f} | {peak:.2f} |")
    print(f"\nratio {rates[0] / rates[1]:.2f}; share of the floor "
          f"{statistics.median(turn['floor_ratio'] for turn in ours):.2f}")


if __name__ == "__main__":
    main()
