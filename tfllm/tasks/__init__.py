"""Tasks: what a model is for, as functions from text to text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfllm.lazy_names import lazy_names

__all__, __getattr__, __dir__ = lazy_names(__name__)

if TYPE_CHECKING:  # the names, for type checkers and for `lazy_names`
    from tfllm.tasks.evaluating import evaluate as evaluate
    from tfllm.tasks.generating import generate as generate
    from tfllm.tasks.language_model.chat import Chat as Chat
    from tfllm.tasks.language_model.chat_session import ChatSession as ChatSession
    from tfllm.tasks.language_model.code_generation import CodeGeneration as CodeGeneration
    from tfllm.tasks.language_model.text_generation import TextGeneration as TextGeneration
    from tfllm.tasks.loading import load as load
    from tfllm.tasks.preparing import prepare as prepare
    from tfllm.tasks.registry import TASKS as TASKS
    from tfllm.tasks.registry import task_named as task_named
    from tfllm.tasks.task import Task as Task
    from tfllm.tasks.text_model import TextModel as TextModel
