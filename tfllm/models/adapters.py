"""Adapters of a causal language model: which projections they update, and which is in use."""

from __future__ import annotations

import itertools
import numbers
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tfllm.config import ConfigError, LoraConfig, ModelConfig, unknown_name
from tfllm.keras_internals import layers_of
from tfllm.layers.lora import LoraPart
from tfllm.layers.projection import Projection

_QUERY_KEY_VALUE = "attention.query_key_value"
_ATTENTION_OUTPUT = "attention.output_projection"
_INNER, _OUTER = "feed_forward.inner", "feed_forward.outer"

TARGETS: dict[str, tuple[tuple[str, int | None], ...]] = {
    "q_proj": ((_QUERY_KEY_VALUE, 0),),
    "k_proj": ((_QUERY_KEY_VALUE, 1),),
    "v_proj": ((_QUERY_KEY_VALUE, 2),),
    "o_proj": ((_ATTENTION_OUTPUT, None),),
    "gate_proj": ((_INNER, 0),),
    "up_proj": ((_INNER, 1),),
    "down_proj": ((_OUTER, None),),
    "c_attn": ((_QUERY_KEY_VALUE, None),),
    "c_fc": ((_INNER, None),),
    "c_proj": ((_ATTENTION_OUTPUT, None), (_OUTER, None)),
}
"""target -> its projections in a block, each with the part of its rows (None: all)"""

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""what the target "all" stands for"""


class AdapterPart(NamedTuple):
    """The update of some rows of one projection of a model.

    Args:
        place: path of the projection in the model, such as "blocks.0.attention.query_key_value".
        part: rows, rank and scale of the update.
    """

    place: str
    part: LoraPart


class Adapter(NamedTuple):
    """All updates that an adapter consists of.

    Args:
        parts: updates, one or more for each adapted projection.
        dropout: rate of dropout of the adapter's inputs during training. Defaults to 0.
    """

    parts: tuple[AdapterPart, ...]
    dropout: float = 0.0

    @classmethod
    def build(cls, config: Mapping[str, Any]) -> Adapter:
        """The adapter that `to_dict` described."""
        parts = [AdapterPart(place, LoraPart(*part)) for place, part in config["parts"]]
        return cls(tuple(parts), config["dropout"])

    def to_dict(self) -> dict[str, Any]:
        """The adapter as a dictionary that JSON can hold."""
        return {
            "parts": [[place, list(part)] for place, part in self.parts],
            "dropout": self.dropout,
        }

    def by_place(self) -> dict[str, list[LoraPart]]:
        """The parts by the path of their projection."""
        places: dict[str, list[LoraPart]] = {}
        for place, part in self.parts:
            places.setdefault(place, []).append(part)
        return places


def adapter_of(config: LoraConfig, model: AdapterMethods) -> Adapter:
    """The adapter that a `LoraConfig` describes for a model.

    Raises:
        ConfigError: it names a target or a block that the model does not have.
    """
    blocks = range(model.config.num_layers) if config.layers is None else config.layers
    if max(blocks) >= model.config.num_layers or min(blocks) < 0:
        raise ConfigError(
            f"layers must lie in [0, {model.config.num_layers}), the model's blocks; "
            f"received {list(blocks)}"
        )
    targets: Sequence[str] = config.targets
    if "all" in targets:
        targets = ALL if model.config.gated else [name for name in ALL if name != "gate_proj"]
    ranges: dict[tuple[str, tuple[int, int]], None] = {}
    for target in targets:
        if target not in TARGETS:
            raise ConfigError(unknown_name("LoRA target", target, ("all", *TARGETS)))
        if target == "gate_proj" and not model.config.gated:
            raise ConfigError(
                "gate_proj needs a gated feed-forward layer, and the model's has no gate; leave "
                f"gate_proj out; received targets {', '.join(config.targets)}"
            )
        for place, part in TARGETS[target]:
            ranges[place, _rows(place, part, model)] = None
    scale = config.alpha / config.rank
    parts = []
    for block in blocks:
        of_place: dict[str, list[tuple[int, int]]] = {}
        for place, rows in ranges:
            of_place.setdefault(place, []).append(rows)
        for place, several in of_place.items():
            _check_apart(sorted(several), config.targets)
            for begin, end in several:
                update = LoraPart(begin, end, config.rank, scale)
                parts.append(AdapterPart(f"blocks.{block}.{place}", update))
    return Adapter(tuple(parts), config.dropout)


def _rows(place: str, part: int | None, model: AdapterMethods) -> tuple[int, int]:
    """First and last + 1 of a part of a projection's rows; they are the same in all blocks."""
    config = model.config
    assert config.head_dim and config.num_kv_heads
    total = projection_at(model, f"blocks.0.{place}").output_dim
    if part is None or (place == _INNER and not config.gated):
        return 0, total
    if place == _INNER:
        return part * total // 2, (part + 1) * total // 2
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    bounds = (0, query, query + key, query + 2 * key)
    return bounds[part], bounds[part + 1]


