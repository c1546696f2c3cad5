#!/usr/bin/env python3
"""Computes every objective with torch on fixed inputs: losses, gradients and advantages.

    pip install torch==2.15.0
    python3 scripts/make_objective_fixtures.py

Writes tests/fixtures/objectives.json. The formulas are written down here from the papers and from
TRL's documentation, not from this project's code: losses per token as tensors, autograd for the
gradients. Sequences are continuations; `sequence` says to which one each token belongs.
"""

import json
import pathlib

import torch

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "objectives.json"
SEQUENCE = [0, 0, 0, 1, 1, 2, 2, 2, 3]
CONSTANT_LENGTH = 4
# (hops, rewards) of a round. The third has no variance of its own, the fourth not even among those
# with as many hops.
ROUND = [(1, [1.0, 0.0, 0.0, 1.0]), (2, [0.2, 0.4, 0.9]), (1, [0.0, 0.0, 0.0]), (3, [0.5, 0.5]),
         (2, [1.0, 1.0])]
GROUPS = [[1.0, 0.0, 0.0, 1.0], [0.2, 0.4, 0.9], [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]]

torch.manual_seed(7)
torch.set_default_dtype(torch.float64)
N = len(SEQUENCE)
NOW = -3 * torch.rand(N) - 0.1
OLD = NOW + 0.5 * torch.randn(N)
SAMPLED = OLD + 0.6 * torch.randn(N)
BASE = NOW + 0.4 * torch.randn(N)
ENTROPY = 2 * torch.rand(N)
ADVANTAGE = torch.tensor([1.2, -0.7, 0.4, -2.0])[SEQUENCE]


def aggregate(losses: torch.Tensor, how: str) -> torch.Tensor:
    if how == "token_mean":
        return losses.mean()
    sequences = sorted(set(SEQUENCE))
    index = torch.tensor(SEQUENCE)
    sums = [losses[index == s] for s in sequences]
    if how == "sequence_mean":
        return torch.stack([part.mean() for part in sums]).mean()
    return torch.stack([part.sum() / CONSTANT_LENGTH for part in sums]).mean()


def policy_gradient(now, entropy, clip_low=0.2, clip_high=0.285, dual_clip=None, kl_coefficient=0.0,
                    entropy_coefficient=0.0, aggregation="token_mean", correction="none",
                    correction_limit=2.0, constant_length=None) -> torch.Tensor:
    old = SAMPLED if correction == "none" else OLD
    ratio = torch.exp(now - old)
    clipped = torch.clamp(ratio, 1 - clip_low, 1 + clip_high)
    objective = torch.min(ratio * ADVANTAGE, clipped * ADVANTAGE)
    if dual_clip is not None:
        bounded = torch.max(objective, dual_clip * ADVANTAGE)
        objective = torch.where(ADVANTAGE < 0, bounded, objective)
    losses = -objective
    importance = torch.exp(OLD - SAMPLED)
    if correction == "clip":
        losses = losses * torch.clamp(importance, max=correction_limit)
    if correction == "mask":
        losses = losses * importance.masked_fill(importance > correction_limit, 0.0)
    if kl_coefficient:
        losses = losses + kl_coefficient * (torch.exp(BASE - now) - (BASE - now) - 1)
    if entropy_coefficient:
        losses = losses - entropy_coefficient * entropy
    return aggregate(losses, aggregation)


def preference(now, _entropy, beta) -> torch.Tensor:
    index = torch.tensor(SEQUENCE)
    gains = torch.stack([(now - BASE)[index == s].sum() for s in range(4)])
    return -torch.nn.functional.logsigmoid(beta * (gains[0::2] - gains[1::2])).mean()


def likelihood(now, _entropy) -> torch.Tensor:
    return -now.mean()


