"""Finds the chat template of an exported model, for the client and the server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tfllm.tokenizers.chat.conversation import TEMPLATE_FILE

if TYPE_CHECKING:
    from tfllm.tokenizers.chat.chat_template import ChatTemplate


def exported_template(version: Path) -> str | None:
    """The template of an exported version, for `ChatTemplate.from_json`; None if it has none."""
    try:
        return (version / "assets.extra" / TEMPLATE_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def read_template(path: str | Path) -> ChatTemplate:
    """Read the chat template of an exported model, a version of it, or a model folder.

    Args:
        path: the folder.

    Raises:
        OSError: the folder does not exist.
        ValueError: it has no chat template.
    """
    from tfllm.tokenizers.chat.chat_template import ChatTemplate

    folder = Path(path)
    if folder.is_dir():
        versions = [p for p in folder.iterdir() if p.name.isascii() and p.name.isdigit()]
        for version in [*sorted(versions, key=lambda p: -int(p.name)), folder]:
            if (text := exported_template(version)) is not None:
                return ChatTemplate.from_json(text)
        if versions or (folder / "saved_model.pb").exists():
            raise ValueError(f"{folder} was exported from a model without a chat template")
    from tfllm.pretrained import load_tokenizer

    return ChatTemplate.of(load_tokenizer(folder))
