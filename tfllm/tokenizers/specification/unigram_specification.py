"""Read a tokenizer.json of a Unigram model into the tables that its graph is built from.

This module does not use TensorFlow. Whatever the graph could not do exactly is refused by name.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfllm.tokenizers.added_tokens import SPACE_PATTERN, AddedToken, read_added_tokens
from tfllm.tokenizers.leading_space import SPACE
from tfllm.tokenizers.specification.byte_pair_specification import ids_around
from tfllm.tokenizers.specification.metaspace_specification import (
    Prepend,
    Replace,
    SpaceRules,
    metaspace_rules,
    normalizer_of,
    replacement,
    steps_of,
)
from tfllm.tokenizers.specification.precompiled import PrecompiledTable, precompiled_table
from tfllm.tokenizers.specification.sentence_piece_model import (
    CONTROL,
    NORMAL,
    UNKNOWN,
    sentence_piece_model,
)
from tfllm.tokenizers.specification.split_pattern import UnsupportedTokenizer

_NO_TEXT = "\ufdd0 \ufdd0"
"""Beginning of pieces that no text is meant to contain."""
# Control characters that replace U+0000 while text is cut; see `AddedTokenCuts`.
_STAND_INS = (*map(chr, range(1, 9)), *map(chr, range(14, 28)), *"\ufff9\ufffa\ufffb")


@dataclass(frozen=True)
class Composed:
    """The normalizer NFC."""


Normalizer = Prepend | Replace | Composed | PrecompiledTable


@dataclass(frozen=True)
class UnigramSpecification:
    """Everything that the in-graph tokenizer is built from.

    Attributes:
        model: Content of a tokenizer.model with the pieces and their scores, which does nothing to
            a text but cut it.
        ids: int32 [pieces of the model], the id of each piece.
        unknown: The model's number for text without a piece.
        byte_ids: int32 [256], the ids of bytes, for text without a piece; or empty.
        added: The added tokens.
        normalizers: Normalizers of all text, in order.
        splits_at_space: Whether text is split at white space, which is dropped.
        spaces: What is then done to each stretch, or to each part of one; None for nothing.
        stand_in: Control character that occurs in no added token and that normalizers keep.
        begin, end: Ids put before and after every text.
    """

    model: bytes
    ids: np.ndarray
    unknown: int
    byte_ids: np.ndarray
    added: list[AddedToken]
    normalizers: list[Normalizer]
    splits_at_space: bool
    spaces: SpaceRules | None
    stand_in: int
    begin: list[int]
    end: list[int]


def read_unigram_specification(
    tokenizer_json: str, added_tokens: Mapping[int, Any]
) -> UnigramSpecification:
    """Read the specification of a tokenizer.json.

    Args:
        tokenizer_json: Text of the file.
        added_tokens: Added tokens by id, as the library numbers them.

    Raises:
        UnsupportedTokenizer: If the file requires something that the in-graph tokenizer cannot do.
    """
    content: dict[str, Any] = json.loads(tokenizer_json)
    model = content["model"]
    if model.get("unk_id") is None:
        raise _refuse("a Unigram model without an unknown token")
    normalizer = content.get("normalizer")
    normalizers = _normalizers(normalizer)
    splits, spaces = _spaces(content.get("pre_tokenizer"), normalizers)
    begin, end = ids_around(content.get("post_processor"))
    added = read_added_tokens(added_tokens, normalizer_of(normalizer), _refuse)
    special = {token.content for token in added_tokens.values() if token.special}
    proto, ids = _model(model, special)
    vocab = {piece: id_ for id_, (piece, _) in enumerate(model["vocab"])}
    byte_ids = np.array([vocab.get(f"<0x{b:02X}>", -1) for b in range(256)], np.int32)
    if not model.get("byte_fallback"):
        byte_ids = np.zeros(0, np.int32)
    elif (byte_ids < 0).any():
        raise _refuse("byte_fallback without a token for each of the 256 bytes")
    return UnigramSpecification(
        model=proto,
        ids=ids,
        unknown=len(vocab),
        byte_ids=byte_ids,
        added=added,
        normalizers=normalizers,
        splits_at_space=splits,
        spaces=spaces,
        stand_in=_stand_in(added, normalizer),
        begin=begin,
        end=end,
    )


def _model(model: Mapping[str, Any], special: set[str]) -> tuple[bytes, np.ndarray]:
    """The content of a tokenizer.model, and the id of each of its pieces."""
    vocab: Sequence[tuple[str, float]] = model["vocab"]
    pieces = [piece for piece, _ in vocab]
    if "" in pieces or len(set(pieces)) < len(pieces):
        raise _refuse("a vocabulary with a piece that is empty or occurs twice")
    # Special tokens are only found where the text is cut at them.
    types = [CONTROL if piece in special else NORMAL for piece in pieces]
    # SentencePiece's unknown piece occurs in no text, but the library's may.
    pieces, types = [*pieces, _NO_TEXT], [*types, UNKNOWN]
    scores = [*(score for _, score in vocab), 0.0]
    ids = [*range(len(vocab)), model["unk_id"]]
    least = min(scores[:-1])
    if least < min((s for s, kind in zip(scores, types, strict=True) if kind == NORMAL), default=0):
        # Unknown text costs 10 more than the worst piece, whatever that is.
        pieces, types = [*pieces, f"{_NO_TEXT} "], [*types, NORMAL]
        scores, ids = [*scores, least], [*ids, model["unk_id"]]
    made = sentence_piece_model(
        pieces,
        scores,
        types,
        model_type="unigram",
        add_dummy_prefix=False,
        escape_whitespaces=False,
    )
    return made, np.array(ids, np.int32)


def _normalizers(settings: dict[str, Any] | None) -> list[Normalizer]:
    found: list[Normalizer] = []
    for step in steps_of(settings, "normalizers"):
        kind = step["type"]
        if kind == "Precompiled":
            charsmap = base64.b64decode(step["precompiled_charsmap"] or "")
            if charsmap:
                found.append(_table(charsmap))
        elif kind == "NFC":
            found.append(Composed())
        elif kind == "Strip":
            if step["strip_left"]:
                found.append(Replace(rf"\A{SPACE_PATTERN}", ""))
            if step["strip_right"]:
                found.append(Replace(rf"{SPACE_PATTERN}\z", ""))
        elif kind == "Prepend":
            found.append(Prepend(step["prepend"]))
        elif kind == "Replace":
            found.append(replacement(step, _refuse))
        else:
            raise _refuse(f"the normalizer {kind!r}")
    return found


def _table(charsmap: bytes) -> PrecompiledTable:
    try:
        return precompiled_table(charsmap)
    except ValueError as error:
        raise _refuse(str(error)) from None


def _spaces(
    settings: dict[str, Any] | None, normalizers: Sequence[Normalizer]
) -> tuple[bool, SpaceRules | None]:
    """Whether text is split at white space, and what Metaspace then does."""
    steps = steps_of(settings, "pretokenizers")
    kinds = [step["type"] for step in steps]
    if kinds not in ([], ["Metaspace"], ["WhitespaceSplit"], ["WhitespaceSplit", "Metaspace"]):
        raise _refuse(f"the pre-tokenizer {' and '.join(kinds)}")
    splits = "WhitespaceSplit" in kinds
    if kinds[-1:] != ["Metaspace"]:
        return splits, None
    rules = metaspace_rules(steps[-1], _refuse)
    # Whether a part is the first is determined by its position in the original text.
    changes = any(n != Replace(r"\x{20}", SPACE) for n in normalizers)
    if rules.prepend == "first" and (splits or changes):
        raise _refuse("prepend_scheme 'first' of Metaspace if text is split or changed before it")
    return splits, rules


def _stand_in(added: Sequence[AddedToken], normalizer: dict[str, Any] | None) -> int:
    used = {c for token in added for c in token.content}
    normalize = normalizer_of(normalizer)
    # Normalizers may drop white space at either end, so each is tested within other characters.
    free = (c for c in _STAND_INS if c not in used and f"a{c}a" in normalize(f"ba{c}ab"))
    found = next(free, None)
    if found is None or "\0" in used:
        raise _refuse("a normalizer or added tokens that leave no control character as it is")
    return ord(found)


def _refuse(what: str) -> UnsupportedTokenizer:
    return UnsupportedTokenizer(
        f"the in-graph tokenizer cannot do {what}, which this tokenizer.json requires; use the "
        "model that it was made from (spiece.model), or tokenize outside the graph (encode)"
    )
