"""Every kind of tokenizer.json that may be read, put together from parts, and texts for them."""

from __future__ import annotations

import base64
import functools
import itertools
import json
import random
from collections.abc import Iterator

from tests.tokenizers.samples import SPLIT_PATTERNS, byte_level, split, texts
from tests.tokenizers.sentence_pieces import trained_model
from tfllm.tokenizers.specification.sentence_piece_model import read_model

SPACE = "\u2581"
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")

WHITE = [
    *" \n\r\t\v\f",
    *"\x1c\x85\u00a0\u1680\u2000\u2003\u2028\u2029\u202f\u205f\u3000\u200b\ufeff",
]
CONTROLS = [chr(p) for p in (0, 1, 7, 0x1B, 0x7F, 0x9F, 0xAD, 0x200D, 0x200E, 0xFFF9, 0xE0001)]
MARKS = [chr(p) for p in (0x300, 0x301, 0x302, 0x327, 0x345, 0x5B0, 0x64B, 0x903, 0x93F, 0x94D,
                          0x302E, 0x3099, 0xFE0F, 0x20E3, 0x1D165)]  # fmt: skip
LETTERS = [
    *("a", "b", "A", "the", " the", "fox", "The", "ing", "12", "3", "_", "-", "!", "'s", "#", "##"),
    *("e\u0301", *"\u00e9\ufb01\uff41\u00bd\u0130\u017f\u1e9e\u03a3\u00c5\u212b\u0600\u0915"),
    *"\u4e2d\u6587\u3002\uac00\u1100\u1161\u11a8\U0001f389\U0001f1e9\u00a9\ufffd\U0010ffff",
    *(SPACE, SPACE * 2, "<0x41>", "<", ">", "/s"),
]  # fmt: skip
TOKENS = ["<s>", "</s>", "<unk>", "<x>", "fox!", "Ab", "\u4e2dB", "[MASK]", "\u00c9t\u00e9", "a b"]


def hard_batch(number: int, seed: int) -> list[str]:
    """Random texts of white space, control characters, marks, letters, tokens and anything."""
    chance = random.Random(seed)
    kinds = (WHITE, CONTROLS, MARKS, LETTERS, LETTERS, TOKENS, TOKENS)

    def part() -> str:
        if chance.random() < 0.1:
            point = chance.choice([chance.randrange(0x3000), chance.randrange(0x110000)])
            return chr(point) if not 0xD800 <= point < 0xE000 else "a"
        return chance.choice(chance.choice(kinds))

    rows = ["".join(part() for _ in range(chance.randint(1, 9))) for _ in range(number)]
    return ["", " ", "\n", *WHITE, *TOKENS, *rows]


def added_tokens(first_id: int, seed: int) -> list[dict]:
    """Tokens with random flags."""
    chance = random.Random(seed)
    chosen = chance.sample(TOKENS[3:], 5)
    return [
        {"id": first_id + i, "content": text, **{f: chance.random() < 0.4 for f in FLAGS}}
        for i, text in enumerate(chosen)
    ]


def special(content: str, id_: int) -> dict:
    flags = {**dict.fromkeys(FLAGS, False), "special": True}
    return {"id": id_, "content": content, **flags}


def sequence(kind: str, *steps: dict) -> dict | None:
    inside = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}[kind]
    if len(steps) < 2:
        return steps[0] if steps else None
    return {"type": "Sequence", inside: list(steps)}


def replace(pattern: dict, content: str) -> dict:
    return {"type": "Replace", "pattern": pattern, "content": content}


def metaspace(prepend: str = "always", split: bool = True) -> dict:
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": prepend, "split": split}


@functools.lru_cache
def _unigram(model: str) -> dict:
    proto = read_model(trained_model(model))
    return {
        "type": "Unigram",
        "unk_id": 0,
        "vocab": [[piece.piece, piece.score] for piece in proto.pieces],
        "byte_fallback": proto.trainer_spec.byte_fallback,
    }


def _charsmap() -> dict:
    data = read_model(trained_model("unigram")).normalizer_spec.precompiled_charsmap
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


