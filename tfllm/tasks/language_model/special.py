"""Choose the class of a language model by what its tokenizer supports: chat or infilling."""

from __future__ import annotations

import logging

from tfllm.tasks.language_model.chat import Chat
from tfllm.tasks.language_model.code_generation import CodeGeneration
from tfllm.tasks.language_model.text_generation import TextGeneration
from tfllm.tasks.text_model import TextModel
from tfllm.tokenizers.fill_in_the_middle import middle_tokens

_log = logging.getLogger("tfllm")


def as_special(task: TextModel) -> TextModel:
    """Convert a `TextGeneration` to a more specific class with the same model, if possible.

    That is a `Chat` if the tokenizer has a chat template, or a `CodeGeneration` if it has tokens
    for infilling. A template that cannot be used causes a warning.
    """
    if type(task) is not TextGeneration:
        return task
    if task.tokenizer.settings.get("chat_template"):
        try:
            return Chat(task.decoder, task.tokenizer, task.generation)
        except ValueError as error:
            _log.warning("The model does not support conversations: %s", error)
    if middle_tokens(task.tokenizer) is not None:
        return CodeGeneration(task.decoder, task.tokenizer, task.generation)
    return task
