"""The keys of config.json that correspond to a configuration: one table for each `model_type`.

A key has the meaning that `transformers` gives it for that type. A key that changes what the model
computes and that is not supported is refused by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from tfllm.config import ConfigError, unknown_name
from tfllm.pretrained.hugging_face.config_values import (
    built,
    one_dropout,
    unlike_rates,
    unsupported,
)

REQUIRED = object()
"""The default of a required key."""

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
"""The name of an activation in tfllm, by its name in config.json."""


def _nothing_more(config: Any) -> Mapping[str, Any]:
    return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfigTable:
    """The keys of one `model_type` that correspond to a configuration.

    Args:
        model_type: Value of `model_type` in config.json.
        class_name: Value of `architectures`.
        other_class_names: Other accepted values of `architectures`.
        config_class: Class of the configuration.
        keys: For each field, its key in config.json and the default if the key is missing or null.
        required: Values of fields that the type implies.
        unsupported: Keys that must be missing, null or have one of these values.
        fixed: Keys that must be missing, null or have this value, the only one that is supported.
        alike: Keys that must be missing, null or have the value of this other key.
        dropouts: Keys of the dropout rates, which must be equal.
        default_dropout: Default of such a key.
        optional_dropouts: Keys of further rates, which default to the others.
        absent_dropouts: Keys of rates that our model does not have.
        written_activations: Names of activations that are written instead of ours.
        constants: Additional entries that are written.
        read_more: Reads further fields, given the values of config.json and its name for errors.
        write_more: Returns the entries for these fields.
        expresses_more: Whether config.json can express a configuration that has the `required`
            values.
        stored_settings: Returns fields that the names of the stored weights determine, whatever
            config.json says.
    """

    model_type: str
    class_name: str
    other_class_names: tuple[str, ...] = ()
    config_class: type
    keys: Mapping[str, tuple[str, Any]]
    required: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    unsupported: Mapping[str, tuple[Any, ...]] = dataclasses.field(
        default_factory=lambda: {"quantization_config": ()}
    )
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    alike: tuple[tuple[str, str], ...] = ()
    dropouts: tuple[str, ...]
    default_dropout: float
    optional_dropouts: tuple[str, ...] = ()
    absent_dropouts: tuple[str, ...] = ()
    written_activations: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {"gelu_tanh": "gelu_new"}
    )
    constants: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    read_more: Callable[[Mapping[str, Any], str], Mapping[str, Any]] = lambda values, where: {}
    write_more: Callable[[Any], Mapping[str, Any]] = _nothing_more
    expresses_more: Callable[[Any], bool] = lambda config: True
    stored_settings: Callable[[Any, Collection[str]], Mapping[str, Any]] = lambda config, names: {}

    def read(self, values: Mapping[str, Any], where: str, dropout: float | None) -> Any:
        """Read the configuration that config.json describes.

        Args:
            values: Contents of the file.
            where: Name of the file, for errors.
            dropout: Dropout rate to train with; None for that of the file.

        Raises:
            ConfigError: If an option is not supported, a key is missing, or values contradict each
                other.
        """
        return built(self.config_class, self.read_settings(values, where, dropout), where)

    def read_settings(
        self, values: Mapping[str, Any], where: str, dropout: float | None
    ) -> dict[str, Any]:
        """The fields from which `read` builds the configuration."""
        for key, harmless in self.unsupported.items():
            if values.get(key) is not None and values[key] not in harmless:
                raise unsupported(key, values[key], (None, *harmless), where)
        for key, value in self.fixed.items():
            if values.get(key) not in (None, value):
                raise unsupported(key, values[key], (value,), where)
        settings = dict(self.required)
        for name, (key, default) in self.keys.items():
            value = values.get(key)
            if value is None and (key not in values or name != "num_kv_heads"):  # null: num_heads
                value = default
            if value is REQUIRED:
                raise ConfigError(f"{where} has no {key!r}, which a {self.model_type} needs")
            if value is not None:
                settings[name] = value
        for key, other in self.alike:
            if values.get(key) not in (None, values[other]):
                raise unsupported(key, values[key], (values[other],), where)
        if "activation" in self.keys:
            key, activation = self.keys["activation"][0], str(settings["activation"])
            if activation not in ACTIVATIONS:
                raise ConfigError(unknown_name(key, activation, ACTIVATIONS, where))
            settings["activation"] = ACTIVATIONS[activation]
        if dropout is None:
            rates = self._dropouts_in(values)
            settings["dropout"] = one_dropout(values, rates, self.default_dropout, where)
        else:
            settings["dropout"] = dropout
            if settings.get("attention_dropout"):
                settings["attention_dropout"] = dropout
        return {**settings, **self.read_more(values, where)}

    def unlike_dropouts(self, values: Mapping[str, Any]) -> dict[str, float]:
        """The dropout rates in config.json that our model cannot have."""
        absent = {key: values[key] for key in self.absent_dropouts if values.get(key)}
        return unlike_rates(values, self._dropouts_in(values), self.default_dropout) | absent

    def _dropouts_in(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        given = (key for key in self.optional_dropouts if values.get(key) is not None)
        return (*self.dropouts, *given)

    def expresses(self, config: Any) -> bool:
        """Whether config.json can express a configuration."""
        as_required = all(getattr(config, n) == value for n, value in self.required.items())
        return as_required and self.expresses_more(config)

    def written(self, config: Any) -> dict[str, Any]:
        """The config.json of a configuration that it `expresses`."""
        values = {key: getattr(config, name) for name, (key, _) in self.keys.items()}
        if "activation" in self.keys:
            written = self.written_activations.get(config.activation, config.activation)
            values[self.keys["activation"][0]] = written
        return {
            "model_type": self.model_type,
            "architectures": [self.class_name],
            **values,
            **{key: values[other] for key, other in self.alike},
            **dict.fromkeys(self.dropouts, config.dropout),
            **self.constants,
            **self.write_more(config),
        }
