"""What of a WordPiece tokenizer.json the tokenizer inside a graph is built from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tfllm.tokenizers.added_tokens import AddedToken, check_added_tokens, stand_in_for_nul
from tfllm.tokenizers.bert_characters import BertCharacters, bert_characters, changing_places
from tfllm.tokenizers.split_pattern import UnsupportedTokenizer


@dataclass(frozen=True)
class WordPieceSpecification:
    """All that the in-graph tokenizer is built from.

    Attributes:
        vocab: the tokens of the vocabulary; token i has the id `ids[i]`.
        ids: see `vocab`.
        prefix: begins the tokens that continue a word.
        unknown: the token of a word that no tokens make.
        most_characters: a longer word is unknown.
        added: the added tokens.
        stand_in: a control character that is part of no added token.
        characters: what becomes of each character.
        begin, end: ids put before and after every text.
    """

    vocab: list[str]
    ids: list[int]
    prefix: str
    unknown: str
    most_characters: int
    added: list[AddedToken]
    stand_in: int
    characters: BertCharacters
    begin: list[int]
    end: list[int]


def read_word_piece_specification(
    tokenizer_json: str, added_tokens: Mapping[int, Any]
) -> WordPieceSpecification:
    """The specification of a tokenizer.json.

    Args:
        tokenizer_json: the file's text.
        added_tokens: id to added token, as the library numbers them.

    Raises:
        UnsupportedTokenizer: the file asks for what the in-graph tokenizer does not do.
    """
    settings: dict[str, Any] = json.loads(tokenizer_json)
    model = settings["model"]
    _check_kind(settings, "normalizer", "BertNormalizer")
    _check_kind(settings, "pre_tokenizer", "BertPreTokenizer")
    vocab: dict[str, int] = model["vocab"]
    unknown = model["unk_token"]
    if unknown not in vocab:
        raise _refuse(f"an unknown token that the vocabulary has not ({unknown!r})")
    if not model["continuing_subword_prefix"]:
        raise _refuse("a model without continuing_subword_prefix")
    if "" in vocab:
        raise _refuse("an empty token in the vocabulary")
    for token in added_tokens.values():
        if token.normalized or token.lstrip or token.rstrip:
            what = "normalized" if token.normalized else "lstrip" if token.lstrip else "rstrip"
            raise _refuse(f"{what} of the added token {token.content!r}")
    check_added_tokens(added_tokens.values(), _refuse)
    added = [
        AddedToken(id_, t.content, t.special, False)
        for id_, t in sorted(added_tokens.items())
        if t.content
    ]
    normalizer = json.dumps(settings["normalizer"])
    pair = changing_places(normalizer, "".join(vocab))
    if pair:
        told = " and ".join(f"U+{ord(c):04X}" for c in pair)
        raise _refuse(f"a vocabulary with both {told}, which change places beside one another")
    begin, end = around(settings.get("post_processor"))
    return WordPieceSpecification(
        vocab=list(vocab),
        ids=list(vocab.values()),
        prefix=model["continuing_subword_prefix"],
        unknown=unknown,
        most_characters=model["max_input_chars_per_word"],
        added=added,
        stand_in=stand_in_for_nul(added, _refuse),
        characters=bert_characters(normalizer),
        begin=begin,
        end=end,
    )


def _refuse(what: str) -> UnsupportedTokenizer:
    return UnsupportedTokenizer(
        f"the in-graph tokenizer cannot do {what}, which this tokenizer.json asks for; tokenize "
        "outside the graph (WordPiece.encode)"
    )


def _check_kind(settings: Mapping[str, Any], part: str, kind: str) -> None:
    found = (settings.get(part) or {}).get("type")
    if found != kind:
        raise _refuse(f"the {part} {found!r} ({kind} is needed)")


def around(settings: dict[str, Any] | None) -> tuple[list[int], list[int]]:
    """The ids that are put before and after a text."""
    if settings is None:
        return [], []
    if settings["type"] == "BertProcessing":
        return [settings["cls"][1]], [settings["sep"][1]]
    if settings["type"] != "TemplateProcessing":
        raise _refuse(f"the post-processor {settings['type']!r}")
    sides: list[list[int]] = [[]]
    for item in settings["single"]:
        if "Sequence" in item:
            sides.append([])
        else:
            sides[-1] += settings["special_tokens"][item["SpecialToken"]["id"]]["ids"]
    if len(sides) != 2:
        raise _refuse(f"a template that has the text {len(sides) - 1} times")
    return sides[0], sides[1]
