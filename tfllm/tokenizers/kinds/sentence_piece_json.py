"""Convert a SentencePiece model to a tokenizer.json, for programs that read no other file.

Version 4 of `transformers` cannot load a tokenizer.model by itself unless it is told the model's
family, and its classes for families replace the model's rules with their own.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from typing import Any

from tfllm.tokenizers.added_tokens import AddedToken
from tfllm.tokenizers.kinds.byte_pair_json import around_template
from tfllm.tokenizers.leading_space import SPACE
from tfllm.tokenizers.specification.sentence_piece_model import NORMAL, UNUSED, USER_DEFINED

_UNIGRAM, _BPE = 1, 2


def sentence_piece_json(
    proto: Any,
    added: Sequence[AddedToken],
    *,
    spaces_first: bool,
    begin: Sequence[int] = (),
    end: Sequence[int] = (),
) -> str | None:
    """Write a tokenizer.json that does the same as a SentencePiece model.

    The library `tokenizers` gives the same ids as SentencePiece with one exception: where the
    model's table changes the first of several code points that form one character on the screen,
    the library drops the others.

    Args:
        proto: The message ModelProto.
        added: Tokens at which text is cut before the model sees it.
        spaces_first: Whether a space is only added before the first stretch of a text.
        begin, end: Ids that are put before and after a text.

    Returns:
        The text of the file; None if a tokenizer.json cannot express what the model does.
    """
    rules, trainer = proto.normalizer_spec, proto.trainer_spec
    kinds = {piece.type for piece in proto.pieces}
    pieces = [piece.piece for piece in proto.pieces]
    later = sorted(token.id for token in added if token.id >= len(pieces))
    if (
        UNUSED in kinds
        or trainer.model_type not in (_UNIGRAM, _BPE)
        or trainer.treat_whitespace_as_suffix
        or not rules.escape_whitespaces
        or later != list(range(len(pieces), len(pieces) + len(later)))
        or any(token.id < len(pieces) and pieces[token.id] != token.content for token in added)
    ):
        return None
    whole = [piece.piece for piece in proto.pieces if piece.type == USER_DEFINED]
    if trainer.model_type == _UNIGRAM and whole:
        return None
    model = _merging(proto, whole) if trainer.model_type == _BPE else _unigram(proto)
    dummy = rules.add_dummy_prefix
    names = {**dict(enumerate(pieces)), **{token.id: token.content for token in added}}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(token) for token in sorted(added, key=lambda token: token.id)],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(rules, spaces_first)},
        "pre_tokenizer": _pre_tokenizer(dummy, spaces_first, whole),
        "post_processor": around_template(names, begin, end) if begin or end else None,
        "decoder": {"type": "Sequence", "decoders": _decoders(trainer.byte_fallback, dummy)},
        "model": model,
    }
    return json.dumps(content, ensure_ascii=False)


def _merging(proto: Any, whole: Sequence[str]) -> dict[str, Any]:
    usual = {p.piece: (-p.score, i) for i, p in enumerate(proto.pieces) if p.type == NORMAL}
    merges = sorted(
        (*rank, piece[:i], piece[i:])
        for piece, rank in usual.items()
        for i in range(1, len(piece))
        if piece[:i] in usual and piece[i:] in usual
    )
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": _unknown(proto),
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": proto.trainer_spec.byte_fallback,
        "ignore_merges": bool(whole),
        "vocab": {piece.piece: i for i, piece in enumerate(proto.pieces)},
        "merges": [[left, right] for *_, left, right in merges],
    }


def _unigram(proto: Any) -> dict[str, Any]:
    return {
        "type": "Unigram",
        "unk_id": proto.trainer_spec.unk_id,
        "vocab": [[piece.piece, piece.score] for piece in proto.pieces],
        "byte_fallback": proto.trainer_spec.byte_fallback,
    }


def _unknown(proto: Any) -> str:
    return proto.pieces[proto.trainer_spec.unk_id].piece


def _added(token: AddedToken) -> dict[str, Any]:
    flags = {name: getattr(token, name) for name in ("single_word", "lstrip", "rstrip", "special")}
    return {"id": token.id, "content": token.content, "normalized": False, **flags}


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _normalizers(rules: Any, spaces_first: bool) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    if rules.precompiled_charsmap:
        charsmap = base64.b64encode(rules.precompiled_charsmap).decode("ascii")
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if rules.remove_extra_whitespaces:
        steps.append(_replace({"Regex": r"\A +| +\z"}, ""))
        steps.append(_replace({"Regex": " {2,}"}, " "))
    steps.append(_replace({"String": " "}, SPACE))
    if rules.add_dummy_prefix and not spaces_first:
        # Metaspace adds no space where there is one already, unlike SentencePiece.
        steps.append(_replace({"Regex": rf"\A{SPACE}"}, SPACE * 2))
    return steps


def _pre_tokenizer(dummy: bool, first: bool, whole: Sequence[str]) -> dict[str, Any] | None:
    steps: list[dict[str, Any]] = []
    if dummy:
        scheme = "first" if first else "always"
        step = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": False}
        steps.append(step)
    if whole:
        pattern = "|".join(map(re.escape, sorted(whole, key=len, reverse=True)))
        step = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
        steps.append({**step, "invert": False})
    return {"type": "Sequence", "pretokenizers": steps} if steps else None


def _decoders(falls_back: bool, dummy: bool) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [_replace({"String": SPACE}, " ")]
    if falls_back:
        steps.append({"type": "ByteFallback"})
    steps.append({"type": "Fuse"})
    if dummy:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return steps
