"""SentencePiece models (`tokenizer.model`): read them, and build them from lists of pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of pieces, and of tokens in llama.cpp's files."""
_MODEL_TYPES = {"unigram": 1, "bpe": 2}


def sentence_piece_model(
    pieces: Sequence[str],
    scores: Sequence[float],
    types: Sequence[int],
    *,
    model_type: Literal["bpe", "unigram"] = "bpe",
    add_dummy_prefix: bool = True,
    remove_extra_whitespaces: bool = False,
    escape_whitespaces: bool = True,
    precompiled_charsmap: bytes = b"",
    bos_id: int = -1,
    eos_id: int = -1,
    pad_id: int = -1,
) -> bytes:
    """Build a model that `sentencepiece` and TF-Text's kernel can read (the message ModelProto).

    Args:
        pieces: Piece of each id, with U+2581 for a space; bytes as <0x00>.
        scores: Score of each id; for BPE they order the merges (the highest comes first).
        types: Type of each id: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
        model_type: How text is cut into pieces. Defaults to "bpe".
        add_dummy_prefix: Whether a space is put before a text. Defaults to True.
        remove_extra_whitespaces: Whether spaces at both ends, and all but one within, are dropped.
            Defaults to False.
        escape_whitespaces: Whether spaces become U+2581. Defaults to True.
        precompiled_charsmap: SentencePiece's normalization table. Defaults to none, which leaves
            text unchanged.
        bos_id, eos_id, pad_id: Control pieces of those names. Defaults to -1, for none.

    Raises:
        ValueError: If the lists do not match, a piece occurs twice, there is not exactly one
            unknown piece, or only some bytes are pieces.
    """
    if not len(pieces) == len(scores) == len(types):
        raise ValueError(
            "there must be a score and a type for each piece; received "
            f"{len(pieces)} pieces, {len(scores)} scores and {len(types)} types"
        )
    if model_type not in _MODEL_TYPES:
        raise ValueError(f"model_type must be 'bpe' or 'unigram'; received {model_type!r}")
    if len(set(pieces)) < len(pieces):
        seen: set[str] = set()
        twice = next(p for p in pieces if p in seen or seen.add(p))  # type: ignore[func-returns-value]
        raise ValueError(f"each piece must occur only once; {twice!r} occurs twice")
    unknown = [i for i, kind in enumerate(types) if kind == UNKNOWN]
    if len(unknown) != 1:
        raise ValueError(f"one piece must be of type 2 (unknown); received {len(unknown)} of them")
    num_bytes = sum(kind == BYTE for kind in types)
    if num_bytes not in (0, 256):
        raise ValueError(f"all 256 bytes must be pieces, or none; received {num_bytes}")

    model = _model_proto()
    for piece, score, kind in zip(pieces, scores, types, strict=True):
        model.pieces.add(piece=piece, score=float(score), type=int(kind))
    trainer = model.trainer_spec
    trainer.model_type = _MODEL_TYPES[model_type]
    trainer.vocab_size = len(pieces)
    trainer.byte_fallback = num_bytes > 0
    trainer.unk_id, trainer.bos_id, trainer.eos_id, trainer.pad_id = (
        unknown[0],
        bos_id,
        eos_id,
        pad_id,
    )
    for name, id_ in (("unk", unknown[0]), ("bos", bos_id), ("eos", eos_id), ("pad", pad_id)):
        if id_ >= 0:
            setattr(trainer, f"{name}_piece", pieces[id_])
    normalizer = model.normalizer_spec
    normalizer.name = "identity" if not precompiled_charsmap else "user_defined"
    normalizer.precompiled_charsmap = precompiled_charsmap
    normalizer.add_dummy_prefix = add_dummy_prefix
    normalizer.remove_extra_whitespaces = remove_extra_whitespaces
    normalizer.escape_whitespaces = escape_whitespaces
    return model.SerializeToString(deterministic=True)


def read_model(data: bytes) -> Any:
    """Parse the message ModelProto of a file.

    Raises:
        ValueError: If it is not such a message.
    """
    from google.protobuf.message import DecodeError

    model = _model_proto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise ValueError(f"not a SentencePiece model: {error}") from None
    if not model.pieces:
        raise ValueError("not a SentencePiece model: it has no pieces")
    return model


def _model_proto() -> Any:
    from sentencepiece import sentencepiece_model_pb2

    messages: Any = sentencepiece_model_pb2
    return messages.ModelProto()
