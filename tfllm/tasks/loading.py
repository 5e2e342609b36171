"""The verb `load`: a model as functions from text to text, whatever it is for."""

from __future__ import annotations

from pathlib import Path

from tfllm.pretrained import task_of
from tfllm.tasks.registry import TASKS, task_named
from tfllm.tasks.text_model import TextModel


def load(
    path: str | Path,
    *,
    dtype: str = "float32",
    adapter: str | Path | None = None,
    task: str | None = None,
) -> TextModel:
    """A model with its tokenizer, as functions from text to text: what it was made for.

    Its `model` is the Keras model, token ids to logits, and its `tokenizer` the tokenizer. A
    language model is a `Chat` where its tokenizer has a chat template, a `CodeGeneration` where it
    has tokens to fill in the middle with, else a `TextGeneration`; that of another task is what the
    task says, such as a `TextClassifier`.

    Args:
        path: a model folder, the run that trained it, a .gguf file, `hf://ORGANISATION/NAME`, or a
            folder with a preset of KerasHub.
        dtype: of the weights and products: "float32", "bfloat16", or "int8" for weights that are
            used in the one of the two that is faster here.
        adapter: a folder with an adapter for a language model, in PEFT's layout, which is merged.
        task: refuse a model of another task than this key of `tfllm.tasks.TASKS`. A pretrained
            encoder-decoder that names none, such as a T5, needs it: "translation" or
            "summarization". A Marian translates.

    Raises:
        OSError: there is no model, or it has no tokenizer.
        ValueError: the model cannot be read, is of another task, or is an encoder-decoder of none.
    """
    return task_named(task or task_of_model(path)).load(path, dtype=dtype, adapter=adapter)


def task_of_model(path: str | Path) -> str:
    """The name of the task of a model; "language_modeling" where its folder says none."""
    found = task_of(path)
    if found is None or found["name"] not in TASKS:
        return "language_modeling"
    return str(found["name"])
