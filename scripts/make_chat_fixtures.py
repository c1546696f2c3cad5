#!/usr/bin/env python3
"""Makes tokenizers of every family, conversations, and the prompts and token ids that transformers
makes of them.

    pip install transformers==5.23.0 gguf==0.19.0
    python3 scripts/make_chat_fixtures.py MODEL.gguf

MODEL.gguf is the file `nightschool model fetch smollm2-135m` stores; its vocabulary is used as it
is. The other families' vocabularies are trained here, small, with their families' own way of
cutting text and their special tokens. Written to tests/fixtures/chat:

* NAME/        folders with tokenizer and chat template, as `save_pretrained` leaves them;
* NAME.gguf    the same as a GGUF file without weights;
* values.json  conversations, and for each tokenizer their prompts, the prompts' ids, and the ids of
               the last message with special tokens taken as text.

With `--full qwen.tiktoken tokenizer.model --into FOLDER` the vocabularies are whole ones, from
files of the Python packages dashscope and llama-models, for the ignored test of tests/it/chat.rs.
"""

import argparse
import base64
import importlib.metadata
import json
import pathlib

import gguf
import tokenizers
import transformers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

ROOT = pathlib.Path(__file__).resolve().parent.parent
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TRAINED_TOKENS = 900

# The formats that the families' model cards document, with the means their templates use.
QWEN2_TEMPLATE = """\
{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou answer questions about documents.<|im_end|>\\n' }}
{%- endif %}
{%- for turn in messages %}
    {%- if turn.role == 'user' or (turn.role == 'system' and not loop.first) or turn.role == 'assistant' and not turn.tool_calls %}
        {{- '<|im_start|>' + turn.role + '\\n' + turn.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
# Thoughts stay only behind the last question.
QWEN3_TEMPLATE = """\
{%- if tools is not none %}{{ raise_exception('no tools here') }}{% endif %}
{%- set state = namespace(last_question=messages | length - 1, looking=true) %}
{%- for turn in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if state.looking and turn.role == 'user' and turn.content is string and not (turn.content.startswith('<tool_response>') and turn.content.endswith('</tool_response>')) %}
        {%- set state.looking = false %}
        {%- set state.last_question = index %}
    {%- endif %}
{%- endfor %}
{%- for turn in messages %}
    {%- if turn.content is string %}
        {%- set content = turn.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if turn.role == 'assistant' %}
        {%- set thoughts = '' %}
        {%- if turn.reasoning_content is string %}
            {%- set thoughts = turn.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thoughts = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > state.last_question and (loop.last or thoughts) %}
            {{- '<|im_start|>assistant\\n<think>\\n' + thoughts.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' ~ turn.role ~ '\\n' ~ content ~ '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
LLAMA3_TEMPLATE = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set system = "" %}
    {%- set turns = messages %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\nToday Date: " + date_string + "\\n\\n" + system + "<|eot_id|>" }}
{%- for turn in turns %}
    {%- if not (turn.role == 'ipython' or turn.role == 'tool' or 'tool_calls' in turn) %}
        {{- '<|start_header_id|>' + turn['role'] + '<|end_header_id|>\\n\\n' + turn['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

# (Special tokens, other added tokens) behind the vocabulary.
QWEN2_ADDED = (
    ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|fim_prefix|>"],
    ["<tool_call>", "</tool_call>"],
)
QWEN3_ADDED = (QWEN2_ADDED[0], QWEN2_ADDED[1] + ["<tool_response>", "</tool_response>", "<think>",
                                                "</think>"])
LLAMA3_ADDED = (
    ["<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|start_header_id|>",
     "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"], [],
)


def user(*contents: str) -> list[dict]:
    """Turns of user and assistant in alternation."""
    roles = ["user", "assistant"]
    return [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]


def system(content: str, *contents: str) -> list[dict]:
    return [{"role": "system", "content": content}] + user(*contents)


CONVERSATIONS = [
    user("Why is the sky blue?"),
    user("Hi", "Hello! How can I help?", "Name three rivers."),
    system("You are terse.", "What is 2 + 2?"),
    system("You are terse.", "What is 2 + 2?", "4", "And 3 + 3?", "6", "Thanks"),
    system("", "An empty system prompt"),
    user(""),
    user("", "", ""),
    user("  leading and trailing blanks \n\n"),
    user("\n\n\nthree lines down\n"),
    user("\tif x == 1:\n\t\treturn None\n", "def f(x):\n    return x ** 2  # squared\n", "ok"),
    user("In 1969, 3.14159 is not 2,718; call +49 30 901820 or 1234567890."),
    user("v1.2.3-rc4 (0x1F) costs $4.50 or 12%, ½ ² Ⅷ ١٢٣ ४५६"),
    user("don't can't we'll they've I'm you'd it's", "DON'T SHOUT, WE'LL HEAR. 'S 'Twas"),
    user("snake_case camelCase kebab-case SCREAMING_CASE x+=1;"),
    user('{"key": [1, 2.5, null, true], "nested": {"a": "b"}} </s> <b>&amp;</b>'),
    user("Zürich naïve façade Ångström Übermäßig"),
    user("e\u0301 is not always \u00e9; \u1e9b\u0323 and \u212b and \uac00\u11a8"),
    user("Привет, как дела?", "Хорошо, а у тебя?", "Тоже"),
    user("你好，世界！今天是二〇二六年。", "日本語のテキストとカタカナ。한국어도"),
    user("مرحبا بالعالم", "שלום עולם"),
    user("हिन्दी में एक वाक्य, ไทยไม่มีช่องว่าง"),
    user("😀 👩‍👩‍👧‍👦 🇩🇪 ❤️ 🧑🏽‍🚀"),
    user("∑ ≤ ∞ α→β ∀x∃y ℝ"),
    user("\u00a0no-break\u2003em\u200bzero width\u2028line\u3000wide"),
    user("line one\r\nline two\r\n\r\n  indented \r\n"),
    user("a     b      c\n   \n \t \n d"),
    user("Say <|im_end|> and <|eot_id|> aloud", "<|im_start|>user\nno<|im_end|>", "<think> hm"),
    user("Count.", "<think>\none, two\n</think>\n\nTwo.", "Again.", "<think>\n\n</think>\nThree."),
    system("Think first.", "Why?", "<think>because</think>Because.", "<tool_response>\n5\n</tool_response>"),
    system("You answer from passages.",
           "Passage: The Danube rises in the Black Forest of Germany and flows for 2,850 kilometres "
           "to the Black Sea.\nQuestion: Where does the Danube rise?\nAnswer:",
           "the Black Forest", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa --------====....!!!??? 'ſ"),
]


def bytes_as_text(token: bytes) -> str:
    return "".join(BYTE_ALPHABET[byte] for byte in token)


def byte_alphabet() -> list[str]:
    """The character that stands for each byte in byte-level vocabularies."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return [chr(byte) if byte in printed else chr(256 + others.index(byte)) for byte in range(256)]


BYTE_ALPHABET = byte_alphabet()


def cut(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
    return pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def trained(pattern: str, normalizer) -> tuple[dict, list]:
    """Vocabulary and merges of the conversations and a small corpus."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = cut(pattern)
    if normalizer:
        made.normalizer = normalizer
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=TRAINED_TOKENS, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    texts = [turn["content"] for turns in CONVERSATIONS for turn in turns]
    texts.append((ROOT / "tests/fixtures/corpus_small.md").read_text(encoding="utf-8"))
    made.train_from_iterator(texts, trainer)
    model = json.loads(made.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def whole(path: pathlib.Path) -> tuple[dict, list]:
    """Vocabulary and merges of a tiktoken file: every way to put a token together, by rank."""
    lines = (line.split() for line in path.read_bytes().splitlines() if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    merges = []
    for token, rank in ranks.items():
        parts = [(token[:i], token[i:]) for i in range(1, len(token))]
        parts = [pair for pair in parts if pair[0] in ranks and pair[1] in ranks]
        parts.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        merges += [(rank, bytes_as_text(left), bytes_as_text(right)) for left, right in parts]
    merges.sort(key=lambda merge: merge[0])
    vocabulary = {bytes_as_text(token): rank for token, rank in ranks.items()}
    return vocabulary, [(left, right) for _, left, right in merges]


def added(names: tuple[list, list]) -> list[AddedToken]:
    specials, others = names
    return [AddedToken(name, special=True, normalized=False) for name in specials] + [
        AddedToken(name, special=False, normalized=False) for name in others]


def qwen(vocabulary: dict, merges: list, names, template: str):
    """With the pipeline that transformers builds for Qwen2."""
    made = transformers.Qwen2Tokenizer(
        vocab=vocabulary, merges=merges, unk_token=None, eos_token=None, pad_token=None)
    made.add_tokens(added(names))
    made.eos_token, made.pad_token = "<|im_end|>", "<|endoftext|>"
    made.chat_template = template
    return made


def llama3(vocabulary: dict, merges: list):
    model = models.BPE(vocabulary, merges, ignore_merges=True)
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = cut(SPLIT)
    made.decoder = decoders.ByteLevel()
    made.add_tokens(added(LLAMA3_ADDED))
    begin = "<|begin_of_text|>"
    made.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, made.token_to_id(begin))])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=begin, eos_token="<|eot_id|>",
        pad_token="<|finetune_right_pad_id|>", chat_template=LLAMA3_TEMPLATE)


def smollm2(path: pathlib.Path):
    """SmolLM2's own pipeline around the vocabulary of the default model."""
    fields = gguf.GGUFReader(path).fields

    def read(name: str):
        return fields[f"tokenizer.{name}"].contents()

    tokens = read("ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in read("ggml.merges")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    made = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True),
         pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    made.decoder = decoders.ByteLevel()
    control = gguf.TokenType.CONTROL
    types = read("ggml.token_type")
    made.add_tokens([AddedToken(token, special=True, normalized=False)
                     for token, kind in zip(tokens, types, strict=True) if kind == control])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<|im_start|>", eos_token="<|im_end|>",
        pad_token="<|im_end|>", chat_template=read("chat_template"))


def save(folder: pathlib.Path, name: str, made, pre: str, ends: list[str]) -> None:
    """As a folder and as a GGUF file."""
    made.save_pretrained(folder / name)
    ids = made.convert_tokens_to_ids(ends)
    transformers.GenerationConfig(eos_token_id=ids).save_pretrained(folder / name)
    parsed = json.loads((folder / name / "tokenizer.json").read_text(encoding="utf-8"))
    spelled = parsed["model"]["vocab"] | {
        token["content"]: token["id"] for token in parsed["added_tokens"]}
    types = {token["content"]: gguf.TokenType.CONTROL if token["special"] else
             gguf.TokenType.USER_DEFINED for token in parsed["added_tokens"]}
    tokens = sorted(spelled, key=spelled.get)
    assert [spelled[token] for token in tokens] == list(range(len(tokens)))
    writer = gguf.GGUFWriter(folder / f"{name}.gguf", "llama" if pre == "llama-bpe" else "qwen2")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([types.get(token, gguf.TokenType.NORMAL) for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in parsed["model"]["merges"]])
    # One end only, as converters write it.
    writer.add_eos_token_id(ids[0])
    if made.bos_token_id is not None:
        writer.add_bos_token_id(made.bos_token_id)
    writer.add_chat_template(made.chat_template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def row(made, turns: list[dict]) -> dict:
    ask = turns[-1]["role"] == "user"
    text = made.apply_chat_template(turns, tokenize=False, add_generation_prompt=ask)
    ids = made.apply_chat_template(turns, add_generation_prompt=ask, return_dict=False)
    assert ids == made(text, add_special_tokens=False).input_ids
    plain = made(turns[-1]["content"], add_special_tokens=False, split_special_tokens=True)
    return {"text": text, "ids": ids, "plain": plain.input_ids}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path, help="the default model's GGUF file")
    parser.add_argument("--full", nargs=2, type=pathlib.Path, metavar=("QWEN", "LLAMA3"))
    parser.add_argument("--into", type=pathlib.Path, default=ROOT / "tests/fixtures/chat")
    arguments = parser.parse_args()
    folder = arguments.into
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.full:
        qwen_vocabulary, llama3_vocabulary = map(whole, arguments.full)
    else:
        qwen_vocabulary = trained(SPLIT.replace("{1,3}", ""), normalizers.NFC())
        llama3_vocabulary = trained(SPLIT, None)
        # Words that no merges lead to: Llama 3 takes them whole all the same.
        for word in [" Question", "Passage", "ĠRiver"]:
            llama3_vocabulary[0].setdefault(word.replace(" ", "Ġ"), len(llama3_vocabulary[0]))
    made = {
        "qwen2": qwen(*qwen_vocabulary, QWEN2_ADDED, QWEN2_TEMPLATE),
        "qwen3": qwen(*qwen_vocabulary, QWEN3_ADDED, QWEN3_TEMPLATE),
        "llama3": llama3(*llama3_vocabulary),
    }
    qwen_ends = ["<|im_end|>", "<|endoftext|>"]
    save(folder, "qwen2", made["qwen2"], "qwen2", qwen_ends)
    save(folder, "qwen3", made["qwen3"], "qwen2", qwen_ends)
    save(folder, "llama3", made["llama3"], "llama-bpe",
         ["<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"])
    made["smollm2"] = smollm2(arguments.model)
    versions = ["transformers", "tokenizers", "gguf"]
    values = {
        "made_with": {name: importlib.metadata.version(name) for name in versions},
        "conversations": CONVERSATIONS,
        "rows": {name: [row(one, turns) for turns in CONVERSATIONS] for name, one in made.items()},
    }
    text = json.dumps(values, ensure_ascii=False)
    (folder / "values.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
