#!/usr/bin/env python3
"""Makes a tiny random Llama with transformers, an adapter for it with peft, and what they compute.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2
    python3 scripts/make_torch_fixtures.py

Written to tests/fixtures/torch:

* model/      weights, description and a tokenizer of 96 tokens, as `save_pretrained` leaves them;
* adapter/    a peft LoRA on all linear maps whose B is not zero, as `save_pretrained` leaves it;
* values.json token ids, the logits of base and adapter, and the losses of 20 steps of training the
              adapter on masked sequences: AdamW, gradients clipped to norm 1, token mean.
"""

import json
import pathlib
import shutil

import peft
import tokenizers
import torch
import transformers

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "torch"
LEARNING_RATE = 1e-2
STEPS = 20
# Prompt and continuation: only the continuation's tokens are trained on.
SEQUENCES = [
    ([3, 14, 15, 92, 65], [35, 89, 79]),
    ([27, 18, 28, 18, 28, 45, 90], [45, 23]),
    ([53, 60, 28, 74], [71, 35, 26, 62, 49]),
]
TOKENS = [i * 31 % 96 for i in range(24)]


def model() -> transformers.LlamaForCausalLM:
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, vocab_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 50_000.0}, rms_norm_eps=1e-5,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
    )
    torch.manual_seed(1)
    made = transformers.LlamaForCausalLM(config).float().eval()
    for name, parameter in made.named_parameters():
        scale = 0.1 if name.endswith("norm.weight") else 0.3
        centre = 1.0 if name.endswith("norm.weight") else 0.0
        parameter.data = centre + scale * torch.randn_like(parameter)
    made.tie_weights()
    return made


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())[:95]
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>")


def with_adapter(base: transformers.LlamaForCausalLM) -> peft.PeftModel:
    config = peft.LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM",
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    )
    adapted = peft.get_peft_model(base, config)
    torch.manual_seed(2)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.05 * torch.randn_like(parameter)
    return adapted


def logits(adapted) -> list[list[float]]:
    with torch.no_grad():
        rows = adapted(torch.tensor([TOKENS])).logits[0]
    return [[round(value, 5) for value in row] for row in rows.tolist()]


def loss_of(adapted) -> torch.Tensor:
    total, count = torch.tensor(0.0), 0
    for prompt, continuation in SEQUENCES:
        rows = adapted(torch.tensor([prompt + continuation])).logits[0]
        logprobs = rows.log_softmax(-1)[len(prompt) - 1:-1]
        total = total - logprobs[range(len(continuation)), continuation].sum()
        count += len(continuation)
    return total / count


def train(adapted) -> list[float]:
    parameters = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(adapted)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(round(loss.item(), 6))
    return losses


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    base = model()
    base.save_pretrained(FOLDER / "model")
    tokenizer().save_pretrained(FOLDER / "model")
    base_logits = logits(base)
    adapted = with_adapter(base)
    adapted.save_pretrained(FOLDER / "adapter")
    (FOLDER / "adapter" / "README.md").unlink(missing_ok=True)
    values = {
        "made_with": {
            "torch": torch.__version__.split("+")[0],
            "transformers": transformers.__version__,
            "peft": peft.__version__,
        },
        "tokens": TOKENS,
        "base_logits": base_logits,
        "adapter_logits": logits(adapted),
        "sequences": [{"prompt": p, "continuation": c} for p, c in SEQUENCES],
        "learning_rate": LEARNING_RATE,
        "losses": train(adapted),
    }
    (FOLDER / "values.json").write_text(json.dumps(values) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
