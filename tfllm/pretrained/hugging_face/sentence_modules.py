"""The files of sentence-transformers that say how an encoder's outputs become a vector.

`modules.json` lists the modules: the encoder, how its outputs are pooled (`1_Pooling/config.json`),
and what is done after that. `config_sentence_transformers.json` has prompts, which are texts that
are put before others. The maximum length of a text is in `sentence_bert_config.json`, and from
version 5.4 on only in tokenizer_config.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tfllm.files import read_json, read_json_object
from tfllm.models.heads.sentence_encoder import POOLINGS
from tfllm.pretrained.hugging_face.tensor_files import write_json

MODULES = "modules.json"
LENGTH = "sentence_bert_config.json"
LENGTHS = (
    LENGTH,
    *(f"sentence_{name}_config.json" for name in ("roberta", "distilbert", "camembert", "albert")),
    *(f"sentence_{name}_config.json" for name in ("xlm-roberta", "xlnet")),
)
"""Files that may have the length and the case of texts; the first one that exists is read."""
PROMPTS = "config_sentence_transformers.json"
POOLING = "1_Pooling"
WRITTEN = (MODULES, LENGTH, POOLING, PROMPTS)
"""The files that are written in addition to a model's own."""

SENTENCE_TRANSFORMER = "SentenceTransformer"
"""The architecture of a folder with these files."""
SETTINGS = "sentence_transformer"
"""The key of `config` for the arguments of a `SentenceEncoder` in such a folder."""

_MODE = "pooling_mode"
_OLD_MODES = {
    "cls": "cls_token",
    "max": "max_tokens",
    "mean": "mean_tokens",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean_tokens",
    "lasttoken": "lasttoken",
}
"""For each pooling, the end of the key that had to be true before version 5.4, in the order in
which several were concatenated."""
assert set(_OLD_MODES) == set(POOLINGS)

_TYPES = ("Transformer", "Pooling", "Normalize")
_ENCODER_SETTINGS: dict[str, Any] = {
    "transformer_task": "feature-extraction",
    "module_output_name": "token_embeddings",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    **dict.fromkeys(("processing_kwargs", "query_length", "document_length", "query_expansion")),
    **dict.fromkeys(("model_args", "tokenizer_args", "config_args")),
    **dict.fromkeys(("model_kwargs", "processor_kwargs", "config_kwargs")),
}
"""Keys of `sentence_bert_config.json`, and the value (in addition to none) that changes no
vector."""
_READ = ("max_seq_length", "do_lower_case")
_NO_MATTER = ("unpad_inputs", "backend")
"""Keys of the same file that only affect how the same vectors are computed."""
_POOLED = "sentence_embedding"
_ADVICE = "tfllm.pretrained.load_encoder(path) reads only the encoder"


def has_modules(folder: Path) -> bool:
    """Whether the folder was written by sentence-transformers."""
    return (folder / MODULES).is_file()


class SentenceModules(NamedTuple):
    """The contents of the files of such a folder.

    Args:
        pooling: How the outputs for a text become one vector; see `SentenceEncoder`.
        normalize: Whether the vector is scaled to length 1.
        texts: Preparation of texts: `sequence_length`, `prompts` and `default_prompt_name`, if
            they are given.
    """

    pooling: tuple[str, ...]
    normalize: bool
    texts: dict[str, Any]


def read_modules(folder: Path) -> SentenceModules:
    """Read a folder of sentence-transformers.

    Raises:
        ValueError: If there are other modules than in a `SentenceEncoder`, an unsupported pooling
            or option, or a damaged file.
    """
    place, normalize = _pooling_place(folder)
    pooling, with_prompts = _pooling(folder / place / "config.json")
    settings, where = _encoder_settings(folder)
    for key, value in settings.items():
        if key not in (*_READ, *_NO_MATTER):
            _expect(where, key, value, _ENCODER_SETTINGS.get(key))
    _expect(
        folder / PROMPTS,
        "truncate_dim",
        read_json_object(folder / PROMPTS).get("truncate_dim"),
        None,
    )
    tokenizer = folder / "tokenizer_config.json"
    _expect(
        tokenizer, "truncation_side", read_json_object(tokenizer).get("truncation_side"), "right"
    )
    texts = text_settings(folder)
    if texts.get("prompts") and not with_prompts:
        raise ValueError(
            f"{folder / place / 'config.json'}: include_prompt is only supported as True if "
            f"there are prompts, as in {PROMPTS}; received False. {_ADVICE}"
        )
    return SentenceModules(pooling, normalize, texts)


def _expect(where: Path, key: str, value: Any, supported: Any) -> None:
    """Refuse a value that would change vectors.

    Raises:
        ValueError: If it is neither the supported value nor empty.
    """
    if value not in (None, {}, supported):
        raise ValueError(
            f"{where}: {key} is only supported as {supported!r}; received {value!r}. {_ADVICE}"
        )


