"""Read and write `adapter_config.json`, PEFT's description of a LoRA."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tfllm.files import read_json_object

CONFIG = "adapter_config.json"

# Keys that do not affect what a stored adapter computes.
_NO_MATTER = {
    *("task_type", "auto_mapping", "peft_version", "revision", "inference_mode"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("fan_in_fan_out", "megatron_core", "loftq_config", "eva_config", "runtime_config"),
    *("corda_config", "lora_ga_config", "qalora_group_size", "ensure_weight_tying"),
}
_SUPPORTED = {
    *("peft_type", "base_model_name_or_path", "r", "lora_alpha", "lora_dropout", "use_rslora"),
    *("rank_pattern", "alpha_pattern", "init_lora_weights"),
}
_NOTHING: tuple[Any, ...] = (None, False, "none", [], {})
# These start from a modified base: the weights of the named one less the adapter's.
_CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


class AdapterSettings(NamedTuple):
    """The contents of the file that are needed.

    Args:
        base: Path or name of the base model, if the file names it.
        dropout: Dropout rate in training.
        alpha: Alpha of modules that no pattern matches.
        alphas: Alpha of the modules that match a pattern, by pattern.
        rank_stabilized: Whether the scale is alpha / sqrt(rank) instead of alpha / rank
            (Kalajdzievski, 2023).
    """

    base: str | None
    dropout: float
    alpha: float
    alphas: dict[str, float]
    rank_stabilized: bool

    def scale(self, module: str, rank: int) -> float:
        """The factor by which B A is multiplied in a module."""
        alpha = self.alpha
        for pattern, value in self.alphas.items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                alpha = value
                break
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)


def read_adapter_config(folder: Path) -> AdapterSettings:
    """Read the file in a folder.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or has an unsupported option that changes what is computed.
    """
    path = folder / CONFIG
    try:
        values = read_json_object(path, required=True)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"{folder} is not an adapter: it has no {CONFIG}; give a folder that PEFT or "
            "save_adapter wrote, or the folder `adapter` of a run"
        ) from None
    if values.get("peft_type") != "LORA":
        raise ValueError(
            f"{path}: peft_type must be LORA; received {values.get('peft_type')!r}, which is "
            "another kind of adapter"
        )
    for key, value in values.items():
        if key not in _NO_MATTER | _SUPPORTED and value not in _NOTHING:
            raise ValueError(
                f"{path}: {key} changes what the adapter computes and is not supported; received "
                f"{value!r}. Merge the adapter with PEFT and load the model"
            )
    start = values.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_THE_BASE):
        raise ValueError(
            f"{path}: init_lora_weights={start!r} changes the base's own weights, which are not in "
            "the file. Have PEFT save it with path_initial_model_for_weight_conversion"
        )
    try:
        return AdapterSettings(
            base=values.get("base_model_name_or_path"),
            dropout=float(values.get("lora_dropout") or 0.0),
            alpha=float(values.get("lora_alpha", 8)),
            alphas={str(k): float(v) for k, v in (values.get("alpha_pattern") or {}).items()},
            rank_stabilized=bool(values.get("use_rslora")),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} has a value of the wrong type: {error}") from None


def written_adapter_config(
    updates: Mapping[str, tuple[int, float]],
    *,
    all_modules: Sequence[str],
    dropout: float,
    transposed: bool,
    base: str | None,
) -> dict[str, Any]:
    """Build the contents of the file.

    Args:
        updates: Rank and scale of each adapted module, by the module's name.
        all_modules: Names of all modules that could be adapted.
        dropout: Dropout rate in training.
        transposed: Whether the modules store their weights as `[input, output]`.
        base: Path or name of the base model, if known.
    """
    ranks = {module: rank for module, (rank, _) in updates.items()}
    alphas = {module: scale * rank for module, (rank, scale) in updates.items()}
    rank, alpha = _most_common(ranks), _most_common(alphas)
    targets, layers = _targets(list(updates), all_modules)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _number(alpha),
        "lora_dropout": dropout,
        "target_modules": targets,
        "layers_to_transform": layers,
        "fan_in_fan_out": transposed,
        "bias": "none",
        "use_rslora": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "rank_pattern": {_literal(m): r for m, r in ranks.items() if r != rank},
        "alpha_pattern": {_literal(m): _number(a) for m, a in alphas.items() if a != alpha},
    }


def _targets(adapted: list[str], all_modules: Sequence[str]) -> tuple[list[str], list[int] | None]:
    """The module names for PEFT to match, and the layers to match them in (None for all)."""

    def parts(module: str) -> tuple[int, str]:
        match = re.fullmatch(r"[^.]+(?:\.[^.]+)?\.(\d+)\.(.+)", module)
        assert match, module
        return int(match[1]), match[2]

    def by_layer(modules: Sequence[str]) -> dict[int, set[str]]:
        found: dict[int, set[str]] = {}
        for layer, name in map(parts, modules):
            found.setdefault(layer, set()).add(name)
        return found

    ours, all_of_them = by_layer(adapted), by_layer(all_modules)
    names = next(iter(ours.values()))
    if any(other != names for other in ours.values()):
        return sorted(adapted), None
    ends = [name.rpartition(".")[2] for name in next(iter(all_of_them.values()))]
    short = {end if ends.count(end := name.rpartition(".")[2]) == 1 else name for name in names}
    return sorted(short), None if ours.keys() == all_of_them.keys() else sorted(ours)


def _most_common(values: Mapping[str, Any]) -> Any:
    every = list(values.values())
    return max(sorted(set(every)), key=every.count)


def _literal(module: str) -> str:
    """Escape a module's name, which PEFT reads as a regular expression."""
    return module.replace(".", r"\.")


def _number(value: float) -> float | int:
    value = round(value, 9)  # scale * rank may differ from the original alpha in the last bits
    return int(value) if float(value).is_integer() else value
