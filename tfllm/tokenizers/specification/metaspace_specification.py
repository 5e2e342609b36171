"""Read a tokenizer.json that was converted from a SentencePiece model into tables for its graph.

This module does not use TensorFlow. Whatever the graph could not do exactly is refused by name.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tfllm.tokenizers.added_tokens import AddedToken, read_added_tokens, stand_in_for_nul
from tfllm.tokenizers.leading_space import SPACE, LeadingSpace
from tfllm.tokenizers.specification.byte_pair_specification import (
    ids_around,
    made_by_merges,
    read_merges,
)
from tfllm.tokenizers.specification.split_pattern import UnsupportedTokenizer

# The regular expressions that converters write into tokenizer.json, and their form in RE2.
_REPLACED = {r"\A +| +\z": r"\A +| +\z", " {2,}": " {2,}", rf"\A{SPACE}": rf"\A{SPACE}"}


@dataclass(frozen=True)
class Prepend:
    """A normalizer that puts a string before a text that is not empty."""

    text: str


@dataclass(frozen=True)
class Replace:
    """A normalizer that replaces what an RE2 pattern matches."""

    pattern: str
    text: str


@dataclass(frozen=True)
class SpaceRules:
    """A pre-tokenizer that writes U+2581 for each space.

    Attributes:
        prepend: Which stretches of a text get one before them, if they do not begin with one.
        split: Whether text is cut before each.
    """

    prepend: Literal["always", "first", "never"]
    split: bool


@dataclass(frozen=True)
class MetaspaceSpecification:
    """Everything that the in-graph tokenizer is built from.

    Attributes:
        tokens: Token of each id as written in the vocabulary; "" if there is none.
        added: The added tokens.
        normalizers: Normalizers of all text, in order.
        spaces: What is then done to each stretch between added tokens; None for nothing.
        stand_in: Control character that occurs in no added token.
        begin, end: Ids put before and after every text.
        characters: Ids of single characters.
        byte_ids: int32 [256], the ids of bytes, for characters without an id; or empty.
        unknown: Id of characters without an id, one for a run of them; -1 if there are byte ids.
        merge_pairs, merge_results, merge_unsafe: See `read_merges`.
        whole: Ids that a piece equal to the token always becomes.
        words: Ids that a word equal to the token becomes, whatever the merges say.
        neighbours: int64 [..., 2], the pairs of characters that are adjacent in some token.
    """

    tokens: list[str]
    added: list[AddedToken]
    normalizers: list[Prepend | Replace]
    spaces: SpaceRules | None
    stand_in: int
    begin: list[int]
    end: list[int]
    characters: dict[str, int]
    byte_ids: np.ndarray
    unknown: int
    merge_pairs: np.ndarray
    merge_results: np.ndarray
    merge_unsafe: np.ndarray
    whole: np.ndarray
    words: np.ndarray
    neighbours: np.ndarray


def read_metaspace_specification(
    tokenizer_json: str, added_tokens: Mapping[int, Any]
) -> MetaspaceSpecification:
    """Read the specification of a tokenizer.json.

    Args:
        tokenizer_json: Text of the file.
        added_tokens: Added tokens by id, as the library numbers them.

    Raises:
        UnsupportedTokenizer: If the file requires something that the in-graph tokenizer cannot do.
    """
    content: dict[str, Any] = json.loads(tokenizer_json)
    model = content["model"]
    _check_model(model)
    normalizers = _normalizers(content.get("normalizer"))
    spaces = _spaces(content.get("pre_tokenizer"), normalizers)
    begin, end = ids_around(content.get("post_processor"))
    added = read_added_tokens(added_tokens, normalizer_of(content.get("normalizer")), _refuse)
    vocab: dict[str, int] = model["vocab"]
    tokens = [""] * (max([*vocab.values(), *added_tokens], default=-1) + 1)
    for token, id_ in vocab.items():
        tokens[id_] = token
    for id_, t in added_tokens.items():
        tokens[id_] = t.content
    byte_ids = np.array([vocab.get(f"<0x{b:02X}>", -1) for b in range(256)], np.int32)
    if not model.get("byte_fallback"):
        byte_ids = np.zeros(0, np.int32)
    elif (byte_ids < 0).any():
        raise _refuse("byte_fallback without a token for each of the 256 bytes")
    unknown = -1 if len(byte_ids) else vocab[_unknown(model)]
    pairs, results, unsafe = read_merges(model, len(tokens))
    if np.isin(pairs, [*byte_ids, unknown]).any():
        raise _refuse("merges of bytes or of the unknown token")
    words = {t: i for t, i in vocab.items() if t} if model.get("ignore_merges") else {}
    inside = {tokens[i] for i in results} | words.keys()
    neighbours = {(ord(a), ord(b)) for token in inside for a, b in itertools.pairwise(token)}
    return MetaspaceSpecification(
        tokens=tokens,
        added=added,
        normalizers=normalizers,
        spaces=spaces,
        stand_in=stand_in_for_nul(added, _refuse),
        begin=begin,
        end=end,
        characters={t: i for t, i in vocab.items() if len(t) == 1},
        byte_ids=byte_ids,
        unknown=unknown,
        merge_pairs=pairs,
        merge_results=results,
        merge_unsafe=unsafe,
        whole=made_by_merges(model, {t: i for t, i in vocab.items() if t}),
        words=np.array(list(words.values()), np.int32),
        neighbours=np.array(sorted(neighbours), np.int64).reshape(-1, 2),
    )


def _refuse(what: str) -> UnsupportedTokenizer:
    return UnsupportedTokenizer(
        f"the in-graph tokenizer cannot do {what}, which this tokenizer.json requires; use the "
        "tokenizer.model that it was made from, or tokenize outside the graph (encode)"
    )


def _check_model(model: dict[str, Any]) -> None:
    if model.get("type") not in (None, "BPE"):
        raise _refuse(f"the model type {model['type']!r}")
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise _refuse(f"{key} {model[key]!r}")


def _unknown(model: dict[str, Any]) -> str:
    token = model.get("unk_token")
    if token is None:
        raise _refuse("characters without a token if there is no unk_token")
    if not model.get("fuse_unk"):
        raise _refuse("a separate token for each unknown character (fuse_unk false)")
    return token


def steps_of(settings: dict[str, Any] | None, inside: str) -> list[dict[str, Any]]:
    """Flatten a component of tokenizer.json into the steps of its sequence."""
    if settings is None:
        return []
    if settings["type"] == "Sequence":
        return [step for inner in settings[inside] for step in steps_of(inner, inside)]
    return [settings]


def _normalizers(settings: dict[str, Any] | None) -> list[Prepend | Replace]:
    found: list[Prepend | Replace] = []
    for step in steps_of(settings, "normalizers"):
        if step["type"] == "Prepend":
            found.append(Prepend(step["prepend"]))
        elif step["type"] == "Replace":
            found.append(replacement(step, _refuse))
        else:
            raise _refuse(f"the normalizer {step['type']!r}")
    return found


def replacement(step: dict[str, Any], refuse: Callable[[str], Exception]) -> Replace:
    """Read the normalizer Replace of tokenizer.json.

    Raises:
        UnsupportedTokenizer: If RE2 has no equivalent of its pattern.
    """
    pattern, text = step["pattern"], step["content"]
    if "\\" in text or not (pattern.get("String") or pattern.get("Regex")):
        raise refuse("a normalizer that replaces nothing, or inserts a backslash")
    if "String" in pattern:
        return Replace(_quoted(pattern["String"]), text)
    if pattern["Regex"] not in _REPLACED:
        raise refuse(f"the normalizer Replace of {pattern['Regex']!r}")
    return Replace(_REPLACED[pattern["Regex"]], text)


def _quoted(text: str) -> str:
    return "".join(rf"\x{{{ord(c):x}}}" for c in text)


def normalizer_of(settings: dict[str, Any] | None) -> Callable[[str], str]:
    """The library's normalizer as a function."""
    if settings is None:
        return str
    from tokenizers import Tokenizer, models

    tokenizer = json.loads(Tokenizer(models.BPE()).to_str())
    normalizer = Tokenizer.from_str(json.dumps({**tokenizer, "normalizer": settings})).normalizer
    assert normalizer is not None
    return normalizer.normalize_str


