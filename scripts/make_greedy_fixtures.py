#!/usr/bin/env python3
"""Makes tests/fixtures/greedy.json and tests/fixtures/tokenizer.json with llama.cpp.

The model's weights are dequantised to float32 first: llama.cpp's own run on Q4_1 weights rounds
activations to 8 bits, which nightschool does not do, so its continuations part company early.
The key-value cache is float32 too, and flash attention and prompt reuse are off.

    python3 -m venv /tmp/fixtures
    /tmp/fixtures/bin/pip install xllamacpp==2026.10.11549 gguf==0.19.0
    /tmp/fixtures/bin/python scripts/make_greedy_fixtures.py MODEL.gguf

MODEL.gguf is the file `nightschool model fetch smollm2-135m` stores. Takes about three minutes
on two idle cores.
"""

import argparse
import hashlib
import importlib.metadata
import json
import pathlib
import sys
import tempfile
import urllib.request

import gguf
import numpy
import xllamacpp

NEW_TOKENS = 40
THREADS = 2
FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures"

CHAT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n"
)

FEW_SHOT = """Answer the question with a few words from the passage.

Passage: The Danube rises in the Black Forest of Germany and flows for 2,850 kilometres to the \
Black Sea.
Question: Where does the Danube rise?
Answer: the Black Forest

Passage: Marie Curie received the Nobel Prize in Physics in 1903, together with Pierre Curie and \
Henri Becquerel.
Question: In which year did Marie Curie receive the prize in physics?
Answer: 1903

Passage: Basalt is a dark volcanic rock that forms when lava rich in iron and magnesium cools \
quickly near the surface.
Question: What kind of rock is basalt?
Answer:"""

LIGHTHOUSE = """The lighthouse at the end of the northern pier was finished in the autumn of 1861, \
after three winters of work that had to stop whenever the sea was too high. Its tower is built of \
grey granite, cut inland and carried to the harbour on barges, and it stands thirty-four metres \
above the rock. The first keeper, a retired sailor, lived there with his wife and four children \
in two small rooms below the lamp. Every evening he climbed one hundred and sixty steps with a \
can of oil, trimmed the wick and wound the clockwork that turned the lens. In thick weather he \
rang a bell once every minute until the fog lifted, sometimes for more than two days. When \
electricity came in 1927 the clockwork was taken out, and since 1984 nobody has lived in the \
tower: the light is switched on by a sensor, and an engineer looks in twice a year. The keeper's \
rooms are now a small museum, which is open from May to September. Visitors can still see the \
bell, the old logbooks and"""

# (name, text, whether special tokens in the text are meant as such)
PROMPTS = [
    ("capital", "The capital of France is", False),
    ("physics", "Photosynthesis is the process by which", False),
    ("story", "Once upon a time, in a small village by the sea,", False),
    ("python", 'def fibonacci(n):\n    """Return the n-th Fibonacci number."""\n', False),
    ("rust", "fn main() {\n    let mut total: u64 = 0;\n    for i in 1..=10 {\n", False),
    ("chat", CHAT, True),
    ("few_shot", FEW_SHOT, False),
    ("numbers", "1, 2, 4, 8, 16, 32, 64, 128,", False),
    ("french", "Bonjour, je m'appelle Amélie et j'habite à", False),
    ("passage", LIGHTHOUSE, False),
]

# (text, whether special tokens in the text are meant as such)
STRINGS = [
    ("", False),
    ("Hello", False),
    (" Hello", False),
    ("  two leading spaces", False),
    ("trailing space ", False),
    (" ", False),
    ("     ", False),
    ("\n", False),
    ("\n\n\n", False),
    ("line one\nline two\r\nline three\n\n  indented", False),
    ("\tif x == 1:\n\t\treturn None", False),
    ("1234567890", False),
    ("In 1969, 3.14159 is not 2,718; call +49 30 901820.", False),
    ("v1.2.3-rc4 (0x1F) costs $4.50 or 12%", False),
    ("don't can't we'll they've I'm you'd it's", False),
    ("DON'T SHOUT", False),
    ("snake_case camelCase kebab-case SCREAMING_CASE", False),
    ("let x: Vec<u8> = vec![0; 16]; // zeroed", False),
    ('{"key": [1, 2.5, null, true], "nested": {"a": "b"}}', False),
    ("Zürich naïve façade Ångström Übermäßig", False),
    ("e\u0301 is not always \u00e9", False),
    ("Привет, как дела?", False),
    ("你好，世界！今天是二〇二六年。", False),
    ("日本語のテキストとカタカナ", False),
    ("مرحبا بالعالم ١٢٣", False),
    ("हिन्दी में एक वाक्य", False),
    ("😀 👩‍👩‍👧‍👦 🇩🇪 ❤️", False),
    ("½ ² Ⅷ ∑ ≤ ∞ α→β", False),
    ("\u00a0no-break\u2003em\u200bzero width\ufeff", False),
    ("antidisestablishmentarianism pneumonoultramicroscopic", False),
    ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", False),
    ("--------====....!!!???", False),
    # Some control characters have no token in this vocabulary: they are dropped.
    ("bell\x07 end\x04 ack\x06 nul\x00 esc\x1b", False),
    ("private \U000F0000 plane", False),
    ("https://en.wikipedia.org/wiki/Photosynthesis?x=1&y=2#top", False),
    ("<|im_start|>user\nHi<|im_end|>\n", True),
    ("<|im_start|>user\nHi<|im_end|>\n", False),
    ("<|endoftext|>", True),
    ("a <|im_end|> b", True),
    ("a <|im_end|> b", False),
    ("<|im_start|", True),
    (CHAT, True),
]