def _pooling_place(folder: Path) -> tuple[str, bool]:
    """The folder of the pooling module, and whether vectors are normalized."""
    path = folder / MODULES
    modules = _required(path)
    try:
        types = tuple(str(module["type"]).rpartition(".")[2] for module in modules)
        places = [str(module["path"]) for module in modules]
    except (TypeError, KeyError):
        raise ValueError(f"{path} must list modules with a type and a path") from None
    if types not in (_TYPES, _TYPES[:2]) or places[0]:
        raise ValueError(
            f"{path}: the supported modules are {', '.join(_TYPES[:2])} and, optionally, "
            f"{_TYPES[2]}, the first of them in the folder itself; received "
            f"{', '.join(types)}. {_ADVICE}"
        )
    for place in places[1:]:
        if place != Path(place).name:
            raise ValueError(f"{path} must name subfolders of its own folder; received {place!r}")
    if types == _TYPES:
        file = folder / places[2] / "config.json"
        for key in ("module_input_name", "module_output_name"):
            _expect(file, key, read_json_object(file).get(key), _POOLED)
    return places[1], types == _TYPES


def _pooling(path: Path) -> tuple[tuple[str, ...], bool]:
    """The poolings, and whether the tokens of a prompt are pooled, too."""
    settings = _required(path)
    if not isinstance(settings, dict):
        raise ValueError(f"{path} must hold a JSON object; received {type(settings).__name__}")
    given = settings.get(_MODE)
    if given is None:
        unknown = [
            key
            for key, value in settings.items()
            if key.startswith(_MODE) and value and key[len(_MODE) + 1 :] not in _OLD_MODES.values()
        ]
        given = [new for new, old in _OLD_MODES.items() if settings.get(f"{_MODE}_{old}")]
        given = unknown or given or ["mean"]
    modes = tuple(given) if isinstance(given, list) else (given,)
    wrong = [mode for mode in modes if mode not in POOLINGS]
    if wrong or not modes or len(set(modes)) < len(modes):
        raise ValueError(
            f"{path}: {_MODE} must be one of {', '.join(POOLINGS)}, or a list of different ones; "
            f"received {given!r}. {_ADVICE}"
        )
    return modes, settings.get("include_prompt") is not False


def _encoder_settings(folder: Path) -> tuple[dict[str, Any], Path]:
    """The settings of the encoder outside its config.json, and their file."""
    for name in LENGTHS:
        path = folder / name
        if path.is_file():
            return read_json_object(path), path
    return {}, folder / LENGTH


def text_settings(folder: Path) -> dict[str, Any]:
    """Read how texts are prepared: `sequence_length`, `prompts`, `default_prompt_name`, if given.

    Raises:
        ValueError: If a file is damaged, or a prompt is not a text.
    """
    found: dict[str, Any] = {}
    lengths = (
        _encoder_settings(folder)[0].get("max_seq_length"),
        read_json_object(folder / "tokenizer_config.json").get("model_max_length"),
    )
    length = next((value for value in lengths if value is not None), None)
    # If there is no limit, transformers writes 10**30.
    if isinstance(length, int | float) and 0 < length < 2**31:
        found["sequence_length"] = int(length)
    path = folder / PROMPTS
    values = read_json_object(path)
    prompts = values.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(
        text is None or isinstance(text, str) for text in prompts.values()
    ):
        raise ValueError(f"{path}: prompts must give each name a text; received {prompts!r}")
    prompts = {name: text for name, text in prompts.items() if text is not None}
    if prompts:
        found["prompts"] = prompts
    default = values.get("default_prompt_name")
    if default is not None:
        if default not in prompts:
            raise ValueError(
                f"{path}: default_prompt_name must be one of the prompts "
                f"({', '.join(prompts) or 'there are none'}); received {default!r}"
            )
        found["default_prompt_name"] = default
    return found


def lowercases(folder: Path) -> bool:
    """Whether texts are converted to lower case, whatever the tokenizer's own files say."""
    return has_modules(folder) and bool(_encoder_settings(folder)[0].get("do_lower_case"))


def write_modules(
    folder: Path,
    embedding_dim: int,
    sequence_length: int,
    *,
    pooling: tuple[str, ...] = ("mean",),
    normalize: bool = True,
    texts: Mapping[str, Any] | None = None,
) -> None:
    """Write the files of a `SentenceEncoder`, which all versions of the library can read.

    Args:
        folder: Folder to write to.
        embedding_dim: Width of the encoder.
        sequence_length: Maximum number of tokens of a text.
        pooling: Pooling of the model. Defaults to ("mean",).
        normalize: Whether the model normalizes vectors. Defaults to True.
        texts: `prompts` and `default_prompt_name`, if there are any.
    """
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": "" if i == 0 else f"{i}_{name}",
            "type": f"sentence_transformers.models.{name}",
        }
        for i, name in enumerate(_TYPES if normalize else _TYPES[:2])
    ]
    (folder / MODULES).write_text(json.dumps(modules, indent=2) + "\n", encoding="utf-8")
    write_json(folder / LENGTH, {"max_seq_length": sequence_length, "do_lower_case": False})
    (folder / POOLING).mkdir()
    settings: dict[str, Any] = {"word_embedding_dimension": embedding_dim}
    if pooling == tuple(mode for mode in _OLD_MODES if mode in pooling):
        settings |= {f"{_MODE}_{old}": mode in pooling for mode, old in _OLD_MODES.items()}
    else:  # in an order that only new versions support
        settings = {"embedding_dimension": embedding_dim, _MODE: list(pooling)}
    write_json(folder / POOLING / "config.json", settings)
    texts = texts or {}
    if texts.get("prompts"):
        prompts = {name: texts.get(name) for name in ("prompts", "default_prompt_name")}
        write_json(folder / PROMPTS, {**prompts, "similarity_fn_name": "cosine"})


def _required(path: Path) -> Any:
    """Read a required file."""
    try:
        return read_json(path)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; get the folder again") from None
