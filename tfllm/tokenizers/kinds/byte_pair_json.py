"""Build a tokenizer.json of byte-level BPE from lists, as llama.cpp's files hold them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tfllm.tokenizers.specification.sentence_piece_model import (
    CONTROL,
    NORMAL,
    UNUSED,
    USER_DEFINED,
)

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LINES_AND_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_OTHER = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased(after: str) -> str:
    """Pattern of words that end before a new upper-case letter; `after` may follow a word."""
    before = r"[^\r\n\p{L}\p{N}]?"
    return f"{before}{_UPPER}*{_LOWER}+{after}|{before}{_UPPER}+{_LOWER}*{after}"


def _digits_up_to(most: int) -> str:
    digits = r"\p{N}" if most == 1 else rf"\p{{N}}{{1,{most}}}"
    return rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}|{_OTHER}|{_LINES_AND_SPACES}"


class BytePairRules(NamedTuple):
    """How a model family cuts text before it applies merges.

    Args:
        pattern: Regular expression of the pieces; "" for GPT-2's, which the library has built in.
        single_digits: Whether each digit is first split off by itself.
        normalizer: Type of the normalizer in tokenizer.json.
        ignore_merges: Whether a piece that is in the vocabulary always becomes that token, even if
            merges do not lead to it.
        begins: Whether a text gets the begin token unless a file says otherwise.
    """

    pattern: str = ""
    single_digits: bool = False
    normalizer: str | None = None
    ignore_merges: bool = False
    begins: bool = False


_GPT2 = BytePairRules()
_DIGITS_GPT2 = BytePairRules(single_digits=True)
_LLAMA3 = BytePairRules(_digits_up_to(3), ignore_merges=True, begins=True)
_QWEN2 = BytePairRules(_digits_up_to(1), normalizer="NFC")
_TEKKEN = BytePairRules(
    rf"{_cased('')}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_LINES_AND_SPACES}",
    ignore_merges=True,
    begins=True,
)
_GPT4O = BytePairRules(
    rf"{_cased(_CONTRACTIONS + '?')}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*"
    rf"|{_LINES_AND_SPACES}"
)

BYTE_PAIR_RULES: dict[str, BytePairRules] = {
    **dict.fromkeys(("gpt-2", "phi-2", "gpt2"), _GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "exaone", "minerva-7b",
                     "codeshell"), _DIGITS_GPT2),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "smaug-bpe", "dbrx"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2"), _QWEN2),
    "tekken": _TEKKEN,
    "gpt-4o": _GPT4O,
}  # fmt: skip
"""The rules by the names that llama.cpp gives them in `tokenizer.ggml.pre`."""


def byte_pair_json(
    tokens: Sequence[str],
    merges: Sequence[str],
    pre: str,
    *,
    types: Sequence[int] | None = None,
    begin: Sequence[int] = (),
    end: Sequence[int] = (),
) -> str:
    """Build the text of a tokenizer.json for `BytePairTokenizer`.

    Args:
        tokens: Token of each id, in the alphabet of byte-level BPE; added tokens as they are.
        merges: Merges in order of priority, each as the two tokens that it joins with a space
            between them.
        pre: Name of the split rules, a key of `BYTE_PAIR_RULES`.
        types: Token type of each id, as in llama.cpp. Control tokens become special tokens; unused
            ones are left out. Defaults to all normal.
        begin, end: Ids that are put before and after a text.

    Raises:
        ValueError: If `pre` is unknown, the lists do not match, or a token occurs twice.
    """
    rules = BYTE_PAIR_RULES.get(pre)
    if rules is None:
        raise ValueError(
            f"the split pattern must be one of {', '.join(BYTE_PAIR_RULES)}; received {pre!r}"
        )
    if types is None:
        types = [NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise ValueError(
            f"there must be one type for each token; received {len(types)} for {len(tokens)}"
        )
    vocab: dict[str, int] = {}
    for id_, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind == UNUSED:
            continue
        if vocab.setdefault(token, id_) != id_:
            raise ValueError(
                f"each token must occur only once; {token!r} is {vocab[token]} and {id_}"
            )
    pairs = [merge.split(" ") for merge in merges]
    for pair in pairs:
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocab.keys():
            raise ValueError(
                "a merge must name two tokens of the vocabulary whose union is a third; received "
                f"{' '.join(pair)!r}"
            )
    added = [
        {
            "id": id_,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == CONTROL,
        }
        for id_, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (CONTROL, USER_DEFINED)
    ]
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": rules.normalizer} if rules.normalizer else None,
        "pre_tokenizer": _pre_tokenizer(rules),
        "post_processor": around_template(tokens, begin, end) if begin or end else None,
        "decoder": _byte_level(use_regex=True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": rules.ignore_merges,
            "vocab": vocab,
            "merges": pairs,
        },
    }
    return json.dumps(content, ensure_ascii=False)


def _pre_tokenizer(rules: BytePairRules) -> dict[str, Any]:
    steps: list[dict[str, Any]] = []
    if rules.single_digits:
        steps.append({"type": "Digits", "individual_digits": True})
    if rules.pattern:
        pattern = {"Regex": rules.pattern}
        steps.append({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False})
    steps.append(_byte_level(use_regex=not rules.pattern))
    return steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def around_template(
    tokens: Sequence[str] | Mapping[int, str], begin: Sequence[int], end: Sequence[int]
) -> dict[str, Any]:
    """The post-processor that adds ids before and after a text."""
    before, after = (
        [{"SpecialToken": {"id": tokens[id_], "type_id": 0}} for id_ in ids] for ids in (begin, end)
    )
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in ("A", "B"))
    return {
        "type": "TemplateProcessing",
        "single": [*before, first, *after],
        "pair": [*before, first, *after, *before, second, *after],
        "special_tokens": {
            tokens[id_]: {"id": tokens[id_], "ids": [id_], "tokens": [tokens[id_]]}
            for id_ in (*begin, *end)
        },
    }
