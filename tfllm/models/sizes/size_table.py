"""A table of named sizes: what the sizes of a family share stands once, and a size is a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from tfllm.config import ConfigError, build, read_value, unknown_name

Config = TypeVar("Config")


class SizeTable(Mapping[str, dict[str, Any]], Generic[Config]):
    """The sizes of one kind of model. As a mapping: a size's name to its configuration's values.

    Args:
        kind: kind of model, for errors, such as "decoder".
        config_class: class of the architecture, such as `ModelConfig`.
        families: for each family, the fields that its sizes have in common.
        columns: names of the fields in a row.
        rows: for each family, its sizes by name. A row has a value for each column and, if needed,
            a dictionary of the fields that differ from the family's.
    """

    def __init__(
        self,
        kind: str,
        config_class: type[Config],
        *,
        families: Mapping[str, Mapping[str, Any]],
        columns: Sequence[str],
        rows: Mapping[str, Mapping[str, tuple[Any, ...]]],
    ) -> None:
        self.kind = kind
        self.config_class = config_class
        self._values: dict[str, dict[str, Any]] = {}
        for family, sizes in rows.items():
            for name, row in sizes.items():
                differing = row[len(columns)] if len(row) > len(columns) else {}
                of_columns = dict(zip(columns, row, strict=False))
                self._values[name] = {**families[family], **of_columns, **differing}

    def __getitem__(self, name: str) -> dict[str, Any]:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def config(self, name: str, **fields: Any) -> Config:
        """The architecture of a size, with some of its fields given.

        Args:
            name: name of the size, a key of the table.
            fields: fields of `config_class` that replace the size's, such as `vocab_size`.

        Raises:
            ConfigError: no size of that name, no such field, or values that do not fit together.
        """
        if name not in self:
            raise ConfigError(unknown_name(f"{self.kind} size", name, self))
        values = {**self[name], **fields}
        if "num_layers" in fields:  # fewer blocks: those of the size's that are left
            num_layers = read_value("num_layers", fields["num_layers"], int)
            for key in {"rope_layers", "window_layers"} & values.keys() - fields.keys():
                values[key] = [i for i in values[key] if i < num_layers]
        return build(self.config_class, values, where=f"size {name}")
