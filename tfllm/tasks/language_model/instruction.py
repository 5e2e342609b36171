"""Instruction tuning: learn the replies in conversations, or responses to prompts."""

from __future__ import annotations

from typing import ClassVar

from tfllm.data.reading.record_kinds import Kind
from tfllm.tasks.language_model.language_task import LanguageTask


class Instruction(LanguageTask):
    """Reply in conversations and to prompts; only the assistant's words are learned."""

    name = "instruction"
    kind: ClassVar[Kind] = "examples"
    prepare_settings: ClassVar[tuple[str, ...]] = tuple(
        name
        for name in LanguageTask.prepare_settings
        if name not in ("vocab_size", "split") and not name.startswith("fill_")
    )
