"""Convert the tokenizer of a KerasHub model, and find the tokens that `generate` puts around a
text.

KerasHub's byte-level BPE inside a graph has a table that grows with every request, and a different
split pattern from the one that the same object uses outside a graph (`model.generate`,
`preprocessor(text)`). The ids here are those of KerasHub outside a graph, with one difference: if a
user writes a control token of SentencePiece, such as "</s>", it becomes that token.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np

from tfllm.tokenizers.base import Tokenizer
from tfllm.tokenizers.kinds.byte_pair import BytePairTokenizer
from tfllm.tokenizers.kinds.sentence_piece import SentencePieceTokenizer

_PROBE = "a b"
_PROBES = ("Hello, world! It's 12345 o'clock.", "  two  spaces\n\n\tand lines ", "été 你好 🎉")


class Prompt(NamedTuple):
    """The beginning and the end of a text in KerasHub's `generate`."""

    start_ids: tuple[int, ...]
    """ids that it puts before a text"""
    end_ids: tuple[int, ...]
    """ids at which it stops"""


def keras_hub_tokenizer(model: Any) -> Tokenizer:
    """Convert the tokenizer of a KerasHub `CausalLM`, with the start and end tokens of `generate`.

    Raises:
        ValueError: If the model has no tokenizer, or one that cannot run in a served graph; or if
            `generate` does more to a prompt than put tokens before it.
    """
    import keras_hub

    if model.preprocessor is None:
        raise ValueError(
            f"{type(model).__name__} has no preprocessor, so no tokenizer; give the model one, or "
            "give tokenizer=..., a tokenizer of tfllm"
        )
    theirs = model.preprocessor.tokenizer
    made: BytePairTokenizer | SentencePieceTokenizer
    if isinstance(theirs, keras_hub.tokenizers.BytePairTokenizer):
        prompt = prompt_of(model)
        made = _byte_pair(theirs, prompt)
    elif isinstance(theirs, keras_hub.tokenizers.SentencePieceTokenizer):
        if theirs.add_bos or theirs.add_eos:
            raise ValueError(
                "start and end tokens must be added by the preprocessor; received a "
                f"{type(theirs).__name__} with add_bos={theirs.add_bos}, add_eos={theirs.add_eos}"
            )
        prompt = prompt_of(model)
        made = SentencePieceTokenizer(theirs.proto, begin=prompt.start_ids)
    else:
        raise ValueError(
            "the tokenizer must be a byte-level BPE or SentencePiece, which run in a served graph; "
            f"{type(model).__name__} has a {type(theirs).__name__}. Give tokenizer=..., a "
            "tokenizer of tfllm with the same ids"
        )
    made.set_end_token_ids(prompt.end_ids)
    for text in _PROBES:
        expected = np.asarray(theirs([text])[0]).tolist()
        if (ids := made.encode(text, add_special=False)) != expected:
            raise ValueError(
                f"{type(theirs).__name__} must give the ids of its vocabulary and merges, or of "
                f"its SentencePiece model; for {text!r} it gives {expected} instead of {ids}. Give "
                "tokenizer=..., a tokenizer of tfllm with the same ids"
            )
    return made


def prompt_of(model: Any) -> Prompt:
    """Find what `generate` of a model with a preprocessor does to a prompt, by calling it and
    stopping it before it generates."""
    seen: list[tuple[Any, Any]] = []

    class Stopped(Exception):
        pass

    def generate_function(inputs: Any, stop_token_ids: Any = None) -> Any:
        seen.append((inputs, stop_token_ids))
        raise Stopped

    kept = getattr(model, "generate_function", None)
    model.generate_function = generate_function
    try:
        model.generate([_PROBE])
    except Stopped:
        pass
    finally:
        model.generate_function = kept
    inputs, ends = seen[0]
    mask = np.asarray(inputs["padding_mask"])[0].astype(bool)
    ids = np.asarray(inputs["token_ids"])[0][mask].tolist()
    text = np.asarray(model.preprocessor.tokenizer([_PROBE])[0]).tolist()
    begin = len(ids) - len(text)
    if not text or begin < 0 or ids[begin:] != text:
        raise ValueError(
            f"generate must only put tokens before a prompt; that of "
            f"{type(model).__name__} makes {ids} of a text with the tokens {text}"
        )
    return Prompt(tuple(ids[:begin]), tuple(int(i) for i in ends if i is not None))


def _byte_pair(theirs: Any, prompt: Prompt) -> BytePairTokenizer:
    """Convert KerasHub's byte-level BPE, using the Rust tokenizer that it has outside graphs."""
    import keras_hub

    if not hasattr(theirs, "_maybe_initialized_tokenizers"):
        raise ValueError(
            f"KerasHub {keras_hub.__version__} has byte-level BPE only in graphs; update it "
            "(0.32 was tested), or give tokenizer=..., a tokenizer of tfllm with the same ids"
        )
    theirs._maybe_initialized_tokenizers()
    content = json.loads(theirs._tokenizer.to_str())
    if prompt.start_ids:
        content["post_processor"] = _template(
            [(theirs.id_to_token(i), i) for i in prompt.start_ids]
        )
    return BytePairTokenizer(json.dumps(content, ensure_ascii=False))


def _template(start: list[tuple[str, int]]) -> dict[str, Any]:
    """A post-processor of tokenizer.json that puts tokens before a text."""
    special = {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in start}
    begin = [{"SpecialToken": {"id": token, "type_id": 0}} for token, _ in start]
    first, second = ({"Sequence": {"id": i, "type_id": 0}} for i in ("A", "B"))
    return {
        "type": "TemplateProcessing",
        "single": [*begin, first],
        "pair": [*begin, first, second],
        "special_tokens": special,
    }
