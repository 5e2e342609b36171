"""The command `sizes`."""

from __future__ import annotations

import argparse

from tfllm.cli.arguments import AddCommand


def add_commands(add: AddCommand) -> None:
    """Add the commands of this module."""
    add("sizes", "List the sizes of new models for `tfllm train --size`", _sizes, "tfllm sizes")


def _sizes(options: argparse.Namespace) -> None:
    from tfllm.models.sizes.all_sizes import size_listing

    print(size_listing())
