"""`generate`: continue prompts with a model, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfllm.models.causal_lm import CausalLM
from tfllm.pretrained.keras_hub.models import is_keras_hub_model
from tfllm.tasks.language_model.text_generation import TextGeneration
from tfllm.tokenizers.base import Tokenizer


def generate(
    model: str | Path | CausalLM | Any,
    prompts: str | Sequence[str],
    *,
    tokenizer: Tokenizer | None = None,
    dtype: str = "float32",
    **options: Any,
) -> Any:
    """Continue prompts with a model, in one call.

    Each call with a folder loads the model again; use a `TextGeneration` for several calls.

    Args:
        model: a model folder; or a model object, with its `tokenizer` unless it is from KerasHub.
        prompts: one text or several.
        tokenizer: tokenizer of a model that is given as an object.
        dtype: dtype in which a model folder is loaded, "float32" or "bfloat16". Defaults to
            "float32".
        options: as in `TextGeneration.generate`.

    Returns:
        As `TextGeneration.generate`.
    """
    if isinstance(model, CausalLM):
        if tokenizer is None:
            raise ValueError("generate needs the tokenizer of a model that is given as an object")
        return TextGeneration(model, tokenizer).generate(prompts, **options)
    if is_keras_hub_model(model):
        task = TextGeneration.of_keras_hub(model, tokenizer=tokenizer)
        return task.generate(prompts, **options)
    return TextGeneration.load(model, dtype=dtype).generate(prompts, **options)
