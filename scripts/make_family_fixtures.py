#!/usr/bin/env python3
"""Makes small random models of every family with transformers, as folders and as GGUF files, and
what they compute.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2 gguf==0.19.0 \
        xllamacpp==2026.10.11549
    python3 scripts/make_family_fixtures.py

Written to tests/fixtures/families:

* NAME/          folders as `save_pretrained` leaves them, in several types, one of them in shards;
* NAME.gguf      files with the same kind of model; the weights of each are of another ggml type.
                 K-quants, which no Python package makes, are random blocks;
* adapter/       a peft LoRA for one of the folders;
* values.json    token ids and transformers' logits at some of them, in f32. For GGUF files
                 transformers gets their weights dequantised by the `gguf` package. For some of
                 them llama.cpp's greedy continuation too; and frequencies and divisors of the
                 rope scaling of published models.
"""

import importlib.metadata
import json
import pathlib
import shutil
import tempfile

import gguf
import numpy
import tokenizers
import torch
import transformers

import make_greedy_fixtures as llama_cpp
import make_torch_fixtures as tiny

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "families"
VOCABULARY = 96
TYPES = gguf.GGMLQuantizationType

LLAMA3_SCALING = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}
SMALL = {
    "hidden_size": 64, "intermediate_size": 96, "vocab_size": VOCABULARY, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0}, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": VOCABULARY - 1,
}
# Rows of a whole number of K-quant blocks.
WIDE = SMALL | {
    "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "num_key_value_heads": 1,
    "tie_word_embeddings": True,
}
LLAMA3 = ("llama", SMALL | {"rope_parameters": LLAMA3_SCALING, "tie_word_embeddings": True})
LINEAR = ("llama", SMALL | {
    "rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0},
    "attention_bias": True,
})
QWEN2 = ("qwen2", SMALL)
QWEN3 = ("qwen3", SMALL | {"head_dim": 32, "tie_word_embeddings": True})
QWEN3_UNTIED = ("qwen3", SMALL | {"num_key_value_heads": 4, "head_dim": 8})

# Name, description, type on disk.
FOLDERS = [
    ("llama3", LLAMA3, torch.float32),
    ("llama-linear", LINEAR, torch.float16),
    ("qwen2", QWEN2, torch.bfloat16),
    ("qwen3", QWEN3, torch.bfloat16),
    ("qwen3-untied", QWEN3_UNTIED, torch.float32),
]
SHARDED = "qwen2"
ADAPTED = "qwen3"

# The types of a Q4_K_M file, and all others.
Q4_K_M = {"attn_v": TYPES.Q6_K, "ffn_down": TYPES.Q6_K, "token_embd": TYPES.Q6_K, "": TYPES.Q4_K}
MIXED = {
    "attn_q": TYPES.Q2_K, "attn_k": TYPES.Q3_K, "attn_v": TYPES.Q5_K, "attn_output": TYPES.Q5_0,
    "ffn_gate": TYPES.Q5_1, "ffn_up": TYPES.Q4_0, "ffn_down": TYPES.Q3_K, "": TYPES.Q8_0,
}
# Name, description, types of its matrices by the beginning of their names.
FILES = [
    ("llama3-f32", LLAMA3, {"": TYPES.F32}),
    ("llama3-q4_1", LLAMA3, {"": TYPES.Q4_1}),
    ("qwen2-f16", QWEN2, {"": TYPES.F16}),
    ("qwen2-q4_0", QWEN2, {"": TYPES.Q4_0}),
    ("qwen3-bf16", QWEN3, {"": TYPES.BF16}),
    ("qwen3-q8_0", QWEN3_UNTIED, {"": TYPES.Q8_0}),
    ("qwen3-q4_k_m", ("qwen3", WIDE | {"head_dim": 64}), Q4_K_M),
    ("qwen2-mixed", ("qwen2", WIDE), MIXED),
]
# Long enough that scaled positions lie far past the original ones.
TOKENS = [i * i * 31 % (VOCABULARY - 1) for i in range(260)]
ROWS = [0, 1, 2, 3, 31, 63, 64, 65, 100, 127, 128, 160, 192, 200, 230, 257, 258, 259]
PROMPT_LENGTHS = [20, 90, 140, 190, 260]
CONTINUED = ["llama3-f32", "qwen2-q4_0", "qwen3-bf16"]