def _check_apart(ranges: list[tuple[int, int]], targets: Sequence[str]) -> None:
    for (_, end), (begin, _) in itertools.pairwise(ranges):
        if begin < end:
            raise ConfigError(
                "targets must not name a projection twice (c_attn is q_proj, k_proj and v_proj as "
                f"one); received {', '.join(targets)}"
            )


def projection_at(model: AdapterMethods, place: str) -> Projection:
    """The projection with a path such as "blocks.0.feed_forward.outer"."""
    value: Any = model
    for name in place.split("."):
        value = value[int(name)] if name.isdigit() else getattr(value, name)
    assert isinstance(value, Projection), place
    return value


class AdapterMethods:
    """The methods of a `CausalLM` for adapters.

    While a model has adapters, its own weights are frozen: they get no gradient and have no state
    in an optimizer, and only the adapter in use is trained. Functions that were traced before an
    adapter was switched, such as those of a task, continue with the previous one.
    """

    config: ModelConfig
    _adapters: dict[str, Adapter]
    _adapter_in_use: str | None
    _trained_before: tuple[str, ...]

    def _prepare_adapters(self) -> None:
        self._adapters = {}
        self._adapter_in_use = None
        self._trained_before = ()

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the model's adapters."""
        return tuple(self._adapters)

    @property
    def adapter(self) -> str | None:
        """The name of the adapter in use."""
        return self._adapter_in_use

    def dropout_of(self, name: str) -> float:
        """The rate of dropout of an adapter's inputs during training."""
        return self._adapters[name].dropout

    @property
    def own_weights(self: Any) -> list[Any]:
        """The model's weights except those of its adapters."""
        projections = self._projections()
        added = {id(v) for p in projections for a in p.adapters.values() for v in a.weights}
        return [v for v in self.weights if id(v) not in added]

    def add_adapter(self: Any, config: LoraConfig | Adapter, name: str = "default") -> None:
        """Add an adapter, freeze the model's own weights, and use the adapter.

        Its update is zero at first; its initial values depend on the model's seed and on `name`. A
        model that has already been trained continues with a new optimizer of the same settings,
        with a warning.

        Args:
            config: configuration of the adapter.
            name: name of the adapter, to switch between several. Defaults to "default".

        Raises:
            ConfigError: `config` names a target or a block that the model does not have.
            ValueError: the name is taken, empty, or has a slash.
        """
        if name in self._adapters or not name or "/" in name:
            raise ValueError(
                "an adapter's name must be new, not empty and without slashes; received "
                f"{name!r}, the model has: {', '.join(self._adapters) or 'none'}"
            )
        adapter = adapter_of(config, self) if isinstance(config, LoraConfig) else config
        if not self._adapters:
            self._trained_before = tuple(v.path for v in self.weights if v.trainable)
            for variable in self.weights:
                variable.trainable = False
        for place, parts in adapter.by_place().items():
            seed = None
            if self.seed is not None:
                seed = zlib.crc32(f"{self.seed}/adapter/{name}/{place}".encode()) >> 1
            projection_at(self, place).add_adapter(name, parts, dropout=adapter.dropout, seed=seed)
        if adapter.dropout:
            for i, block in enumerate(self.blocks):
                if block.adapter_seed_generator is None:
                    seed = self.seed or 0
                    block.drop_adapter_inputs(zlib.crc32(f"{seed}/adapter/{i}".encode()) >> 1)
        self._adapters = {**self._adapters, name: adapter}
        self.set_adapter(name)

    def enable_lora(
        self: Any,
        rank: int,
        *,
        alpha: float | None = None,
        dropout: float = 0.0,
        targets: str | Sequence[str] = "all",
        layers: Sequence[int] | None = None,
        name: str = "default",
    ) -> None:
        """Freeze the weights and train a low-rank adapter: `add_adapter` under KerasHub's name.

        Args:
            rank: rank of the adapter's matrices.
            alpha: the updates are multiplied by alpha / rank. Defaults to twice the rank.
            dropout: rate of dropout of the adapter's inputs during training. Defaults to 0.
            targets: projections to adapt, such as `["q_proj", "v_proj"]`. Defaults to "all".
            layers: indices of the blocks to adapt, counted from 0. Defaults to all blocks.
            name: name of the adapter. Defaults to "default".

        Raises:
            ConfigError: the model does not have one of the targets or blocks.
            ValueError: the name is taken, empty, or has a slash.
        """
        if isinstance(rank, bool) or not isinstance(rank, numbers.Integral):
            raise ConfigError(f"rank must be an integer, at least 1; received {rank!r}")
        config = LoraConfig(
            rank=int(rank),
            alpha=2.0 * rank if alpha is None else alpha,
            dropout=dropout,
            targets=(targets,) if isinstance(targets, str) else tuple(targets),
            layers=None if layers is None else tuple(layers),
        )
        self.add_adapter(config, name)

    def set_adapter(self: Any, name: str | None) -> None:
        """Switch to another adapter, or to none.

        Args:
            name: name of the adapter; None: use the model's own weights only.

        Raises:
            ValueError: there is no adapter with this name.
        """
        if name is not None and name not in self._adapters:
            raise ValueError(unknown_name("adapter", name, self._adapters))
        self._adapter_in_use = name
        for projection in self._projections():
            projection.use_adapter(name)
            for other, lora in projection.adapters.items():
                for variable in lora.weights:
                    variable.trainable = other == name
        # The functions that Keras has compiled contain the adapter that was in use before.
        self.train_function = self.test_function = self.predict_function = None

    def delete_adapter(self: Any, name: str) -> None:
        """Delete an adapter; with the last one gone, the model's own weights are trainable again.

        Args:
            name: name of the adapter.

        Raises:
            ValueError: there is no adapter with this name.
        """
        if name not in self._adapters:
            raise ValueError(unknown_name("adapter", name, self._adapters))
        self.set_adapter(None if self._adapter_in_use == name else self._adapter_in_use)
        for projection in self._projections():
            projection.delete_adapter(name)
        self._adapters = {other: a for other, a in self._adapters.items() if other != name}
        if not self._adapters:
            for variable in self.weights:
                variable.trainable = variable.path in self._trained_before

    def merge_adapter(self: Any) -> None:
        """Add the adapter in use to the model's weights, in float32, and delete it.

        A model without adapters is left unchanged.

        Raises:
            ValueError: no adapter is in use, or the model has other adapters, which were trained
                for its current weights.
        """
        if not self._adapters:
            return
        name = self._adapter_in_use
        if name is None:
            raise ValueError(
                "no adapter is in use; call set_adapter() with the one to merge, one of "
                f"{self.adapters}"
            )
        others = [other for other in self._adapters if other != name]
        if others:
            raise ValueError(
                "merging changes the weights that the other adapters were made for; delete them "
                f"first with delete_adapter(): {', '.join(others)}"
            )
        for place in self._adapters[name].by_place():
            projection_at(self, place).merge_adapter(name)
        self.delete_adapter(name)

    def train_top(self: Any, num_blocks: int) -> None:
        """Train only the last blocks, the final norm and an output matrix that is not tied.

        All other weights are frozen: they get no gradient and have no state in an optimizer. Call
        this before `compile`.

        Args:
            num_blocks: number of blocks to train.

        Raises:
            ConfigError: the model has fewer blocks.
            ValueError: the model has adapters, which freeze all blocks.
        """
        if not 0 <= num_blocks <= self.config.num_layers:
            raise ConfigError(
                f"top_layers must lie in [0, {self.config.num_layers}], the model's blocks; "
                f"received {num_blocks}"
            )
        if self._adapters:
            raise ValueError(
                f"the model has adapters, which freeze all blocks: {self.adapters}; merge them or "
                "delete them first"
            )
        top = [*self.blocks[self.config.num_layers - num_blocks :], self.final_norm]
        trained = {id(v) for layer in top if layer is not None for v in layer.weights}
        trained.add(id(self.output_kernel))
        for variable in self.weights:
            variable.trainable = id(variable) in trained
        self.train_function = None

    def _projections(self: Any) -> list[Projection]:
        return [layer for layer in layers_of(self) if isinstance(layer, Projection)]

    def _copy_adapter_into(self: Any, copy: Any) -> None:
        """Merge the adapter in use into the weights of a copy of the model, rounding once."""
        if self._adapter_in_use is None:
            return
        for place in self._adapters[self._adapter_in_use].by_place():
            into = projection_at(copy, place)
            projection_at(self, place).merge_adapter(self._adapter_in_use, into)
