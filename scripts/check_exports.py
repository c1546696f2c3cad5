"""Loads exports with the programs that they are for: `datasets`, `trl`, and verl's way of reading.

Not part of CI: it needs `pip install datasets pandas pyarrow trl` (and torch, for trl). It exports a home in
every shape and format, or checks the folders that are there:

    cargo test --release --locked --test it -- code_made_tasks_of_the_bundled_corpus
    python scripts/check_exports.py target/release/nightschool target/tmp/export-home /tmp/exports

What is checked: the features that `datasets` reads are those in the card, in both formats and with the same
rows; TRL's own functions take the columns as conversations and leave the prompt as it is; its trainers' column
names are there; verl's columns have the types that its RLHFDataset, its reward manager and the rewards use.
"""

import json
import subprocess
import sys
from pathlib import Path

import datasets
import pandas
import pyarrow.parquet
from trl.data_utils import apply_chat_template, extract_prompt, is_conversational, maybe_extract_prompt

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
    # As RLHFDataset reads it: `datasets` on the file, then by row; tools and interactions are optional.
    data = datasets.load_dataset("parquet", data_files=str(path))["train"]
    for item in range(len(data)):
        row = data[item]
        assert row["extra_info"].get("index", 0) == item
        assert row["extra_info"].get("tools_kwargs", {}) == {}


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
        print(f"verl reads {folder}")


main()
