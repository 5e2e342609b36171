"""Run a command, and report an error in one line."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from tfllm.cli.completion import complete
from tfllm.cli.parsing import command_line, parse
from tfllm.cli.terminal import warnings_in_a_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: words of the command line after the program's name. Defaults to those of the
            process.

    Returns:
        The exit status.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # for the processes it starts, too
    os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever ~/.keras/keras.json says
    if "_ARGCOMPLETE" in os.environ:  # the shell asks for completions
        complete(*command_line())
    options = parse(arguments)
    if options is None:
        return 2
    try:
        with warnings_in_a_line(options.command):
            status = options.run(options) or 0
            sys.stdout.flush()
            return status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of our output, such as `head`, has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        message = _message(error)
        if message is None or os.environ.get("TFLLM_TRACEBACK"):
            raise
        print(f"tfllm {options.command}: {message}", file=sys.stderr)
        return getattr(error, "exit_status", 1)


def _message(error: Exception) -> str | None:
    """One line for an error that the user can act on; None for a bug in tfllm."""
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    if isinstance(error, ValueError | OSError | RuntimeError | ImportError):
        return " ".join(str(error).split())
    if "tensorflow" in sys.modules:
        errors = sys.modules["tensorflow"].errors
        if isinstance(error, errors.ResourceExhaustedError):
            return (
                f"there is not enough memory ({error.message.splitlines()[0]}); try a smaller "
                "batch_size, a higher gradient_accumulation, or rematerialize"
            )
        if isinstance(error, errors.OpError):
            return error.message.splitlines()[0]
    return None
