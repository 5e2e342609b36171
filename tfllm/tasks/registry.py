"""The tasks that learn from records, by name. Their definitions are imported when asked for."""

from __future__ import annotations

import importlib

from tfllm.config import unknown_name
from tfllm.tasks.definition import TaskDefinition

TASKS: dict[str, str] = {
    "classification": "tfllm.tasks.encoder.classification:Classification",
    "embedding": "tfllm.tasks.encoder.embedding:Embedding",
    "masked_language_model": "tfllm.tasks.encoder.masked_language_model:MaskedText",
    "question_answering": "tfllm.tasks.encoder.question_answering:QuestionAnswering",
    "summarization": "tfllm.tasks.sequence_to_sequence.summarization:Summarization",
    "tagging": "tfllm.tasks.encoder.tagging:Tagging",
    "translation": "tfllm.tasks.sequence_to_sequence.translation:Translation",
}
"""name to "module:class" of its `TaskDefinition`"""


def task_definition(name: str) -> TaskDefinition:
    """The definition of a task.

    Raises:
        ValueError: there is no such task.
    """
    if name not in TASKS:
        raise ValueError(unknown_name("task", name, TASKS))
    module, _, kind = TASKS[name].partition(":")
    return getattr(importlib.import_module(module), kind)()
