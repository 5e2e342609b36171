"""Build the tokenizer of a GGUF file from the lists in its metadata.

llama.cpp's `tokenizer.ggml.model` is "gpt2" for byte-level BPE, where `tokenizer.ggml.pre` names
the split pattern, and "llama" for SentencePiece's BPE.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tfllm.config import ConfigError

if TYPE_CHECKING:
    from tfllm.tokenizers import BytePairTokenizer
    from tfllm.tokenizers.kinds.sentence_piece import SentencePieceTokenizer

_PREFIX = "tokenizer.ggml."
_NAMED = {
    "bos_token_id": "bos_token",
    "unknown_token_id": "unk_token",
    "padding_token_id": "pad_token",
}
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
"""The ends of a text, of a turn, and of a message that waits for a tool."""
_SENTENCE_PIECE_IDS = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
"""The ids that llama.cpp uses if a SentencePiece file names none."""


def read_tokenizer(
    metadata: Mapping[str, Any], where: str
) -> BytePairTokenizer | SentencePieceTokenizer | None:
    """Build the tokenizer with its special tokens and chat template; None if there is none.

    Args:
        metadata: Metadata of the file.
        where: Name of the file, for errors.

    Raises:
        ConfigError: If its kind is not supported, or its lists do not match.
    """
    given = {
        key.removeprefix(_PREFIX): value
        for key, value in metadata.items()
        if key.startswith(_PREFIX)
    }
    kind = given.get("model", "none")
    if kind in ("none", "no_vocab"):
        return None
    if kind not in _READERS:
        raise ConfigError(
            f"{where}: {_PREFIX}model must be one of {', '.join(_READERS)}; received {kind!r}. "
            "Give the Hugging Face folder that the file was made from"
        )
    try:
        _check_lists(given)
        tokenizer = _READERS[kind](given, metadata.get("general.architecture"))
    except ValueError as error:
        raise ConfigError(f"{where}: the tokenizer: {error}") from None
    tokens = given["tokens"]
    for key, name in _NAMED.items():
        if key in given:
            tokenizer.settings[name] = tokens[given[key]]
    ends = [given[key] for key in _ENDS if key in given]
    if ends:
        tokenizer.set_end_token_ids(list(dict.fromkeys(ends)))
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str) and template:
        tokenizer.settings["chat_template"] = template
    return tokenizer


def _check_lists(given: Mapping[str, Any]) -> None:
    """Check that the lists have the right types and one length, and that special ids exist."""
    tokens = given.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ValueError(f"{_PREFIX}tokens must be a list of texts; received {_short(tokens)}")
    for key, kinds in (("token_type", int), ("scores", int | float), ("merges", str)):
        values = given.get(key)
        if values is None:
            continue
        if not isinstance(values, list) or not all(isinstance(value, kinds) for value in values):
            raise ValueError(f"{_PREFIX}{key} must be a list; received {_short(values)}")
        if key != "merges" and len(values) != len(tokens):
            raise ValueError(
                f"{_PREFIX}{key} must have one entry for each of the {len(tokens):,} tokens; "
                f"received {len(values):,}"
            )
    for key in (*_NAMED, *_ENDS):
        id_ = given.get(key)
        if id_ is not None and (not isinstance(id_, int) or not 0 <= id_ < len(tokens)):
            raise ValueError(
                f"{_PREFIX}{key} must be the id of one of the {len(tokens):,} tokens; "
                f"received {id_!r}"
            )


def _byte_pair(given: Mapping[str, Any], architecture: Any) -> BytePairTokenizer:
    from tfllm.tokenizers import BytePairTokenizer
    from tfllm.tokenizers.kinds.byte_pair_json import BYTE_PAIR_RULES, byte_pair_json

    pre = given.get("pre")
    if pre in (None, "default") and architecture == "gpt2":  # files from before the key existed
        pre = "gpt-2"
    if pre not in BYTE_PAIR_RULES:
        raise ValueError(
            f"{_PREFIX}pre must name how text is cut before merging, as one of "
            f"{', '.join(BYTE_PAIR_RULES)}; received {pre!r}"
        )
    begin, end = _around(given, begins=BYTE_PAIR_RULES[pre].begins)
    text = byte_pair_json(
        given["tokens"],
        given.get("merges", []),
        pre,
        types=given.get("token_type"),
        begin=begin,
        end=end,
    )
    tokenizer = BytePairTokenizer(text)
    tokenizer.settings |= {"add_bos_token": bool(begin), "add_eos_token": bool(end)}
    return tokenizer


def _sentence_piece(given: Mapping[str, Any], architecture: Any) -> SentencePieceTokenizer:
    from tfllm.tokenizers.kinds.sentence_piece import SentencePieceTokenizer
    from tfllm.tokenizers.specification.sentence_piece_model import NORMAL, sentence_piece_model

    del architecture
    tokens = given["tokens"]
    given = {**_SENTENCE_PIECE_IDS, **given}
    begin, end = _around(given, begins=True)
    model = sentence_piece_model(
        tokens,
        given.get("scores", [0.0] * len(tokens)),
        given.get("token_type", [NORMAL] * len(tokens)),
        add_dummy_prefix=given.get("add_space_prefix", True),
        remove_extra_whitespaces=given.get("remove_extra_whitespaces", False),
        bos_id=given["bos_token_id"],
        eos_id=given["eos_token_id"],
        pad_id=given.get("padding_token_id", -1),
    )
    return SentencePieceTokenizer(model, begin=begin, end=end)


def _around(given: Mapping[str, Any], *, begins: bool) -> tuple[list[int], list[int]]:
    """The ids that are put before and after a text."""
    around = []
    for flag, key, default in (
        ("add_bos_token", "bos_token_id", begins),
        ("add_eos_token", "eos_token_id", False),
    ):
        wanted = given.get(flag, default)
        if wanted and key not in given:
            raise ValueError(f"{_PREFIX}{flag} needs {_PREFIX}{key}, which is missing")
        around.append([given[key]] if wanted else [])
    return around[0], around[1]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."


_READERS: dict[str, Callable[..., BytePairTokenizer | SentencePieceTokenizer]] = {
    "gpt2": _byte_pair,
    "llama": _sentence_piece,
}
