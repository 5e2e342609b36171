"""The files by which sentence-transformers knows what is made of an encoder's states.

`modules.json` lists the modules: the encoder, how its states are pooled (`1_Pooling/config.json`),
and what else is done. A `SentenceEncoder` takes the mean and makes its length 1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tfllm.pretrained.tensor_files import write_json

MODULES = "modules.json"
LENGTH = "sentence_bert_config.json"
POOLING = "1_Pooling"
WRITTEN = (MODULES, LENGTH, POOLING)
"""what is written besides a model's own files"""

SENTENCE_TRANSFORMER = "SentenceTransformer"
"""the architecture that a folder with these files has"""

_MODE = "pooling_mode_"
_MEAN = "mean_tokens"
_TYPES = ("Transformer", "Pooling", "Normalize")
_ADVICE = "tfllm.pretrained.load_encoder(path) reads the encoder alone"


def has_modules(folder: Path) -> bool:
    """Whether the folder is one of sentence-transformers."""
    return (folder / MODULES).is_file()


def check_modules(folder: Path) -> None:
    """Hold the folder's modules against those of a `SentenceEncoder`.

    Raises:
        ValueError: there are others, another pooling, or a file is damaged.
    """
    path = folder / MODULES
    modules = _json(path)
    try:
        types = tuple(str(module["type"]).rpartition(".")[2] for module in modules)
        places = [str(module["path"]) for module in modules]
    except (TypeError, KeyError):
        raise ValueError(f"{path} must list modules with a type and a path") from None
    if types != _TYPES or places[0]:
        raise ValueError(
            f"{path}: the modules that are followed are {', '.join(_TYPES)}, the first of them in "
            f"the folder itself; received {', '.join(types)}. {_ADVICE}"
        )
    path = folder / places[1] / "config.json"
    settings = _json(path)
    modes = [
        key.removeprefix(_MODE)
        for key, value in settings.items()
        if key.startswith(_MODE) and value
    ]
    if modes != [_MEAN]:
        raise ValueError(
            f"{path}: the pooling that is followed is {_MODE}{_MEAN} alone; received "
            f"{', '.join(_MODE + mode for mode in modes) or 'none'}. {_ADVICE}"
        )


def sentence_length(folder: Path) -> int | None:
    """The most tokens of a text that the model reads; None where nothing is said."""
    path = folder / LENGTH
    length = _json(path).get("max_seq_length") if path.is_file() else None
    return length if isinstance(length, int) and length > 0 else None


def write_modules(folder: Path, embedding_dim: int, sequence_length: int) -> None:
    """Write the files of a model that takes the mean and makes its length 1."""
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": "" if i == 0 else f"{i}_{name}",
            "type": f"sentence_transformers.models.{name}",
        }
        for i, name in enumerate(_TYPES)
    ]
    (folder / MODULES).write_text(json.dumps(modules, indent=2) + "\n", encoding="utf-8")
    write_json(folder / LENGTH, {"max_seq_length": sequence_length, "do_lower_case": False})
    (folder / POOLING).mkdir()
    settings: dict[str, Any] = {"word_embedding_dimension": embedding_dim}
    for mode in ("cls_token", _MEAN, "max_tokens", "mean_sqrt_len_tokens"):
        settings[_MODE + mode] = mode == _MEAN
    write_json(folder / POOLING / "config.json", settings)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is missing, damaged or cut short: {error}") from None
