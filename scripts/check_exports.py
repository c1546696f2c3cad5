"""Loads exports with the programs that they are for, and trains on them: `datasets`, TRL, verl.

Not part of CI: it needs `pip install datasets pandas pyarrow trl torch`, and for verl's own classes `pip install --no-deps
verl` with what their imports need: `ray "tensordict<=0.10" hydra-core pillow torchdata codetiming cachetools`. It exports a
home in every shape and format, or checks the folders that are there:

    cargo test --release --locked --test it -- code_made_tasks_of_the_bundled_corpus
    python scripts/check_exports.py target/release/nightschool target/tmp/export-home /tmp/exports

What is checked: the features that `datasets` reads are those in the card, in both formats and with the same
rows; TRL's own functions take the columns as conversations and leave the prompt as it is; its trainers' column
names are there; its SFTTrainer and DPOTrainer take two steps on a tiny random model; verl's RLHFDataset reads every
row and collates a batch, and its own reward scores right and wrong answers.
"""

import json
import math
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import datasets
import pandas
import pyarrow.parquet
import torch
from omegaconf import OmegaConf
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.data_utils import apply_chat_template, extract_prompt, is_conversational, maybe_extract_prompt
from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn
from verl.utils.reward_score import default_compute_score

FIXTURES = Path(__file__).resolve().parent.parent / "tests/fixtures"
SHAPES = ["sft", "preference", "rl-trl", "rl-verl", "tasks"]


def export(binary: str, home: Path, out: Path) -> None:
    for shape in SHAPES:
        for form in ["jsonl", "parquet"]:
            run = [binary, "--home", home, "task", "export", out / f"{shape}-{form}", "--as", shape]
            run += ["--format", form, "--validation", "0.3", "--force", "--license", "cc-by-sa-4.0"]
            subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
    run = [binary, "--home", home, "task", "export", out / "search-r1", "--as", "rl-verl"]
    run += ["--validation", "0.3", "--force", "--data-source", "searchR1_nq"]
    subprocess.run(run, check=True, stdout=subprocess.DEVNULL)


def load(folder: Path) -> datasets.DatasetDict:
    data = datasets.load_dataset(str(folder), download_mode="force_redownload")
    for name, split in data.items():
        # The features of the file itself are those that the card names.
        files = list((folder / "data").glob(f"{name}.*"))
        if files[0].suffix == ".parquet":
            alone = datasets.Dataset.from_parquet(str(files[0]))
            assert alone.features == split.features, (alone.features, split.features)
            metadata = json.loads(pyarrow.parquet.read_schema(files[0]).metadata[b"huggingface"])
            assert set(metadata["info"]["features"]) == set(split.column_names)
        assert len(split) == len(set(map(json.dumps, split))), "rows that are there twice"
    return data


def user_prompt(messages: list) -> None:
    assert [message["role"] for message in messages] == ["user"], messages
    assert messages[0]["content"].endswith("Answer:"), messages


def check_trl(shape: str, row: dict) -> None:
    assert is_conversational(row), row
    if shape == "sft":
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        assert row["messages"][1]["content"]
    if shape == "preference":
        assert maybe_extract_prompt(row) == row, "the prompt is explicit"
        user_prompt(row["prompt"])
        whole = {side: row["prompt"] + row[side] for side in ["chosen", "rejected"]}
        again = extract_prompt(whole)
        assert all(again[name] == row[name] for name in ["prompt", "chosen", "rejected"])
        assert row["score_chosen"] > row["score_rejected"]
    if shape == "rl-trl":
        user_prompt(row["prompt"])
        assert isinstance(row["answer"], str) and row["answer"]


class Template:
    """Stands in for a tokenizer: what TRL asks of one to turn a conversation into text."""

    def apply_chat_template(self, messages, tools=None, tokenize=False, add_generation_prompt=False, **rest):
        text = "".join(f"<{m['role']}>{m['content']}</s>" for m in messages)
        if add_generation_prompt:
            return text + "<assistant>"
        return text.removesuffix("</s>") if rest.get("continue_final_message") else text


