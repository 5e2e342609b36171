"""The state of a generation as a flat dictionary of tensors, for callers of a SavedModel."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfllm.generation.decoding import LENGTH, RUNNING, DecodingState
from tfllm.generation.sampling import SamplingOptions
from tfllm.generation.stop_strings import StopStrings


def valid_text(text: tf.Tensor, *, finished: bool | tf.Tensor = True) -> tf.Tensor:
    """Convert bytes to valid UTF-8: other bytes become U+FFFD, and an incomplete character at the
    end of an unfinished text is held back."""
    valid = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
    return tf.where(finished, valid, tf.strings.regex_replace(valid, r"\x{FFFD}+$", ""))


def counts(state: DecodingState, error: tf.Tensor) -> dict[str, tf.Tensor]:
    """The `prompt_tokens`, `generated_tokens`, `finish_reason` and `error` of each row."""
    reason = tf.where(state.ends == LENGTH, "length", tf.where(state.ends == RUNNING, "", "stop"))
    return {
        "prompt_tokens": state.prompt_lengths,
        "generated_tokens": state.counts,
        "finish_reason": tf.where(error == "", reason, "error"),
        "error": error,
    }


def packed(
    state: DecodingState, options: SamplingOptions, stops: StopStrings, error: tf.Tensor
) -> dict[str, tf.Tensor]:
    """The whole state by name, and what a caller reads: `text`, `done` and the counts."""
    decoding = {f"decoding_{name}": value for name, value in state._asdict().items()}
    cache = tf.nest.flatten(decoding.pop("decoding_cache"))
    done = state.ends != RUNNING
    return {
        **decoding,
        **{f"cache_{i}": value for i, value in enumerate(cache)},
        **{f"option_{name}": value for name, value in options._asdict().items()},
        "stop": stops.joined,
        "text": tf.where(
            done, stops.cut(valid_text(state.text)), valid_text(state.text, finished=False)
        ),
        "done": done,
        **counts(state, error),
    }


def unpacked(
    state: dict[str, tf.Tensor], cache_structure: Any
) -> tuple[DecodingState, SamplingOptions, StopStrings, tf.Tensor]:
    """The inverse of `packed`, for a decoder with this structure of its cache."""
    decoding = {
        name.removeprefix("decoding_"): value
        for name, value in state.items()
        if name.startswith("decoding_")
    }
    num_tensors = len(tf.nest.flatten(cache_structure))
    tensors = [state[f"cache_{i}"] for i in range(num_tensors)]
    cache = tf.nest.pack_sequence_as(cache_structure, tensors)
    options = SamplingOptions(*(state[f"option_{name}"] for name in SamplingOptions._fields))
    return (
        DecodingState(cache=cache, **decoding),
        options,
        StopStrings(state["stop"]),
        state["error"],
    )
