"""The tasks, by name. Their classes are imported when asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from tfllm.config import unknown_name

if TYPE_CHECKING:  # the names of the tasks do not wait for NumPy
    from tfllm.tasks.task import Task

TASKS: dict[str, str] = {
    "language_modeling": "tfllm.tasks.language_model.language_modeling:LanguageModeling",
    "code": "tfllm.tasks.language_model.language_modeling:Code",
    "instruction": "tfllm.tasks.language_model.instruction:Instruction",
    "preference": "tfllm.tasks.language_model.preference:Preference",
    "classification": "tfllm.tasks.encoder.classification:Classification",
    "embedding": "tfllm.tasks.encoder.embedding:Embedding",
    "masked_language_model": "tfllm.tasks.encoder.masked_language_model:MaskedText",
    "question_answering": "tfllm.tasks.encoder.question_answering:QuestionAnswering",
    "summarization": "tfllm.tasks.sequence_to_sequence.summarization:Summarization",
    "tagging": "tfllm.tasks.encoder.tagging:Tagging",
    "translation": "tfllm.tasks.sequence_to_sequence.translation:Translation",
}
"""name to "module:class" of its `Task`"""


def task_named(name: str) -> Task:
    """A task.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in TASKS:
        raise ValueError(unknown_name("task", name, TASKS))
    module, _, kind = TASKS[name].partition(":")
    return getattr(importlib.import_module(module), kind)()
