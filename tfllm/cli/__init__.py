"""The command line: one subcommand per verb, without logic of its own.

Each module declares the arguments of some commands and runs them. TensorFlow is only imported when
a command needs it, so that `--help` answers at once.
"""

from tfllm.cli.entry_point import main
from tfllm.cli.terminal import quiet_start, table

__all__ = ["main", "quiet_start", "table"]
