"""Write a model folder atomically, and replace only one that tfllm wrote."""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager
from pathlib import Path

from tfllm.files import atomic_folder
from tfllm.pretrained.hugging_face.sentence_modules import WRITTEN as SENTENCE_MODULES

OURS = "tfllm.json"
"""The file that identifies a folder as written by tfllm."""

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "source.spm")
_BESIDE = ("target.spm", "vocab.json", "tokenizer_config.json", "special_tokens_map.json")
TOKENIZER_FILES = (*_TOKENIZERS, *_BESIDE)

_WRITTEN = re.compile(
    r"config\.json|generation_config\.json|model(-\d+-of-\d+)?\.safetensors"
    r"|model\.safetensors\.index\.json|"
    + "|".join(map(re.escape, (OURS, *TOKENIZER_FILES, *SENTENCE_MODULES)))
)


def check_replaceable(folder: Path, *, with_tokenizer: bool) -> None:
    """Check that a model may be saved to a place, before any work is done.

    Args:
        folder: Folder in which a model is to be saved.
        with_tokenizer: Whether a tokenizer is saved with it.

    Raises:
        FileExistsError: If `folder` exists, and is neither empty nor a model folder with only files
            that tfllm wrote; or if it contains a tokenizer that would be lost.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; name a folder that does not exist yet")
    names = sorted(path.name for path in folder.iterdir())
    foreign = [name for name in names if not _WRITTEN.fullmatch(name)]
    if names and (OURS not in names or foreign):
        held = ", ".join((foreign or names)[:3])
        raise FileExistsError(
            f"{folder} contains files that tfllm did not write ({held}) and that would be lost; "
            "name another folder, or move them away"
        )
    if not with_tokenizer and any(name in names for name in _TOKENIZERS):
        raise FileExistsError(
            f"{folder} contains a tokenizer, and none is given to replace it; "
            "give tokenizer=..., or name another folder"
        )


def replaced(folder: Path, *, with_tokenizer: bool) -> AbstractContextManager[Path]:
    """A new folder that replaces `folder` when the block ends without an error.

    Raises:
        OSError: If the disk is full.
        FileExistsError: See `check_replaceable`.
    """
    return atomic_folder(
        folder, lambda place: check_replaceable(place, with_tokenizer=with_tokenizer)
    )
