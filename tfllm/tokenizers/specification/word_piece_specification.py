"""Read a tokenizer.json of WordPiece into the tables that its graph is built from."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from unicodedata import category, combining

from tfllm.tokenizers.added_tokens import AddedToken, read_added_tokens, stand_in_for_nul
from tfllm.tokenizers.specification.bert_characters import (
    BertCharacters,
    bert_characters,
    changing_places,
)
from tfllm.tokenizers.specification.byte_pair_specification import ids_around
from tfllm.tokenizers.specification.metaspace_specification import normalizer_of
from tfllm.tokenizers.specification.split_pattern import UnsupportedTokenizer


@dataclass(frozen=True)
class WordPieceSpecification:
    """Everything that the in-graph tokenizer is built from.

    Attributes:
        vocab: Tokens of the vocabulary that can occur in a text; token i has the id `ids[i]`.
        ids: Ids of these tokens.
        prefix: Prefix of the tokens that continue a word.
        unknown: Token for a word that cannot be made of tokens.
        most_characters: Number of characters above which a word is unknown.
        added: The added tokens.
        stand_in: Control character that occurs in no added token.
        characters: Replacements of characters.
        keeps_controls: Whether the normalizer keeps control characters.
        begin, end: Ids put before and after every text.
    """

    vocab: list[str]
    ids: list[int]
    prefix: str
    unknown: str
    most_characters: int
    added: list[AddedToken]
    stand_in: int
    characters: BertCharacters
    keeps_controls: bool
    begin: list[int]
    end: list[int]


def read_word_piece_specification(
    tokenizer_json: str, added_tokens: Mapping[int, Any]
) -> WordPieceSpecification:
    """Read the specification of a tokenizer.json.

    Args:
        tokenizer_json: Text of the file.
        added_tokens: Added tokens by id, as the library numbers them.

    Raises:
        UnsupportedTokenizer: If the file requires something that the in-graph tokenizer cannot do.
    """
    settings: dict[str, Any] = json.loads(tokenizer_json)
    model = settings["model"]
    _check_kind(settings, "normalizer", "BertNormalizer")
    _check_kind(settings, "pre_tokenizer", "BertPreTokenizer")
    vocab: dict[str, int] = model["vocab"]
    unknown = model["unk_token"]
    if unknown not in vocab:
        raise _refuse(f"an unknown token that is not in the vocabulary ({unknown!r})")
    if not model["continuing_subword_prefix"]:
        raise _refuse("a model without continuing_subword_prefix")
    if "" in vocab:
        raise _refuse("an empty token in the vocabulary")
    normalize = normalizer_of(settings["normalizer"])
    added = read_added_tokens(added_tokens, normalize, _refuse)
    normalizer = json.dumps(settings["normalizer"])
    pair = changing_places(normalizer, "".join(vocab))
    if pair:
        named = " and ".join(f"U+{ord(c):04X}" for c in pair)
        raise _refuse(f"a vocabulary with both {named}, which change places when adjacent")
    for token in added:
        marks = [c for c in token.content if combining(c)]
        if token.normalized and marks and changing_places(normalizer, _combining()):
            raise _refuse(
                f"the normalized added token {token.content!r}, whose U+{ord(marks[0]):04X} may "
                "change places with other marks"
            )
    reachable = _reachable(vocab, normalize, unknown)
    begin, end = ids_around(settings.get("post_processor"))
    return WordPieceSpecification(
        vocab=reachable,
        ids=[vocab[token] for token in reachable],
        prefix=model["continuing_subword_prefix"],
        unknown=unknown,
        most_characters=model["max_input_chars_per_word"],
        added=added,
        stand_in=stand_in_for_nul(added, _refuse),
        characters=bert_characters(normalizer, with_spaces=any(t.normalized for t in added)),
        keeps_controls=not settings["normalizer"]["clean_text"],
        begin=begin,
        end=end,
    )


def _reachable(
    vocab: Mapping[str, int], normalize: Callable[[str], str], unknown: str
) -> list[str]:
    """The tokens without those that contain control characters, with which the kernel is unsafe.

    Raises:
        UnsupportedTokenizer: If the vocabulary has such a token, and the normalizer keeps its
            characters.
    """
    reachable = []
    for token in vocab:
        controls = [c for c in token if category(c) in ("Cc", "Cf")]
        if controls and token == unknown:
            raise _refuse(f"the unknown token {token!r}, which has a control character")
        left = [c for c in controls if c in normalize(f"a{c}a")]
        if left:
            raise _refuse(
                f"the token {token!r} with the control character U+{ord(left[0]):04X}, which the "
                "normalizer does not remove"
            )
        if not controls:
            reachable.append(token)
    return reachable


@functools.lru_cache(maxsize=1)
def _combining() -> str:
    return "".join(c for c in map(chr, range(0x110000)) if combining(c))


def _refuse(what: str) -> UnsupportedTokenizer:
    return UnsupportedTokenizer(
        f"the in-graph tokenizer cannot do {what}, which this tokenizer.json requires; tokenize "
        "outside the graph (WordPiece.encode)"
    )


def _check_kind(settings: Mapping[str, Any], part: str, kind: str) -> None:
    found = (settings.get(part) or {}).get("type")
    if found != kind:
        raise _refuse(f"the {part} {found!r} ({kind} is needed)")
