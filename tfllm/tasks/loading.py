"""The verb `load`: load a model of any task as functions from text to text."""

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
    """Load a model with its tokenizer, as functions from text to text for its task.

    The attribute `model` is the Keras model, from token ids to logits, and `tokenizer` its
    tokenizer. For a language model, the result is a `Chat` if its tokenizer has a chat template, a
    `CodeGeneration` if it has tokens for infilling, otherwise a `TextGeneration`; for other tasks,
    it is the class of the task, such as a `TextClassifier`.

    Args:
        path: a model folder, the run that trained it, a .gguf file, `hf://ORGANISATION/NAME`, or a
            folder with a preset of KerasHub.
        dtype: dtype of weights and matrix products: "float32", "bfloat16", or "int8" for weights in
            int8 and products in the faster of the two. Defaults to "float32".
        adapter: folder of an adapter for a language model, in PEFT's layout, to be merged.
        task: a key of `tfllm.tasks.TASKS`; a model for another task is refused. It is required for
            a pretrained encoder-decoder whose folder does not name a task, such as a T5:
            "translation" or "summarization". A Marian translates.

    Returns:
        The text model.

    Raises:
        OSError: there is no model, or it has no tokenizer.
        ValueError: the model cannot be read, is for another task, or is an encoder-decoder without
            a task.
    """
    return task_named(task or task_of_model(path)).load(path, dtype=dtype, adapter=adapter)


def task_of_model(path: str | Path) -> str:
    """The name of a model's task; "language_modeling" if its folder does not name one."""
    found = task_of(path)
    if found is None or found["name"] not in TASKS:
        return "language_modeling"
    return str(found["name"])