def model(family: str, description: dict, seed: int) -> transformers.PreTrainedModel:
    config = transformers.AutoConfig.for_model(family, **description)
    made = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    made = made.float().eval()
    torch.manual_seed(seed)
    for name, parameter in made.named_parameters():
        norm = name.endswith("norm.weight")
        scale = 0.3 if norm else 1.0 if name.endswith("bias") else parameter.shape[-1] ** -0.5
        # So that attention tells positions apart.
        scale *= 2.5 if "q_proj.weight" in name or "k_proj.weight" in name else 1.0
        parameter.data = (1.0 if norm else 0.0) + scale * torch.randn_like(parameter)
    made.tie_weights()
    return made


def logits(made: transformers.PreTrainedModel) -> list[list[float]]:
    with torch.no_grad():
        rows = made(torch.tensor([TOKENS])).logits[0]
    return [[round(value, 5) for value in rows[row].tolist()] for row in ROWS]


def expect_scaling_to_matter(made: transformers.PreTrainedModel) -> None:
    parameters = made.config.rope_parameters
    if parameters["rope_type"] == "default":
        return
    plain = made.config.to_dict() | {
        "rope_parameters": {"rope_type": "default", "rope_theta": parameters["rope_theta"]}
    }
    other = model(plain.pop("model_type"), plain, 0)
    other.load_state_dict(made.state_dict())
    difference = torch.tensor(logits(other)) - torch.tensor(logits(made))
    assert difference.abs().max() > 0.5, f"scaling changes logits by {difference.abs().max()}"


def save_folder(
    name: str, made: transformers.PreTrainedModel, dtype: torch.dtype
) -> transformers.PreTrainedModel:
    """Saves it and returns what is loaded from there, in f32."""
    folder = FOLDER / name
    made.to(dtype).save_pretrained(folder, max_shard_size="60KB" if name == SHARDED else "5GB")
    tiny.tokenizer().save_pretrained(folder)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager")
    return loaded.eval()


# GGUF's names of what a layer has, by transformers' names.
LAYER_NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OTHER_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
}


def gguf_name(name: str) -> str:
    path, _, kind = name.rpartition(".")
    if path in OTHER_NAMES:
        return f"{OTHER_NAMES[path]}.{kind}"
    _, _, layer, part = path.split(".", 3)
    return f"blk.{layer}.{LAYER_NAMES[part]}.{kind}"