STRIP = {"type": "Strip", "strip_left": True, "strip_right": True}
NORMALIZERS = {
    "none": (),
    "precompiled": (_charsmap,),
    "t5": (_charsmap, {"type": "Strip", "strip_left": False, "strip_right": True},
           replace({"Regex": " {2,}"}, SPACE)),
    "xlm-r": (_charsmap, replace({"Regex": " {2,}"}, " ")),
    "quotes": (replace({"String": "``"}, '"'), STRIP, _charsmap),
    "legacy": ({"type": "Prepend", "prepend": SPACE}, replace({"String": " "}, SPACE)),
    "nfc": ({"type": "NFC"},),
    "albert": ({"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}, _charsmap),
}  # fmt: skip
WHITESPACE = {"type": "WhitespaceSplit"}
PRE_TOKENIZERS = {
    "none": (),
    "metaspace": (metaspace(),),
    "unsplit": (metaspace(split=False),),
    "first": (metaspace("first"),),
    "never": (metaspace("never"),),
    "mbart": (WHITESPACE, metaspace()),
    "mbart_never": (WHITESPACE, metaspace("never")),
    "whitespace": (WHITESPACE,),
    "digits": ({"type": "Digits", "individual_digits": True}, metaspace()),
}


def unigrams() -> Iterator[tuple[str, dict]]:
    for number, (model, normalizer, pre) in enumerate(
        itertools.product(("unigram", "unigram_bytes"), NORMALIZERS, PRE_TOKENIZERS)
    ):
        steps = [step() if callable(step) else step for step in NORMALIZERS[normalizer]]
        content = _unigram(model)
        size = len(content["vocab"])
        yield (
            f"{model}-{normalizer}-{pre}",
            {
                "version": "1.0",
                "added_tokens": [
                    *(special(t, i) for i, t in enumerate(("<unk>", "<s>", "</s>"))),
                    *added_tokens(size, number),
                ],
                "normalizer": sequence("normalizer", *steps),
                "pre_tokenizer": sequence("pre_tokenizer", *PRE_TOKENIZERS[pre]),
                "post_processor": None,
                "decoder": metaspace(),
                "model": content,
            },
        )


def bert(lowercase: bool, strip: bool | None, chinese: bool = True, clean: bool = True) -> dict:
    return {
        "type": "BertNormalizer",
        "clean_text": clean,
        "handle_chinese_chars": chinese,
        "strip_accents": strip,
        "lowercase": lowercase,
    }


@functools.lru_cache
def _word_piece(lowercase: bool) -> dict:
    from tfllm.tokenizers import WordPiece

    return json.loads(WordPiece.train([*texts(), *LETTERS], 500, lowercase=lowercase).to_json())


def word_pieces() -> Iterator[tuple[str, dict]]:
    kinds = itertools.product((True, False), (None, True, False), (True, False), (True, False))
    for number, options in enumerate(kinds):
        content = _word_piece(options[0])
        size = len(content["model"]["vocab"])
        yield (
            f"{options}",
            {
                **content,
                "added_tokens": [*content["added_tokens"], *added_tokens(size, number)],
                "normalizer": bert(*options),
            },
        )


@functools.lru_cache
def _merging(model: str) -> dict:
    from tests.tokenizers.metaspace_tokenizers import content

    return json.loads(content(model))["model"]


def metaspaces() -> Iterator[tuple[str, dict]]:
    replaced = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"}
    pre_tokenizers = {**PRE_TOKENIZERS, "gemma": ({**replaced, "invert": False},)}
    normalizers = {
        **{name: NORMALIZERS[name] for name in ("none", "legacy", "nfc")},
        "spaces": (replace({"String": " "}, SPACE),),
        "sentence_piece": (
            replace({"Regex": r"\A +| +\z"}, ""),
            replace({"Regex": " {2,}"}, " "),
            replace({"String": " "}, SPACE),
            replace({"Regex": rf"\A{SPACE}"}, SPACE * 2),
        ),
    }
    decoders = [
        replace({"String": SPACE}, " "),
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    for number, (model, normalizer, pre) in enumerate(
        itertools.product(("bytes", "default"), normalizers, pre_tokenizers)
    ):
        values = _merging(model)
        yield (
            f"{model}-{normalizer}-{pre}",
            {
                "version": "1.0",
                "added_tokens": [
                    *(special(t, i) for i, t in enumerate(("<unk>", "<s>", "</s>"))),
                    *added_tokens(len(values["vocab"]), number),
                ],
                "normalizer": sequence("normalizer", *normalizers[normalizer]),
                "pre_tokenizer": sequence("pre_tokenizer", *pre_tokenizers[pre]),
                "post_processor": None,
                "decoder": {"type": "Sequence", "decoders": decoders},
                "model": values,
            },
        )


def byte_pairs() -> Iterator[tuple[str, dict]]:
    from tests.tokenizers.samples import trained

    digits = {"type": "Digits", "individual_digits": True}
    rules = {name: (split(pattern), byte_level()) for name, pattern in SPLIT_PATTERNS.items()}
    rules |= {"bare": (byte_level(use_regex=True),), "digits": (digits, byte_level(use_regex=True))}
    rules |= {"prefix": (byte_level(use_regex=True, add_prefix_space=True),)}
    for number, (pre, form, whole) in enumerate(
        itertools.product(rules, (None, "NFC", "NFKC"), (False, True))
    ):
        content = json.loads(trained(pre if pre in SPLIT_PATTERNS else "gpt2").to_json())
        size = len(content["model"]["vocab"])
        yield (
            f"{pre}-{form}-{whole}",
            {
                **content,
                "added_tokens": [*content["added_tokens"], *added_tokens(size, number)],
                "normalizer": {"type": form} if form else None,
                "pre_tokenizer": sequence("pre_tokenizer", *rules[pre]),
                "model": {**content["model"], "ignore_merges": whole},
            },
        )
