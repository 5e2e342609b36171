"""Where a model is, given any of the names that it can be called by, and whether it is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tfllm.files import earlier_version
from tfllm.models.sizes.decoders import DECODER_SIZES
from tfllm.path_kinds import instead_of


def model_folder(path: str | Path, *, holds_model: bool = True) -> Path:
    """The folder, or the GGUF file, of a model.

    Args:
        path: a model folder, the folder of the run that trained it, a .gguf file, or
            `hf://ORGANISATION/NAME[@REVISION][/FILE.gguf]`, which is downloaded unless it was
            before.
        holds_model: whether it must hold one; prepared data hold a tokenizer alone.

    Raises:
        FileNotFoundError: there is nothing at the path; the run has not finished, so it has no
            model yet; or the Hugging Face Hub has no such model.
        ValueError: it is a folder of another kind, such as prepared data.
        ConnectionError: the model is not downloaded yet, and there is no network.
    """
    # pathlib makes one slash of two.
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
            f"the run in {path} has no finished model yet; train on with "
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
    """The path, if there is a folder, or a file that may be a model.

    Raises:
        FileNotFoundError: there is nothing.
        NotADirectoryError: there is a file of another kind.
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
        f"a save was interrupted: the model before it is {earlier}; rename it back"
        if earlier
        else "give the path of a folder that holds config.json and model.safetensors, or of a "
        ".gguf file; hf://ORGANISATION/NAME is a model of the Hugging Face Hub"
    )
    return f"there is no folder {path}, it does not exist; {hint}"


def is_gguf(path: Path) -> bool:
    """Whether a path is a file that is, or says it is, in the GGUF format."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return path.suffix.lower() == ".gguf" or file.read(4) == b"GGUF"
