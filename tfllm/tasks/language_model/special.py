"""What more a language model can do than go on with a text: its tokenizer says it."""

from __future__ import annotations

import logging

from tfllm.tasks.language_model.chat import Chat
from tfllm.tasks.language_model.code_generation import CodeGeneration
from tfllm.tasks.language_model.text_generation import TextGeneration
from tfllm.tasks.text_model import TextModel
from tfllm.tokenizers.fill_in_the_middle import middle_tokens

_log = logging.getLogger("tfllm")


def as_special(task: TextModel) -> TextModel:
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
