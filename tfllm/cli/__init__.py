"""The command line: one subcommand a verb, no logic of its own.

A module holds the arguments of some commands and what they do. None imports TensorFlow before a
command needs it, so `--help` answers at once.
"""

from tfllm.cli.entry_point import main
from tfllm.cli.terminal import quiet_start, table

__all__ = ["main", "quiet_start", "table"]
