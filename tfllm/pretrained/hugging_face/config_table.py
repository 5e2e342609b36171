"""How a `model_type` of config.json says what a configuration of ours says: a table each.

The meaning of a key is the one that `transformers` gives it for that type. A key that changes what
the model computes and that is not followed is refused by name.
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
"""the default of a key that must be there"""

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
"""the name in config.json to ours"""


def _nothing_more(config: Any) -> Mapping[str, Any]:
    return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfigTable:
    """How one `model_type` says a configuration.

    Args:
        model_type: what config.json calls it.
        class_name: what `architectures` names.
        other_class_names: what it may name, too.
        config_class: ours.
        keys: our field to (key in config.json, its default where the key is missing or null).
        required: values of ours that the type implies.
        unsupported: keys that must be missing, null or have one of these values.
        fixed: keys that must be missing, null or have this value, since we follow no other.
        alike: keys that must be missing, null or have the value of this other key.
        dropouts: keys of the rates, which must be alike.
        default_dropout: of such a key that is missing.
        optional_dropouts: keys of further rates, which are as those where they are missing.
        absent_dropouts: keys of rates that our model has none of.
        written_activations: our name of an activation to the one that is written.
        constants: what is written besides.
        read_more: further fields, given what config.json says and its name for errors.
        write_more: what is written of these.
        expresses_more: whether config.json can say a configuration that has all that is `required`.
        stored_settings: fields that the names of the stored weights tell, whatever config.json
            says.
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
        """The configuration that config.json describes.

        Args:
            values: what the file holds.
            where: the file's name, for errors.
            dropout: what to train with instead of what the file says.

        Raises:
            ConfigError: an option that is not supported, a missing key, or values that do not fit
                together.
        """
        return built(self.config_class, self.read_settings(values, where, dropout), where)

    def read_settings(
        self, values: Mapping[str, Any], where: str, dropout: float | None
    ) -> dict[str, Any]:
        """The fields that `read` makes the configuration of."""
        for key, harmless in self.unsupported.items():
            if values.get(key) is not None and values[key] not in harmless:
                raise unsupported(key, values[key], (None, *harmless), where)
        for key, value in self.fixed.items():
            if values.get(key) not in (None, value):
                raise unsupported(key, values[key], (value,), where)
        settings = dict(self.required)
        for name, (key, default) in self.keys.items():
            value = values.get(key)
            if value is None and (key not in values or name != "num_kv_heads"):  # null: as many
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
        """The dropouts in config.json that the one of a model is not like."""
        absent = {key: values[key] for key in self.absent_dropouts if values.get(key)}
        return unlike_rates(values, self._dropouts_in(values), self.default_dropout) | absent

    def _dropouts_in(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        given = (key for key in self.optional_dropouts if values.get(key) is not None)
        return (*self.dropouts, *given)

    def expresses(self, config: Any) -> bool:
        """Whether config.json can say a configuration."""
        as_required = all(getattr(config, n) == value for n, value in self.required.items())
        return as_required and self.expresses_more(config)

    def written(self, config: Any) -> dict[str, Any]:
        """What config.json says of a configuration that it `expresses`."""
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