KINDS = {"likelihood": likelihood, "policy_gradient": policy_gradient, "preference": preference}
CASES = [
    ("likelihood", {}),
    ("policy_gradient", {"kl_coefficient": 0.0}),
    ("policy_gradient", {"kl_coefficient": 0.05}),
    ("policy_gradient", {"kl_coefficient": 0.0, "clip_low": 0.1, "clip_high": 0.4}),
    ("policy_gradient", {"kl_coefficient": 0.0, "dual_clip": 1.2}),
    ("policy_gradient", {"kl_coefficient": 0.01, "entropy_coefficient": 0.02}),
    ("policy_gradient", {"kl_coefficient": 0.01, "aggregation": "sequence_mean"}),
    ("policy_gradient", {"kl_coefficient": 0.01, "aggregation": "constant_length",
                         "constant_length": CONSTANT_LENGTH}),
    ("policy_gradient", {"kl_coefficient": 0.01, "correction": "clip", "correction_limit": 1.3}),
    ("policy_gradient", {"kl_coefficient": 0.01, "correction": "mask", "correction_limit": 1.3}),
    ("preference", {"beta": 0.1}),
    ("preference", {"beta": 2.0}),
]


def case(kind: str, settings: dict) -> dict:
    now, entropy = NOW.clone().requires_grad_(), ENTROPY.clone().requires_grad_()
    loss = KINDS[kind](now, entropy, **settings)
    loss.backward()
    gradient = torch.zeros(N) if entropy.grad is None else entropy.grad
    return {
        "objective": kind, "settings": settings, "loss": loss.item(),
        "logprob_gradient": now.grad.tolist(), "entropy_gradient": gradient.tolist(),
    }


def advantages(rewards: list[float]) -> dict:
    r = torch.tensor(rewards)
    others = [(r.sum() - x) / (len(r) - 1) for x in r]
    return {
        "rewards": rewards,
        "grpo": ((r - r.mean()) / (r.std(correction=0) + 1e-6)).tolist(),
        "grpo_sample": ((r - r.mean()) / (r.std() + 1e-6)).tolist(),
        "dr_grpo": (r - r.mean()).tolist(),
        "leave_one_out": (r - torch.stack(others)).tolist(),
    }


def reinforce() -> list[list[float]]:
    baseline, found = 0.0, []
    for rewards in GROUPS:
        found.append([reward - baseline for reward in rewards])
        baseline = 0.95 * baseline + 0.05 * sum(rewards) / len(rewards)
    return found


def pooled(rule: str, key: str) -> list[list[float] | None]:
    """Advantages of the round's groups, each reward compared with all that share its group's key."""
    if rule == "reinforce":
        baselines, found = {}, []
        for hops, rewards in ROUND:
            baseline = baselines.get(hops, 0.0)
            found.append([reward - baseline for reward in rewards])
            baselines[hops] = 0.95 * baseline + 0.05 * sum(rewards) / len(rewards)
        return found
    found = []
    for index, (hops, rewards) in enumerate(ROUND):
        same = [i for i, (h, _) in enumerate(ROUND)
                if {"task": i == index, "hops": h == hops, "round": True}[key]]
        pool = torch.tensor([reward for i in same for reward in ROUND[i][1]])
        own, n = torch.tensor(rewards), len(pool)
        if pool.min() == pool.max():
            found.append(None)
            continue
        found.append({
            "grpo": lambda: (own - pool.mean()) / (pool.std(correction=0) + 1e-6),
            "grpo_sample": lambda: (own - pool.mean()) / (pool.std() + 1e-6),
            "dr_grpo": lambda: own - pool.mean(),
            "leave_one_out": lambda: own - (pool.sum() - own) / (n - 1),
        }[rule]().tolist())
    return found


def main() -> None:
    values = {
        "made_with": {"torch": torch.__version__.split("+")[0]},
        "sequence": SEQUENCE, "logprobs": NOW.tolist(), "old_logprobs": OLD.tolist(),
        "sampled_logprobs": SAMPLED.tolist(), "base_logprobs": BASE.tolist(),
        "entropies": ENTROPY.tolist(), "advantages": ADVANTAGE.tolist(),
        "cases": [case(kind, settings) for kind, settings in CASES],
        "groups": [advantages(rewards) for rewards in GROUPS], "reinforce": reinforce(),
        "round": {
            "groups": [{"hops": hops, "rewards": rewards} for hops, rewards in ROUND],
            "cases": [
                {"rule": rule, "key": key, "advantages": pooled(rule, key)}
                for rule in ["grpo", "grpo_sample", "dr_grpo", "leave_one_out", "reinforce"]
                for key in ["task", "hops", "round"]
            ],
        },
    }
    OUT.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