def _spaces(
    settings: dict[str, Any] | None, normalizers: list[Prepend | Replace]
) -> SpaceRules | None:
    steps = steps_of(settings, "pretokenizers")
    if any(n == Replace(_quoted(" "), SPACE) for n in normalizers):
        # Gemma's: there is no space left to split at.
        steps = [s for s in steps if (s["type"], s.get("pattern")) != ("Split", {"String": " "})]
    if not steps:
        return None
    if len(steps) > 1 or steps[0]["type"] != "Metaspace":
        kinds = [step["type"] for step in steps]
        raise _refuse(f"the pre-tokenizer {' and '.join(kinds)} (only Metaspace is supported)")
    return metaspace_rules(steps[0], _refuse)


def metaspace_rules(step: dict[str, Any], refuse: Callable[[str], Exception]) -> SpaceRules:
    """Read the pre-tokenizer Metaspace of tokenizer.json.

    Raises:
        UnsupportedTokenizer: If it writes another character than U+2581 for a space.
    """
    if step["replacement"] != SPACE:
        raise refuse(f"Metaspace with {step['replacement']!r}")
    if "prepend_scheme" in step:
        prepend = step["prepend_scheme"]
    else:
        prepend = "always" if step.get("add_prefix_space", True) else "never"
    return SpaceRules(prepend, step.get("split", True))


def leading_space(settings: dict[str, Any] | None) -> LeadingSpace:
    """Read what a decoder of tokenizer.json does with spaces at the start of a text.

    Raises:
        UnsupportedTokenizer: If it is not a decoder of U+2581 and bytes.
    """
    steps = steps_of(settings, "decoders")
    kinds = [step["type"] for step in steps]
    if kinds == ["Metaspace"] and steps[0]["replacement"] == SPACE:
        scheme = steps[0].get("prepend_scheme", "always")
        return "token" if steps[0].get("add_prefix_space", True) and scheme != "never" else "keep"
    if kinds and steps[0] == {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}:
        rest = [step for step in steps[1:] if step["type"] not in ("ByteFallback", "Fuse")]
        if not rest:
            return "keep"
        if rest == [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] and "Fuse" in kinds:
            return "one"
    raise _refuse(f"the decoder {' and '.join(kinds) or None}")
