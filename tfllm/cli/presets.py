"""The command `presets`."""

from __future__ import annotations

import argparse

from tfllm.cli.arguments import AddCommand


def add_commands(add: AddCommand) -> None:
    """Add the commands of this module."""
    add("presets", "List the model sizes for `tfllm train --preset`", _presets, "tfllm presets")


def _presets(options: argparse.Namespace) -> None:
    from tfllm.models.presets import preset_table

    print(preset_table())
