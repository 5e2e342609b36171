"""A tokenizer.json made from a SentencePiece model, with the rules that converters have written."""

import functools
import json

from tests.tokenizers.sentence_pieces import trained_model
from tfllm.tokenizers import MetaspaceTokenizer
from tfllm.tokenizers.specification.sentence_piece_model import read_model

SPACE = "\u2581"
PREPEND = {"type": "Prepend", "prepend": SPACE}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
LEGACY = {"type": "Sequence", "normalizers": [PREPEND, REPLACE]}
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
BACK = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
DECODERS = [BACK, {"type": "ByteFallback"}, {"type": "Fuse"}]


def metaspace(prepend: str = "always", split: bool = False) -> dict:
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": prepend, "split": split}


def regex(pattern: str, content: str) -> dict:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


# What converters have written for Llama 2, Mistral, Gemma and others, and transformers 5 for any.
RULES = {
    "legacy": {"normalizer": LEGACY},
    "first": {"pre_tokenizer": metaspace("first")},
    "always": {"pre_tokenizer": metaspace("always")},
    "never": {"pre_tokenizer": metaspace("never")},
    "split": {"pre_tokenizer": metaspace("always", split=True)},
    "split_first": {"pre_tokenizer": metaspace("first", split=True)},
    "replaced": {
        "normalizer": REPLACE,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
    },
    "transformers_5": {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                regex(r"\A +| +\z", ""),
                regex(" {2,}", " "),
                REPLACE,
                regex(rf"\A{SPACE}", SPACE * 2),
            ],
        },
        "pre_tokenizer": metaspace("always"),
    },
}


@functools.lru_cache
def content(model: str = "bytes") -> str:
    """A tokenizer.json with the pieces of a SentencePiece model, its merges in their order."""
    proto = read_model(trained_model(model))
    vocab = {p.piece: i for i, p in enumerate(proto.pieces)}
    usual = {p.piece: (-p.score, i) for i, p in enumerate(proto.pieces) if p.type == 1}
    merges = sorted(
        (usual[piece], vocab[piece[:i]], [piece[:i], piece[i:]])
        for piece in usual
        for i in range(1, len(piece))
        if piece[:i] in usual and piece[i:] in usual
    )
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    flags |= {"normalized": False, "special": True}
    result = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": c, **flags} for i, c in enumerate(["<unk>", "<s>", "</s>"])
        ],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [*DECODERS, STRIP]},
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": proto.trainer_spec.byte_fallback,
            "vocab": vocab,
            "merges": [merge for *_, merge in merges],
        },
    }
    return json.dumps(result)


@functools.lru_cache
def named(rules: str, model: str = "bytes") -> MetaspaceTokenizer:
    return made(model, **RULES[rules])


def made(model: str = "bytes", model_settings: dict | None = None, **changes) -> MetaspaceTokenizer:
    values = {**json.loads(content(model)), **changes}
    values["model"] |= model_settings or {}
    return MetaspaceTokenizer(json.dumps(values))
