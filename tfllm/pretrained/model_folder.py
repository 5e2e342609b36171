"""Where a model is, given any of the names that it can be called by."""

from __future__ import annotations

import re
from pathlib import Path


def model_folder(path: str | Path) -> Path:
    """The folder, or the GGUF file, of a model.

    Args:
        path: a model folder, the folder of the run that trained it, a .gguf file, or
            `hf://ORGANISATION/NAME[@REVISION][/FILE.gguf]`, which is downloaded unless it was
            before.

    Raises:
        FileNotFoundError: the run has not finished, so it has no model yet; or the Hugging Face
            Hub has no such model.
        ConnectionError: the model is not downloaded yet, and there is no network.
    """
    # pathlib makes one slash of two.
    if re.match(r"hf:/", str(path)):
        from tfllm.pretrained.hub import downloaded

        return downloaded(re.sub(r"^hf:/+", "", str(path)))
    path = Path(path)
    if not (path / "run.json").exists():
        return path
    if not (path / "model").is_dir():
        raise FileNotFoundError(
            f"the run in {path} has no finished model yet; train on with "
            f"`tfllm train --out {path} --resume`"
        )
    return path / "model"
