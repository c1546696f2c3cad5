"""Generation beside llama.cpp: the same cases in turn, medians and their ratio.

Needs llama.cpp's `llama-batched-bench`, built natively, and the default model as GGUF files of
several types (`llama-quantize --allow-requantize MODEL f16.gguf F16` makes them). For every case
each type is run once; the fastest then takes turns with nightschool:

    python scripts/bench_llama_generate.py --bench llama-batched-bench \\
        --models f32.gguf f16.gguf q4_1.gguf --nightschool target/release/nightschool

llama.cpp's tile kernels for 4-bit weights crash on some machines; where a file does not run, it is
run without repacking (`--no-repack`), and the output says so. llama-batched-bench draws no tokens;
nightschool's decoding includes the drawing.
"""

import argparse
import json
import statistics
import subprocess

CASES = [
    # name, batch, prompt tokens, one shared prompt
    ("batch 1", 1, 256, False),
    ("batch 8", 8, 256, False),
    ("batch 32", 32, 256, False),
    ("batch 64", 64, 256, False),
    ("32 samples of one prompt", 32, 512, True),
]
NEW_TOKENS = 128


def llama(args, model, case):
    """(prefill, decode) in tokens a second; None where it does not run."""
    _, batch, prompt, shared = case
    # Each sequence has its share of the context, a shared prompt included.
    context = batch * (prompt + NEW_TOKENS) + 512
    command = [args.bench, "-m", model, "-t", args.threads, "-tb", args.threads]
    command += ["-npp", prompt, "-ntg", NEW_TOKENS, "-npl", batch, "-c", context]
    command += ["-b", 2048, "-ub", 512, "--output-format", "jsonl"]
    command += ["-pps"] if shared else []
    for extra in [], ["--no-repack"]:
        command_line = [str(part) for part in command + extra]
        run = subprocess.run(command_line, capture_output=True, text=True)
        lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
        if run.returncode == 0 and lines:
            found = json.loads(lines[-1])
            return found["speed_pp"], found["speed_tg"], extra
    return None


def nightschool(args, case, lora_rank=0):
    _, batch, prompt, shared = case
    command = [args.nightschool, "bench", "generate", "--json", "--checked", 2]
    command += ["--batch", batch, "--prompt-tokens", prompt, "--new-tokens", NEW_TOKENS]
    command += ["--shared-prefix", prompt if shared else 0, "--lora-rank", lora_rank]
    command += ["--set", f"inference.threads={args.threads}"]
    run = subprocess.run([str(p) for p in command], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", required=True)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--nightschool", required=True)
    parser.add_argument("--threads", default="2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", nargs="+", type=int, default=list(range(len(CASES))))
    parser.add_argument("--lora", action="store_true", help="an adapter against none, too")
    args = parser.parse_args()
    results = {}
    for case in (CASES[index] for index in args.cases):
        tried = {model: llama(args, model, case) for model in args.models}
        tried = {model: found for model, found in tried.items() if found}
        best = [max(tried, key=lambda model: tried[model][side]) for side in (0, 1)]
        ours, peers = [], []
        for _ in range(args.rounds):
            ours.append(nightschool(args, case))
            turn = {model: llama(args, model, case) for model in dict.fromkeys(best)}
            peers.append([turn[model] for model in best])
        median = statistics.median
        row = {
            "llama_first_runs": tried,
            "prefill": median(o["prefill_tokens_per_s"] for o in ours),
            "prefill_llama": median(p[0][0] for p in peers),
            "decode": median(o["decode_tokens_per_s"] for o in ours),
            "decode_llama": median(p[1][1] for p in peers),
            "best": best,
            "logprob_error": ours[-1]["logprob_error"],
            "step_kinds_ms": ours[-1]["step_kinds_ms"],
        }
        row["prefill_ratio"] = row["prefill"] / row["prefill_llama"]
        row["decode_ratio"] = row["decode"] / row["decode_llama"]
        results[case[0]] = row
        print(f"{case[0]}: prefill {row['prefill']:.0f} / {row['prefill_llama']:.0f} = "
              f"{row['prefill_ratio']:.2f}, decode {row['decode']:.0f} / "
              f"{row['decode_llama']:.0f} = {row['decode_ratio']:.2f}", flush=True)
    if not args.lora:
        print(json.dumps(results, indent=1))
        return
    batch_32 = CASES[2]
    pairs = [(nightschool(args, batch_32, 16), nightschool(args, batch_32)) for _ in range(args.rounds)]
    with_lora, without = (statistics.median(p[side]["decode_tokens_per_s"] for p in pairs) for side in (0, 1))
    results["lora"] = {"with": with_lora, "without": without, "ratio": with_lora / without}
    print(f"adapter of rank 16: {with_lora:.0f} / {without:.0f} = {with_lora / without:.2f}")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