# Other ways of cutting text than the model's own, compared on the same vocabulary.
OTHER_PRE = ["gpt-2", "llama-bpe", "qwen2"]


def dequantise(source: pathlib.Path, target: pathlib.Path, pre: str | None = None) -> None:
    """Writes the GGUF file `source` with every tensor as float32, and `pre` for its way of
    cutting text."""
    reader = gguf.GGUFReader(source)
    architecture = reader.get_field(gguf.Keys.General.ARCHITECTURE).contents()
    writer = gguf.GGUFWriter(target, architecture)
    for field in reader.fields.values():
        # The writer sets these itself.
        if field.name.startswith("GGUF.") or field.name == gguf.Keys.General.ARCHITECTURE:
            continue
        if field.name == gguf.Keys.General.FILE_TYPE:
            writer.add_file_type(gguf.LlamaFileType.ALL_F32)
            continue
        if field.name == gguf.Keys.Tokenizer.PRE and pre:
            writer.add_tokenizer_pre(pre)
            continue
        kind = field.types[0]
        sub_kind = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_kind)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def serve(model: pathlib.Path) -> xllamacpp.Server:
    """Loads `model` with float32 caches and one slot."""
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx = 2048
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = THREADS
    params.cpuparams_batch.n_threads = THREADS
    params.warmup = False
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = xllamacpp.ggml_type.GGML_TYPE_F32
    params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    return xllamacpp.Server(params)


def post(server: xllamacpp.Server, path: str, body: dict) -> dict:
    """Sends one request to the llama.cpp server inside this process."""
    request = urllib.request.Request(
        server.listening_address + path,
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def tokenize(server: xllamacpp.Server, text: str, specials: bool) -> list[int]:
    """Token ids of `text`, nothing added."""
    body = {"content": text, "add_special": False, "parse_special": specials}
    return post(server, "/tokenize", body)["tokens"]


def continue_greedily(server: xllamacpp.Server, tokens: list[int], eos: int) -> list[int]:
    """At most NEW_TOKENS most likely tokens after `tokens`, the end token included."""
    answer = post(server, "/completion", {
        "prompt": tokens,
        "n_predict": NEW_TOKENS,
        "temperature": 0.0,
        "samplers": ["top_k"],
        "top_k": 1,
        "repeat_penalty": 1.0,
        "cache_prompt": False,
        "return_tokens": True,
    })
    if answer["tokens_evaluated"] != len(tokens):
        sys.exit(f"llama.cpp read {answer['tokens_evaluated']} of {len(tokens)} prompt tokens")
    new = answer["tokens"]
    if answer["stop_type"] == "eos" and new[-1:] != [eos]:
        new.append(eos)
    return new


def write(name: str, value: dict, made: dict, rows: str, row_list: list[dict]) -> None:
    """Writes one fixture, one row a line."""
    lines = ",\n".join("    " + json.dumps(row, ensure_ascii=False) for row in row_list)
    head = json.dumps(value | {"made_with": made}, ensure_ascii=False, indent=2)[:-2]
    path = FIXTURES / name
    path.write_text(f'{head},\n  "{rows}": [\n{lines}\n  ]\n}}\n', encoding="utf-8")
    json.loads(path.read_text(encoding="utf-8"))
    print(f"{path}: {len(row_list)} {rows}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path, help="the quantised GGUF file")
    parser.add_argument("--tokenizer-only", action="store_true", help="leave greedy.json alone")
    arguments = parser.parse_args()
    model = arguments.model
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    made = {
        "script": "scripts/make_greedy_fixtures.py",
        "xllamacpp": importlib.metadata.version("xllamacpp"),
        "gguf": importlib.metadata.version("gguf"),
        "weights": "dequantised to float32",
    }
    reader = gguf.GGUFReader(model)
    eos = int(reader.get_field(gguf.Keys.Tokenizer.EOS_ID).contents())
    FIXTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        dequantised = pathlib.Path(folder) / "f32.gguf"
        dequantise(model, dequantised)
        server = serve(dequantised)
        strings = [
            {
                "pre": "smollm",
                "text": text,
                "parse_specials": specials,
                "tokens": tokenize(server, text, specials),
            }
            for text, specials in STRINGS
        ]
        prompts = []
        for name, text, specials in [] if arguments.tokenizer_only else PROMPTS:
            tokens = tokenize(server, text, specials)
            new = continue_greedily(server, tokens, eos)
            prompts.append({
                "name": name,
                "prompt": text,
                "parse_specials": specials,
                "prompt_tokens": tokens,
                "tokens": new,
            })
        if prompts:
            write("greedy.json", {"model_sha256": sha256, "eos": eos}, made, "prompts", prompts)
        for pre in OTHER_PRE:
            del server
            dequantise(model, dequantised, pre)
            server = serve(dequantised)
            strings += [
                {
                    "pre": pre,
                    "text": text,
                    "parse_specials": specials,
                    "tokens": tokenize(server, text, specials),
                }
                for text, specials in STRINGS
            ]
        write("tokenizer.json", {"model_sha256": sha256}, made, "strings", strings)


if __name__ == "__main__":
    main()
