"""The files by which sentence-transformers knows what is made of an encoder's states.

`modules.json` lists the modules: the encoder, how its states are pooled (`1_Pooling/config.json`),
and what else is done. `config_sentence_transformers.json` has prompts, texts that are put before
others. How long a text may be stands in `sentence_bert_config.json`, and from version 5.4 on in
tokenizer_config.json alone.
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
"""where the length and the case of texts may stand; the first that is there is read"""
PROMPTS = "config_sentence_transformers.json"
POOLING = "1_Pooling"
WRITTEN = (MODULES, LENGTH, POOLING, PROMPTS)
"""what is written besides a model's own files"""

SENTENCE_TRANSFORMER = "SentenceTransformer"
"""the architecture that a folder with these files has"""
SETTINGS = "sentence_transformer"
"""the key of `config` under which such a folder has the arguments of a `SentenceEncoder`"""

_MODE = "pooling_mode"
_OLD_MODES = {
    "cls": "cls_token",
    "max": "max_tokens",
    "mean": "mean_tokens",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean_tokens",
    "lasttoken": "lasttoken",
}
"""a pooling to the end of the key that had to be true for it before version 5.4, in the order in
which several were joined"""
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
"""keys of `sentence_bert_config.json` to the value, besides none, that changes no vector here"""
_READ = ("max_seq_length", "do_lower_case")
_NO_MATTER = ("unpad_inputs", "backend")
"""of the same file: how the same is computed"""
_POOLED = "sentence_embedding"
_ADVICE = "tfllm.pretrained.load_encoder(path) reads the encoder alone"


def has_modules(folder: Path) -> bool:
    """Whether the folder is one of sentence-transformers."""
    return (folder / MODULES).is_file()


class SentenceModules(NamedTuple):
    """What the files of such a folder say.

    Args:
        pooling: how a text's states become one vector, as of `SentenceEncoder`.
        normalize: whether its length is made 1.
        texts: what is done with texts before: `sequence_length`, `prompts` and
            `default_prompt_name`, where they are given.
    """

    pooling: tuple[str, ...]
    normalize: bool
    texts: dict[str, Any]


def read_modules(folder: Path) -> SentenceModules:
    """What a folder of sentence-transformers says.

    Raises:
        ValueError: there are other modules than a `SentenceEncoder` has, another pooling or an
            option that is not followed; or a file is damaged.
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
            f"{folder / place / 'config.json'}: include_prompt is followed with True alone where "
            f"there are prompts, as in {PROMPTS}; received False. {_ADVICE}"
        )
    return SentenceModules(pooling, normalize, texts)


def _expect(where: Path, key: str, value: Any, followed: Any) -> None:
    """Refuse a value that changes vectors.

    Raises:
        ValueError: it is another than the one that is followed, and is not empty.
    """
    if value not in (None, {}, followed):
        raise ValueError(
            f"{where}: {key} is followed with {followed!r} alone; received {value!r}. {_ADVICE}"
        )


def _pooling_place(folder: Path) -> tuple[str, bool]:
    """The folder of the pooling, and whether vectors are normalized."""
    path = folder / MODULES
    modules = _required(path)
    try:
        types = tuple(str(module["type"]).rpartition(".")[2] for module in modules)
        places = [str(module["path"]) for module in modules]
    except (TypeError, KeyError):
        raise ValueError(f"{path} must list modules with a type and a path") from None
    if types not in (_TYPES, _TYPES[:2]) or places[0]:
        raise ValueError(
            f"{path}: the modules that are followed are {', '.join(_TYPES[:2])} and, if it is "
            f"there, {_TYPES[2]}, the first of them in the folder itself; received "
            f"{', '.join(types)}. {_ADVICE}"
        )
    for place in places[1:]:
        if place != Path(place).name:
            raise ValueError(f"{path} must name folders in its own; received {place!r}")
    if types == _TYPES:
        file = folder / places[2] / "config.json"
        for key in ("module_input_name", "module_output_name"):
            _expect(file, key, read_json_object(file).get(key), _POOLED)
    return places[1], types == _TYPES


def _pooling(path: Path) -> tuple[tuple[str, ...], bool]:
    """The poolings, and whether the tokens of a prompt are pooled too."""
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
    """What is said of the encoder besides its config.json, and where."""
    for name in LENGTHS:
        path = folder / name
        if path.is_file():
            return read_json_object(path), path
    return {}, folder / LENGTH


def text_settings(folder: Path) -> dict[str, Any]:
    """What is done with texts: `sequence_length`, `prompts`, `default_prompt_name`, where given.

    Raises:
        ValueError: a file is damaged, or a prompt is no text.
    """
    found: dict[str, Any] = {}
    lengths = (
        _encoder_settings(folder)[0].get("max_seq_length"),
        read_json_object(folder / "tokenizer_config.json").get("model_max_length"),
    )
    length = next((value for value in lengths if value is not None), None)
    # Where there is none, transformers writes 10**30.
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
    """Whether texts are to be made small letters, whatever the tokenizer's own files say."""
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
    """Write the files of a `SentenceEncoder`, which all versions of the library read.

    Args:
        folder: where.
        embedding_dim: of the encoder.
        sequence_length: the most tokens of a text.
        pooling: of the model.
        normalize: of the model.
        texts: `prompts` and `default_prompt_name`, where there are any.
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
    else:  # in an order that only new versions know
        settings = {"embedding_dimension": embedding_dim, _MODE: list(pooling)}
    write_json(folder / POOLING / "config.json", settings)
    texts = texts or {}
    if texts.get("prompts"):
        prompts = {name: texts.get(name) for name in ("prompts", "default_prompt_name")}
        write_json(folder / PROMPTS, {**prompts, "similarity_fn_name": "cosine"})


def _required(path: Path) -> Any:
    """What a file says that the folder cannot do without."""
    try:
        return read_json(path)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; get the folder again") from None
