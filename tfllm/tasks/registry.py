"""The tasks by name; their classes are imported on demand."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfllm.config import unknown_name

if TYPE_CHECKING:  # listing the names of tasks must not import NumPy
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
"""maps the name of a task to "module:class" of its `Task`"""


def task_named(name: str) -> Task:
    """The task with a given name, a key of `TASKS`.

    Raises:
        ValueError: there is no such task.

    Examples:
        >>> from tfllm.tasks import task_named
        >>> list(task_named("classification").columns)
        ['text', 'second_text', 'label']
    """
    if name not in TASKS:
        raise ValueError(unknown_name("task", name, TASKS))
    module, _, kind = TASKS[name].partition(":")
    return getattr(importlib.import_module(module), kind)()


@dataclass(frozen=True)
class TaskRow:
    """A row of the table of tasks."""

    name: str
    purpose: str
    """first sentence of the description"""
    inputs: tuple[str, ...]
    """columns of a record that are inputs; empty for a language model, see `records`"""
    outputs: tuple[str, ...]
    """columns that the model learns to predict, used for training and evaluation"""
    records: str
    """for a language model: "text", "examples" or "preference"; otherwise "columns" """
    config: str
    """class of the model's architecture"""


def task_rows() -> list[TaskRow]:
    """A row for each task, in the order of `TASKS`; imports all tasks."""
    rows = []
    for name in TASKS:
        task = task_named(name)
        columns = task.columns
        rows.append(
            TaskRow(
                name,
                _first_sentence(inspect.getdoc(type(task)) or ""),
                tuple(column for column, of in columns.items() if of.is_input),
                tuple(column for column, of in columns.items() if not of.is_input),
                getattr(task, "kind", "columns"),
                task.config_class.__name__,
            )
        )
    return rows


def _first_sentence(description: str) -> str:
    first = " ".join(description.split("\n\n")[0].split())
    return first if ". " not in first else first[: first.index(". ") + 1]