def check_verl(path: Path, split: str) -> None:
    frame = pandas.read_parquet(path)
    assert list(frame.columns) == ["data_source", "prompt", "ability", "reward_model", "extra_info"]
    for index, row in frame.iterrows():
        assert isinstance(row["data_source"], str) and isinstance(row["ability"], str)
        messages = list(row["prompt"])
        user_prompt(messages)
        assert set(messages[0]) == {"role", "content"}
        assert row["reward_model"]["style"] == "rule"
        truth = row["reward_model"]["ground_truth"]
        if row["data_source"].startswith("searchR1_"):
            assert "<answer>" in messages[0]["content"]
            truth = list(truth["target"])[0]
        assert isinstance(truth, str) and truth
        assert row["extra_info"]["split"] == split and row["extra_info"]["index"] == index
    read = RLHFDataset(str(path), tokenizer(), OmegaConf.create({"max_prompt_length": 8192, "cache_dir": "unused"}))
    assert len(read) == len(frame), "verl left rows out"
    for index in range(len(read)):
        item = read[index]
        assert item["index"] == index and item["tools_kwargs"] == {} and item["interaction_kwargs"] == {}
        user_prompt(item["raw_prompt"])
        check_reward(item)
    batch = collate_fn([read[index] for index in range(min(4, len(read)))])
    assert len(batch["raw_prompt"]) == len(batch["dummy_tensor"])


def check_reward(item: dict) -> None:
    """verl's reward for the source; one of our own has none there."""
    if item["data_source"].startswith("searchR1_"):
        truth = item["reward_model"]["ground_truth"]
        scores = [
            default_compute_score(item["data_source"], f"<answer>{answer}</answer>", truth)
            for answer in [truth["target"][0], "no such thing"]
        ]
        assert scores == [1.0, 0.0], (truth, scores)


def tokenizer():
    return AutoTokenizer.from_pretrained(FIXTURES / "chat/llama3")


def train(trainer, config, folder: Path, **options) -> None:
    """Two steps on a random model of the least size."""
    words = tokenizer()
    words.pad_token = words.pad_token or words.eos_token
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    data = datasets.load_dataset(str(folder))["train"].select(range(8))
    with tempfile.TemporaryDirectory() as out:
        # From a folder: the DPOTrainer loads its reference from where the model came from.
        LlamaForCausalLM(LlamaConfig(vocab_size=len(words), num_key_value_heads=2, **shape)).save_pretrained(out)
        model = LlamaForCausalLM.from_pretrained(out)
        arguments = config(
            output_dir=out, max_steps=2, per_device_train_batch_size=2, use_cpu=True, bf16=False, report_to=[],
            save_strategy="no", max_length=1024, disable_tqdm=True, **options
        )
        done = trainer(model=model, args=arguments, train_dataset=data, processing_class=words).train()
    assert done.global_step == 2 and math.isfinite(done.training_loss), done
    print(f"{trainer.__name__} takes two steps on {folder.name}: loss {done.training_loss:.3f}")


def main() -> None:
    if len(sys.argv) == 4:
        export(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    out = Path(sys.argv[-1])
    for shape in SHAPES:
        forms = {form: load(out / f"{shape}-{form}") for form in ["jsonl", "parquet"]}
        assert forms["jsonl"].keys() == forms["parquet"].keys()
        for name, split in forms["parquet"].items():
            assert split.features == forms["jsonl"][name].features, split.features
            assert split.to_list() == forms["jsonl"][name].to_list()
            if shape in ["sft", "preference", "rl-trl"]:
                for row in split:
                    check_trl(shape, row)
                text = apply_chat_template(split[0], Template())
                assert all(isinstance(value, str) for key, value in text.items() if key in row), text
        counts = {name: len(split) for name, split in forms["parquet"].items()}
        print(f"{shape}: {counts}, columns {forms['parquet']['train'].column_names}")
    for folder in ["rl-verl-parquet", "search-r1"]:
        for path in sorted((out / folder / "data").iterdir()):
            check_verl(path, path.stem)
        print(f"verl {version('verl')} reads {folder}")
    train(SFTTrainer, SFTConfig, out / "sft-parquet")
    train(DPOTrainer, DPOConfig, out / "preference-parquet")
    print(", ".join(f"{name} {version(name)}" for name in ["trl", "transformers", "datasets", "torch"]))


main()
