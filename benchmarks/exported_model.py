"""An exported model that generates, as TensorFlow Serving runs it: no XLA, text in, text out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfllm.generation.option_inputs import OPTION_DTYPES
from tfllm.generation.options import option_values
from tfllm.serving import export


def exported(task: Any, folder: str | Path, prompt: str) -> Callable[[int, int], None]:
    """Export a model and load it.

    Args:
        task: the text generation model.
        folder: where it is exported to.
        prompt: text that each row continues, greedily.

    Returns:
        A function of the number of rows and of the new tokens of each, which must not end earlier.
    """
    loaded = tf.saved_model.load(str(export(task, folder, warmup_prompts=())))
    defaults = {**option_values(task.generation), "temperature": 0.0}

    def run(batch: int, new_tokens: int) -> None:
        values = {**defaults, "max_new_tokens": new_tokens}
        options = {n: tf.fill([batch], tf.constant(values[n], t)) for n, t in OPTION_DTYPES.items()}
        result = loaded.signatures["generate"](prompt=tf.fill([batch], prompt), **options)
        made = result["generated_tokens"].numpy()
        assert (made == new_tokens).all(), f"an end token came early: {made}"

    run.loaded = loaded  # type: ignore[attr-defined]  # keeps its variables alive
    return run
