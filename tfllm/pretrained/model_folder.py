"""Find a model by any of the names that it may have, and check that it exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tfllm.files import earlier_version
from tfllm.models.sizes.decoders import DECODER_SIZES
from tfllm.path_kinds import instead_of


def model_folder(path: str | Path, *, holds_model: bool = True) -> Path:
    """Find the folder, or the GGUF file, of a model.

    Args:
        path: Model folder, folder of the run that trained it, .gguf file, or
            `hf://ORGANISATION/NAME[@REVISION][/FILE.gguf]`, which is downloaded unless it is in the
            cache.
        holds_model: Whether it must contain a model; prepared data only contain a tokenizer.
            Defaults to True.

    Raises:
        FileNotFoundError: If there is nothing at the path, the run has not finished and so has no
            model yet, or the Hugging Face Hub has no such model.
        ValueError: If it is another kind of folder, such as prepared data.
        ConnectionError: If the model is not in the cache, and there is no network.
    """
    # pathlib turns two slashes into one.
    if re.match(r"hf:/", str(path)):
        from tfllm.pretrained.hugging_face.hub import downloaded

        return downloaded(re.sub(r"^hf:/+", "", str(path)))
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(_not_there(path))
    if holds_model and (message := instead_of(path, "model")):
        raise ValueError(message)
    if not (path / "run.json").exists():
        return path
    if not (path / "model").is_dir():
        raise FileNotFoundError(
            f"the run in {path} has no finished model yet; continue training with "
            f"`tfllm train --out {path} --resume`"
        )
    return path / "model"


def is_pretrained(model: Any) -> bool:
    """Whether what a run was given is the path or name of a pretrained model, and no size."""
    if isinstance(model, Path):
        return True
    if not isinstance(model, str) or model in DECODER_SIZES:
        return False
    looks_like_a_path = any(mark in model for mark in ("/", "\\")) or model.endswith(".gguf")
    return looks_like_a_path or Path(model).exists()


def existing(path: Path) -> Path:
    """Check that there is a folder, or a file that may be a model, and return its path.

    Raises:
        FileNotFoundError: If there is nothing.
        NotADirectoryError: If it is a file of another kind.
    """
    if path.is_dir() or is_gguf(path):
        return path
    if path.exists():
        raise NotADirectoryError(
            f"a model is a folder or a .gguf file; received the file {path}"
            + (". Give the folder that holds it" if path.suffix == ".safetensors" else "")
        )
    raise FileNotFoundError(_not_there(path))


def _not_there(path: Path) -> str:
    earlier = earlier_version(path)
    hint = (
        f"a save was interrupted: the previous model is {earlier}; rename it back"
        if earlier
        else "give the path of a folder with config.json and model.safetensors, or of a "
        ".gguf file; hf://ORGANISATION/NAME is a model of the Hugging Face Hub"
    )
    return f"there is no folder {path}, it does not exist; {hint}"


def is_gguf(path: Path) -> bool:
    """Whether a path is a file that is, or claims to be, in the GGUF format."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return path.suffix.lower() == ".gguf" or file.read(4) == b"GGUF"
