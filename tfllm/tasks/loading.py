"""The task that a model was made for."""

from __future__ import annotations

import logging
from pathlib import Path

from tfllm.pretrained import task_of
from tfllm.tasks.language_model.chat import Chat
from tfllm.tasks.language_model.code_generation import CodeGeneration
from tfllm.tasks.language_model.text_generation import TextGeneration
from tfllm.tasks.registry import TASKS, task_definition
from tfllm.tasks.served import ServedTask
from tfllm.tokenizers.fill_in_the_middle import middle_tokens

_log = logging.getLogger("tfllm")


def load_task(
    path: str | Path,
    *,
    dtype: str = "float32",
    adapter: str | Path | None = None,
    task: str | None = None,
) -> ServedTask:
    """The functions of a model, for what it was trained for.

    A language model is a `Chat` where its tokenizer has a chat template, a `CodeGeneration` where
    it has tokens to fill in the middle with, else a `TextGeneration`.

    Args:
        path: whatever `TextGeneration.load` takes; a model folder says its task.
        dtype: of the weights and products.
        adapter: a folder with an adapter for a language model, in PEFT's layout, which is merged.
        task: refuse a model of another task than this key of `tfllm.tasks.TASKS`. A pretrained
            encoder-decoder that names none, such as a T5, needs it: "translation" or
            "summarization". A Marian translates.

    Raises:
        OSError: there is no model, or it has no tokenizer.
        ValueError: the model cannot be read, is of another task, or is an encoder-decoder of none.
    """
    if task is None:
        found = task_of(path)
        task = found["name"] if found is not None and found["name"] in TASKS else None
    if task is None:
        return as_special(TextGeneration.load(path, dtype=dtype, adapter=adapter))
    if adapter is not None:
        raise ValueError(f"an adapter is for a language model, and {path} is of the task {task}")
    definition = task_definition(task)
    # Weights of another dtype than float32 are made by the task, which knows what stays.
    loaded = definition.load(path)
    served = definition.served(*loaded)
    return served if dtype == "float32" else served.with_dtype(dtype)


def as_special(task: ServedTask) -> ServedTask:
    """What can do more with the same model: a `Chat` where the tokenizer has a chat template, a
    `CodeGeneration` where it has tokens to fill in the middle with; else the task itself.

    A template that cannot be used is told in a warning.
    """
    if type(task) is not TextGeneration:
        return task
    if task.tokenizer.settings.get("chat_template"):
        try:
            return Chat(task.decoder, task.tokenizer, task.generation)
        except ValueError as error:
            _log.warning("The model takes no conversations: %s", error)
    if middle_tokens(task.tokenizer) is not None:
        return CodeGeneration(task.decoder, task.tokenizer, task.generation)
    return task