def interleave(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a head as llama.cpp's Llama wants them: one of the first half, one of the second."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape)


def separate(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """The inverse of `interleave`."""
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return pairs.transpose(1, 2).reshape(rows.shape)


# Where a block's f16 scales lie, and values that give weights of about the size of other ones;
# signed bytes in Q6_K's scales are made small.
SCALES = {
    TYPES.Q2_K: {80: 4e-3, 82: 6e-3},
    TYPES.Q3_K: {108: 1.5e-3},
    TYPES.Q4_K: {0: 3e-4, 2: 22e-4},
    TYPES.Q5_K: {0: 1.5e-4, 2: 23e-4},
    TYPES.Q6_K: {208: 3e-4},
}


def random_blocks(shape: tuple[int, int], kind: TYPES, draws: numpy.random.Generator):
    """Blocks of a K-quant, (rows, bytes): every bit at random but for the scales."""
    size, width = gguf.GGML_QUANT_SIZES[kind]
    blocks = draws.integers(0, 256, (shape[0] * shape[1] // size, width), dtype=numpy.uint8)
    if kind == TYPES.Q6_K:
        small = draws.integers(-20, 21, (len(blocks), 16), dtype=numpy.int8)
        blocks[:, 192:208] = small.view(numpy.uint8)
    for at, scale in SCALES[kind].items():
        values = (scale * draws.uniform(0.8, 1.2, len(blocks))).astype(numpy.float16)
        blocks[:, at:at + 2] = values[:, None].view(numpy.uint8)
    return blocks.reshape(shape[0], -1)


def encoded(values: numpy.ndarray, kind: TYPES, draws: numpy.random.Generator) -> numpy.ndarray:
    if kind in SCALES:
        return random_blocks(values.shape, kind, draws)
    return gguf.quants.quantize(values, kind)


def kind_of(name: str, values: torch.Tensor, kinds: dict) -> TYPES:
    """The type of the tensor that GGUF calls `name`; vectors are f32, as everywhere."""
    if values.dim() == 1:
        return TYPES.F32
    short = name.split(".")[-2]
    return next(kind for prefix, kind in kinds.items() if short.startswith(prefix))


def heads_of(name: str, config) -> int:
    """How many heads' rows are interleaved in a GGUF file; 0 for none."""
    if config.model_type != "llama":
        return 0
    return {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(
        name.split(".")[-2], 0)


def save_gguf(name: str, made: transformers.PreTrainedModel, kinds: dict) -> None:
    """Saves it and sets its weights to what was saved."""
    config = made.config
    writer = gguf.GGUFWriter(FOLDER / f"{name}.gguf", config.model_type)
    describe(writer, config)
    draws = numpy.random.default_rng(5)
    for parameter_name, parameter in made.named_parameters():
        heads = heads_of(parameter_name, config)
        rows = parameter.data
        rows = interleave(rows, heads) if heads else rows
        kind = kind_of(gguf_name(parameter_name), rows, kinds)
        data = encoded(rows.numpy(), kind, draws)
        writer.add_tensor(gguf_name(parameter_name), data, raw_dtype=kind)
        rows = torch.from_numpy(gguf.quants.dequantize(data, kind).astype(numpy.float32))
        parameter.data = (separate(rows, heads) if heads else rows).reshape(parameter.shape)
    if config.rope_parameters["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", divisors(config).numpy())
    made.tie_weights()
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def describe(writer: gguf.GGUFWriter, config) -> None:
    head_dim = getattr(config, "head_dim", None)
    head_dim = head_dim or config.hidden_size // config.num_attention_heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    # Single bytes, one merge, an end token.
    tokens = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())[:VOCABULARY - 2]
    tokens += ["ab", "<end>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe" if config.model_type == "llama" else "qwen2")
    writer.add_token_list(tokens)
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_token_types([normal] * (VOCABULARY - 1) + [control])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(VOCABULARY - 1)
    writer.add_add_bos_token(False)


def inverse_frequencies(config) -> torch.Tensor:
    kind = config.rope_parameters["rope_type"]
    made = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS[kind](config, "cpu")
    return made[0].float()


def divisors(config) -> torch.Tensor:
    """What rope scaling divides each frequency by."""
    head_dim = getattr(config, "head_dim", None)
    head_dim = head_dim or config.hidden_size // config.num_attention_heads
    powers = torch.arange(0, head_dim, 2).float() / head_dim
    return 1.0 / config.rope_parameters["rope_theta"] ** powers / inverse_frequencies(config)


def published_scaling() -> list[dict]:
    """Frequencies of Llama 3.1 and 3.2 as published."""
    rows = []
    for name, factor, head_dim in [("3.1 8B", 8.0, 128), ("3.2 1B", 32.0, 64)]:
        parameters = LLAMA3_SCALING | {
            "rope_theta": 500_000.0, "factor": factor, "original_max_position_embeddings": 8192,
        }
        config = transformers.LlamaConfig(head_dim=head_dim, rope_parameters=parameters)
        rows.append({
            "name": name, "theta": 500_000.0, "factor": factor,
            "inverse_frequencies": inverse_frequencies(config).tolist(),
            "divisors": divisors(config).tolist(),
        })
    return rows


def continuations(name: str) -> list[list[int]]:
    """llama.cpp's, greedy, with weights in f32: it rounds activations to the type of others."""
    with tempfile.TemporaryDirectory() as folder:
        dequantised = pathlib.Path(folder) / "f32.gguf"
        llama_cpp.dequantise(FOLDER / f"{name}.gguf", dequantised)
        server = llama_cpp.serve(dequantised)
        return [
            llama_cpp.continue_greedily(server, TOKENS[:length], VOCABULARY - 1)
            for length in PROMPT_LENGTHS
        ]


def save_adapter(base: transformers.PreTrainedModel) -> list[list[float]]:
    adapted = tiny.with_adapter(base)
    # Not where it lies on this machine.
    adapted.peft_config["default"].base_model_name_or_path = ADAPTED
    adapted.save_pretrained(FOLDER / "adapter")
    (FOLDER / "adapter" / "README.md").unlink(missing_ok=True)
    return logits(adapted)


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    versions = ["torch", "transformers", "peft", "gguf", "xllamacpp"]
    values = {
        "made_with": {name: importlib.metadata.version(name).split("+")[0] for name in versions},
        "tokens": TOKENS, "rows": ROWS, "models": {}, "adapted": ADAPTED,
        "prompt_lengths": PROMPT_LENGTHS, "continuations": {}, "scaling": published_scaling(),
    }
    for seed, (name, (family, description), dtype) in enumerate(FOLDERS):
        made = save_folder(name, model(family, description, seed), dtype)
        expect_scaling_to_matter(made)
        values["models"][name] = logits(made)
        if name == ADAPTED:
            values["adapter_logits"] = save_adapter(made)
    for seed, (name, (family, description), kinds) in enumerate(FILES):
        made = model(family, description, 10 + seed)
        save_gguf(name, made, kinds)
        expect_scaling_to_matter(made)
        values["models"][f"{name}.gguf"] = logits(made)
    for name in CONTINUED:
        values["continuations"][f"{name}.gguf"] = continuations(name)
    (FOLDER / "values.json").write_text(json.dumps(values) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
