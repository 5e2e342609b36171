"""A model folder that appears whole or not at all, and replaces only one that tfllm wrote."""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager
from pathlib import Path

from tfllm.files import atomic_folder
from tfllm.pretrained.hugging_face.sentence_modules import WRITTEN as SENTENCE_MODULES

OURS = "tfllm.json"
"""the file by which a folder is known to be written by tfllm"""

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "source.spm")
_BESIDE = ("target.spm", "vocab.json", "tokenizer_config.json", "special_tokens_map.json")
TOKENIZER_FILES = (*_TOKENIZERS, *_BESIDE)

_WRITTEN = re.compile(
    r"config\.json|generation_config\.json|model(-\d+-of-\d+)?\.safetensors"
    r"|model\.safetensors\.index\.json|"
    + "|".join(map(re.escape, (OURS, *TOKENIZER_FILES, *SENTENCE_MODULES)))
)


def check_replaceable(folder: Path, *, with_tokenizer: bool) -> None:
    """Refuse a place that must not be written to, before any work is done.

    Args:
        folder: where a model is to be saved.
        with_tokenizer: whether a tokenizer is saved with it.

    Raises:
        FileExistsError: `folder` is there, and is neither empty nor a model folder that tfllm
            wrote with nothing besides; or it holds a tokenizer that would be lost.
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
            f"{folder} holds files that tfllm did not write ({held}), which saving would lose; "
            "name another folder, or move them away"
        )
    if not with_tokenizer and any(name in names for name in _TOKENIZERS):
        raise FileExistsError(
            f"{folder} holds a tokenizer, and none is given to take its place; "
            "give tokenizer=..., or name another folder"
        )


def replaced(folder: Path, *, with_tokenizer: bool) -> AbstractContextManager[Path]:
    """A new folder that takes the place of `folder` when the block ends without an error.

    Raises:
        OSError: the disk is full.
        FileExistsError: as `check_replaceable`.
    """
    return atomic_folder(
        folder, lambda place: check_replaceable(place, with_tokenizer=with_tokenizer)
    )
