"""Save and load adapters in PEFT's layout: `adapter_config.json`, `adapter_model.safetensors`."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfllm.files import atomic_folder, read_json
from tfllm.layers.lora import LoraPart
from tfllm.models.adapters import Adapter, AdapterPart, projection_at
from tfllm.models.causal_lm import CausalLM
from tfllm.pretrained.adapter_config import CONFIG, read_adapter_config, written_adapter_config
from tfllm.pretrained.fingerprint import fingerprint, same_weights
from tfllm.pretrained.hugging_face.decoder_config import to_hugging_face
from tfllm.pretrained.hugging_face.tensor_files import (
    NewTensor,
    TensorFiles,
    write_file,
    write_json,
)
from tfllm.pretrained.hugging_face.weight_map import WEIGHT_MAPS, StoredRows, stored_projections
from tfllm.pretrained.loading import Pretrained, load
from tfllm.pretrained.replaced_folder import OURS
from tfllm.version import __version__

WEIGHTS = "adapter_model.safetensors"

_PREFIX = "base_model.model."
_WRITTEN = {CONFIG, WEIGHTS, OURS}
_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<matrix>[AB])\.weight")


class _Update(NamedTuple):
    """The two matrices of an adapter for one module, which add scale * B A to its weights."""

    a: np.ndarray
    b: np.ndarray
    scale: float


# ------------------------------------------------------------------ writing


def save_adapter(
    model: CausalLM, folder: str | Path, *, name: str | None = None, base: str | None = None
) -> Path:
    """Save only an adapter of a model, in PEFT's layout; PEFT and `load_adapter` can open it.

    The folder is written under another name and then renamed. An adapter that tfllm wrote there
    before is replaced. `tfllm.json` has a checksum of the base's weights, which `load_adapter`
    checks.

    Args:
        model: Model with the adapter.
        folder: Folder to write.
        name: Name of the adapter. Defaults to the active one.
        base: Path or name of the base, for `base_model_name_or_path`. Defaults to none.

    Returns:
        The folder.

    Raises:
        ValueError: If the model has no such adapter.
        FileExistsError: If `folder` contains something else.
        OSError: If the disk is full or cannot be written to.
    """
    folder = Path(folder)
    name = model.adapter if name is None else name
    if name not in model.adapters:
        raise ValueError(
            f"the model has no adapter {name!r}; it has: {', '.join(model.adapters) or 'none'}"
        )
    modules = _modules(model)
    updates = {
        module: update
        for module, rows in modules.items()
        if (update := _update_of(model, name, rows)) is not None
    }
    config = written_adapter_config(
        {module: (len(u.a), u.scale) for module, u in updates.items()},
        all_modules=list(modules),
        dropout=model.dropout_of(name),
        transposed=any(modules[module].transposed for module in updates),
        base=base,
    )
    tensors = []
    for module, update in sorted(updates.items()):
        for matrix, value in (("A", update.a), ("B", update.b)):
            name_in_file = f"{_PREFIX}{module}.lora_{matrix}.weight"
            tensors.append(NewTensor(name_in_file, value.shape, functools.partial(np.copy, value)))
    with atomic_folder(folder, _check_replaceable) as new:
        write_json(new / CONFIG, config)
        write_file(new / WEIGHTS, tensors, np.dtype(np.float32))
        write_json(new / OURS, {"tfllm_version": __version__, "base": fingerprint(model)})
    return folder


def _check_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; name a folder that does not exist yet")
    names = sorted(path.name for path in folder.iterdir())
    foreign = [name for name in names if name not in _WRITTEN]
    if names and (foreign or OURS not in names):
        raise FileExistsError(
            f"{folder} contains files that are not an adapter of tfllm "
            f"({', '.join((foreign or names)[:3])}) and would be lost; name another folder"
        )


def _modules(model: CausalLM) -> dict[str, StoredRows]:
    """The projections of a model by the names that its family gives them."""
    model_type = to_hugging_face(model.config)[0]["model_type"]
    return {rows.module: rows for rows in stored_projections(model, WEIGHT_MAPS[model_type])}


def _update_of(model: CausalLM, name: str, rows: StoredRows) -> _Update | None:
    """The update of a module by an adapter; None if there is none.

    Several parts within a module become one whose rank is the sum of their ranks, in blocks; a part
    that spans several modules has its A in each of them.
    """
    lora = projection_at(model, rows.place).adapters.get(name)
    if lora is None:
        return None
    found = [
        (part, np.array(a), np.array(b))
        for part, a, b in zip(lora.parts, lora.a, lora.b, strict=True)
        if part.begin < rows.end and rows.begin < part.end
    ]
    if not found:
        return None
    scale = found[0][0].scale
    stacked = np.concatenate([a for _, a, _ in found])
    blocks = np.zeros((rows.end - rows.begin, len(stacked)), np.float32)
    column = 0
    for part, _, b in found:
        begin, end = max(part.begin, rows.begin), min(part.end, rows.end)
        inside = b[begin - part.begin : end - part.begin]
        if part.scale != scale:
            inside = inside * np.float32(part.scale / scale)
        columns = slice(column, column + part.rank)
        blocks[begin - rows.begin : end - rows.begin, columns] = inside
        column += part.rank
    return _Update(stacked, blocks, scale)


# ------------------------------------------------------------------ reading


def load_adapter(model: CausalLM, folder: str | Path, *, name: str = "default") -> None:
    """Add an adapter from a folder in PEFT's layout to a model, and activate it.

    Args:
        model: The base model.
        folder: Folder written by `save_adapter`, or by PEFT for a LoRA.
        name: Name of the adapter in the model. Defaults to "default".

    Raises:
        FileNotFoundError: If the folder or one of its files does not exist.
        ValueError: If a file is damaged, an option of PEFT is not supported, or the adapter belongs
            to another base: other modules, shapes or weights.
    """
    folder = Path(folder)
    config = read_adapter_config(folder)
    files = TensorFiles(folder, one_file=WEIGHTS)
    modules = _modules(model)
    _check_base(model, folder, config.base)
    found = _pairs(files, modules, config.base)
    parts: list[AdapterPart] = []
    matrices: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for module, (a_name, b_name) in found.items():
        rows = modules[module]
        a_shape, b_shape = files.tensors[a_name].shape, files.tensors[b_name].shape
        width = projection_at(model, rows.place).kernel.shape[1]
        rank, height = (a_shape[0] if len(a_shape) == 2 else 0), rows.end - rows.begin
        if (a_shape, b_shape) != ((rank, width), (height, rank)) or rank < 1:
            raise ValueError(
                f"{folder} is an adapter of another base{_named(config.base)}: the matrices of "
                f"{module} must be [rank, {width}] and [{height}, rank]; received {list(a_shape)} "
                f"and {list(b_shape)}"
            )
        part = LoraPart(rows.begin, rows.end, rank, config.scale(module, rank))
        parts.append(AdapterPart(rows.place, part))
        matrices[module] = files.read(a_name), files.read(b_name)
    model.add_adapter(Adapter(tuple(parts), config.dropout), name)
    for module, (a, b) in matrices.items():
        rows = modules[module]
        lora = projection_at(model, rows.place).adapters[name]
        number = [part.begin for part in lora.parts].index(rows.begin)
        lora.a[number].assign(a.astype(np.float32))
        lora.b[number].assign(b.astype(np.float32))


def load_merged(path: str | Path, adapter: str | Path, *, dtype: Any = None) -> Pretrained:
    """Load a pretrained model, and merge an adapter into its weights.

    The sum is computed in float32 and rounded once, whatever the dtype.

    Args:
        path: Path of the base; see `load`.
        adapter: Folder of the adapter; see `load_adapter`.
        dtype: Dtype policy of the model. Defaults to float32.

    Returns:
        The model, its tokenizer and its generation settings.

    Raises:
        FileNotFoundError: If there is no such model or adapter.
        ValueError: If one of them cannot be read, or the adapter belongs to another base.
    """
    base = load(path)
    load_adapter(base.model, adapter)
    base.model.merge_adapter()
    if dtype in (None, "float32"):
        return base
    return base._replace(model=base.model.with_dtype(dtype))


def _check_base(model: CausalLM, folder: Path, base: str | None) -> None:
    path = folder / OURS
    if not path.exists():  # written by PEFT
        return
    try:
        stored = read_json(path)["base"]
        fits = same_weights(stored, fingerprint(model))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is damaged; delete it to skip the check of the base") from None
    if not fits:
        raise ValueError(
            f"{folder} is an adapter of another base{_named(base)}: its weights are not those of "
            "this model. Load the model that it was trained on"
        )


def _pairs(
    files: TensorFiles, modules: Mapping[str, StoredRows], base: str | None
) -> dict[str, tuple[str, str]]:
    """The names of the two matrices of each module in the file."""
    found: dict[str, dict[str, str]] = {}
    folder = None
    for name, info in files.tensors.items():
        folder = info.file.parent
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(
                f"{info.file} must contain only the LoRA matrices of projections; received "
                f"{name}, which is not supported"
            )
        # If a model without its output projection was saved, names lack the first part.
        module = match["module"]
        known = [m for m in modules if m == module or m.partition(".")[2] == module]
        if not known:
            raise ValueError(
                f"{folder} is an adapter of another base{_named(base)}: it adapts {module}, which "
                "this model does not have among its blocks' projections"
            )
        found.setdefault(known[0], {})[match["matrix"]] = name
    if not found:
        raise ValueError(f"{folder or 'the file'} contains no LoRA matrices")
    lonely = [module for module, pair in found.items() if len(pair) < 2]
    if lonely:
        raise ValueError(f"{folder} lacks one of the two matrices of {lonely[0]}")
    return {module: (pair["A"], pair["B"]) for module, pair in found.items()}


def _named(base: str | None) -> str:
    return f" ({base})" if base else ""
