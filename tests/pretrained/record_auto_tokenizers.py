"""Record auto_tokenizers.json: the ids that `AutoTokenizer` gives for folders that tfllm saved.

    python -m tests.pretrained.record_auto_tokenizers PYTHON [PYTHON ...]
    python -m tests.pretrained.record_auto_tokenizers --check PYTHON [PYTHON ...]

from the root, where tfllm is installed. Each PYTHON is that of a separate environment:

    python -m venv hf457
    hf457/bin/pip install 'transformers==4.57.*' sentencepiece protobuf tiktoken
    python -m venv hf5
    hf5/bin/pip install transformers==5.24.0 sentencepiece protobuf

For every family and every kind of tokenizer that it may have, a tiny model is saved, and saved
again after loading. The script fails if a version of `transformers` gives other ids than tfllm;
with `--check` it also fails if they differ from the recorded ones, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).with_name("auto_tokenizers.json")
ACCENTS = "e\u0301\u0302\u0327 \ufb01nd \u017ftill \u00bd \u00b2 \uff41\u0301"
SPACES = "a\u00a0b\u3000c\u2028d\x85e\x0bf"
TEXTS = [
    *("", " ", "the fox", " the fox", "the  fox\n", "The Quick Brown FOX", "\tthe\n\n fox \r\n"),
    *("it's IT'S they'd we'll", "1984 12345 3.14 \u0661\u0662\u0663", "a-b_c (d) [e]!? ... ===="),
    *("cafe\u0301 caf\u00e9 nai\u0308ve \u00c5 \u212b", ACCENTS, SPACES),
    *("\u4f60\u597d\uff0c\u4e16\u754c\u3002", "\u1100\u1161\u11a8 \uac01", "\u2581the \u2581 fox"),
    *("\u041f\u0440\u0438\u0432\u0435\u0442!", "\u0928\u092e\u0938\u094d\u0924\u0947"),
    *("\U0001f389\U0001f389 \U0001f469\u200d\U0001f469", "a\u200bb\ufeffc\u00add"),
    *("a</s>b", "<s> the", "the<pad><unk> fox", "<|endoftext|>the <|endoftext|> fox"),
    *("<|im_start|>user\nthe<|im_end|>", "a <tool> b<tool>c"),
    *("[CLS] the [MASK] [mask] fox [SEP]", "<extra_id_0> the <extra_id_1>", ">>fr<< the fox"),
    "def encode(self, text):\n    return [self.vocab[piece] for piece in text if piece != '']\n",
]  # fmt: skip
# SentencePiece's own library takes the longest entry of its table, `tokenizers` the shortest that a
# whole grapheme begins with; and U+0085 is white space to the one and not to the other.
UNLIKE = dict.fromkeys(("t5_model", "sentence_piece_normalizing"), (ACCENTS, SPACES))
_READ = """
import json, sys
from pathlib import Path
import transformers
place = Path(sys.argv[1])
texts = json.loads((place / "texts.json").read_text())
found = {}
for folder in sorted(p for p in place.iterdir() if p.is_dir()):
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        ids = [list(tokenizer(text)["input_ids"]) for text in texts]
        inputs = sorted(tokenizer("the fox"))
        plain = [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        decoded = [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
        found[folder.name] = {"class": type(tokenizer).__name__, "ids": ids, "plain": plain,
                              "decoded": decoded, "end": tokenizer.eos_token_id,
                              "inputs": inputs}
    except Exception as error:
        found[folder.name] = {"error": f"{type(error).__name__}: {error}"}
Path(sys.argv[2]).write_text(json.dumps({"version": transformers.__version__, "folders": found}))
"""


# ------------------------------------------------------------------ what tfllm writes


def byte_pair(split: str = "tfllm", chat: bool = False):
    from tests.tokenizers.samples import texts
    from tfllm.tokenizers import BytePairTokenizer

    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>") if chat else ("<|endoftext|>",)
    tokenizer = BytePairTokenizer.train(texts(), 500, split=split, special_tokens=special)
    return with_added(tokenizer) if chat else tokenizer


def with_added(tokenizer):
    """With a token that takes the spaces before it, and is no special one."""
    content = json.loads(tokenizer.to_json())
    flags = {"single_word": False, "lstrip": True, "rstrip": False, "normalized": False}
    added = {"id": tokenizer.vocab_size, "content": "<tool>", **flags, "special": False}
    content["added_tokens"].append(added)
    result = type(tokenizer)(json.dumps(content))
    result.settings = tokenizer.settings
    return result


def word_piece(**options):
    from tests.tokenizers.samples import texts
    from tfllm.tokenizers import WordPiece

    return WordPiece.train(texts(), 400, **options)


def metaspace(rules: str):
    from tests.tokenizers.metaspace_tokenizers import named

    return named(rules)


def unigram(name: str):
    from tests.tokenizers.specifications import unigrams
    from tfllm.tokenizers import UnigramTokenizer

    content = dict(unigrams())[name]
    content["added_tokens"] = content["added_tokens"][:3]
    return UnigramTokenizer(json.dumps(content), end_token="</s>")


def sentence_piece(name: str, **options):
    from tests.tokenizers.sentence_pieces import trained_model
    from tfllm.tokenizers import SentencePieceTokenizer

    return SentencePieceTokenizer(trained_model(name), **options)


def recorded_one(name: str, *files: str):
    """T5's or Marian's of the tests' own; of `files` alone, if any are named."""
    import shutil

    from tests.tokenizers.record_translation_tokenizers import FOLDER
    from tfllm.pretrained import load_tokenizer

    if not files:
        return load_tokenizer(FOLDER / name)
    with tempfile.TemporaryDirectory() as place:
        for file in files:
            shutil.copy(FOLDER / name / file, place)
        return load_tokenizer(place)


TOKENIZERS = {
    "byte_pair": byte_pair,
    "byte_pair_qwen2": lambda: byte_pair("qwen2"),
    "byte_pair_chat": lambda: byte_pair(chat=True),
    "byte_pair_qwen2_chat": lambda: byte_pair("qwen2", chat=True),
    "metaspace_legacy": lambda: metaspace("legacy"),
    "metaspace_first": lambda: metaspace("first"),
    "sentence_piece": lambda: sentence_piece("bytes", begin=[1]),
    "sentence_piece_first": lambda: sentence_piece("bytes", begin=[1], legacy=False),
    "sentence_piece_user_defined": lambda: sentence_piece("user_defined", begin=[1], end=[2]),
    "sentence_piece_unigram": lambda: sentence_piece("unigram_bytes"),
    "sentence_piece_normalizing": lambda: sentence_piece("default"),
    "word_piece": word_piece,
    "word_piece_added": lambda: with_added(word_piece()),
    "word_piece_cased": lambda: word_piece(lowercase=False),
    "word_piece_accents": lambda: word_piece(strip_accents=False),
    "t5": lambda: recorded_one("t5"),
    "mbart": lambda: unigram("unigram_bytes-none-mbart"),
    "t5_model": lambda: recorded_one("t5", "spiece.model", "config.json"),
    "marian": lambda: recorded_one("marian"),
}
_DECODERS = (
    *("byte_pair", "byte_pair_qwen2", "metaspace_legacy", "metaspace_first"),
    *("sentence_piece", "sentence_piece_first", "sentence_piece_user_defined"),
)
_MORE = ("byte_pair_chat", "byte_pair_qwen2_chat")
FAMILIES = {
    **dict.fromkeys(("gpt2", "mistral", "smollm3", "qwen3"), _DECODERS),
    "llama": (*_DECODERS, *_MORE, "sentence_piece_unigram", "sentence_piece_normalizing"),
    "qwen2": (*_DECODERS, *_MORE),
    "bert": ("word_piece", "word_piece_cased", "word_piece_accents", "word_piece_added"),
    "t5": ("t5", "t5_model", "byte_pair", "mbart"),
    "marian": ("marian", "byte_pair"),
}


def model_of(family: str, vocab_size: int, tokenizer):
    """A tiny model of a family."""
    sizes = {"vocab_size": vocab_size, "embedding_dim": 16, "num_layers": 2, "num_heads": 2}
    sizes |= {"feed_forward_dim": 16}
    if family == "bert":
        from tfllm.models.encoder import Encoder
        from tfllm.models.encoder_config import EncoderConfig

        return Encoder(EncoderConfig(**sizes))
    if family in ("t5", "marian"):
        from tfllm.models.encoder_decoder import EncoderDecoder
        from tfllm.models.sizes import size

        name = "t5-small" if family == "t5" else "transformer-tiny"
        config = size(name, **sizes, head_dim=8, num_decoder_layers=1, decoder_start_token_id=0)
        return EncoderDecoder(config)
    from tfllm.models.causal_lm import CausalLM
    from tfllm.models.sizes import size
    from tfllm.models.sizes.decoders import ROWS

    name = next(iter(ROWS[family]))
    assert family in ROWS
    changes = {"num_kv_heads": 2, "head_dim": 8, "max_sequence_length": 128, "rope_scaling": None}
    return CausalLM(size(name, **sizes, **changes))


def write(place: Path) -> dict[str, object]:
    """A folder for each case; the tokenizers by their names."""
    from tfllm.pretrained import load, save

    made = {name: make() for name, make in TOKENIZERS.items()}
    for family, names in FAMILIES.items():
        for name in names:
            tokenizer = made[name]
            folder = place / f"{family}-{name}"
            save(model_of(family, tokenizer.vocab_size, tokenizer), folder, tokenizer)
            again = load(folder)
            save(again.model, place / f"{family}-{name}-again", again.tokenizer)
    (place / "texts.json").write_text(json.dumps(TEXTS))
    return made


# ------------------------------------------------------------------ what others read


def read(python: str, place: Path) -> dict:
    """What an environment's AutoTokenizer makes of the folders."""
    result = place / "found.json"
    subprocess.run([python, "-W", "ignore", "-c", _READ, str(place), str(result)], check=True)
    return json.loads(result.read_text())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    parser.add_argument("python", nargs="+")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made_in:
        place = Path(made_in)
        made = write(place)
        ours = {
            name: {
                "ids": tokenizer.encode_batch(TEXTS),
                "plain": tokenizer.encode_batch(TEXTS, add_special=False),
                "end": tokenizer.end_token_id,
            }
            for name, tokenizer in made.items()
        }
        wrong, versions, classes, decoded = [], [], {}, {}
        for python in options.python:
            found = read(python, place)
            versions.append(found["version"])
            for folder, theirs in found["folders"].items():
                name = folder.split("-")[1]
                where = f"{found['version']} {folder}"
                if "error" in theirs:
                    wrong.append(f"{where}: {theirs['error']}")
                    continue
                classes.setdefault(folder, []).append(theirs["class"])
                inputs = ["attention_mask", "input_ids"]
                inputs += ["token_type_ids"] * folder.startswith("bert")
                if theirs["inputs"] != inputs:
                    wrong.append(f"{where} ({theirs['class']}): inputs {theirs['inputs']}")
                mine = {"decoded": decoded.setdefault(name, theirs["decoded"]), **ours[name]}
                for part in ("ids", "plain", "end", "decoded"):
                    unlike = _first(name, theirs[part], mine[part])
                    if unlike:
                        wrong.append(f"{where} ({theirs['class']}): {part}{unlike}")
    result = {
        "transformers": versions,
        "texts": TEXTS,
        "classes": classes,
        "tokenizers": {
            name: {**values, "decoded": decoded.get(name)} for name, values in ours.items()
        },
    }
    for line in wrong:
        print(line)
    if options.check and result != json.loads(RECORDED.read_text()):
        wrong.append("not what is recorded")
    if wrong:
        sys.exit(f"{len(wrong)} differences")
    if not options.check:
        RECORDED.write_text(json.dumps(result, separators=(",", ":")) + "\n")


def _first(name: str, theirs: Any, ours: Any) -> str:
    """The first difference; "" if there is none."""
    if not isinstance(theirs, list):
        return "" if theirs == ours else f" {theirs!r}, here {ours!r}"
    for text, a, b in zip(TEXTS, theirs, ours, strict=True):
        if a != b and text not in UNLIKE.get(name, ()):
            return f" of {text!r}: {a}, here {b}"
    return ""


if __name__ == "__main__":
    main()
