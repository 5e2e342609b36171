"""Read the command line: which command, with which flags and settings; without TensorFlow."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from tfllm.cli import (
    evaluation,
    export,
    generation,
    preparation,
    presets,
    report,
    serving,
    tasks,
    training,
)
from tfllm.cli.arguments import RunCommand
from tfllm.config import GenerationConfig, field_types, unknown_name
from tfllm.version import __version__

FREE_TEXT = {"generate": "prompt", "chat": "message", "query": "prompt"}
"""the commands whose arguments are texts, which may hold a =, and where these are kept"""
MODULES = (
    preparation,
    training,
    report,
    evaluation,
    tasks,
    generation,
    export,
    serving,
    presets,
)
"""of the commands, in the order of the help"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, where argparse prints all flags."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace | None:
    """What was asked for; None where no command was named, once the help is printed.

    `run` is the function of the command, to be called with all of it.

    Exits with status 2 and one line on standard error where the arguments are wrong.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser, commands = _parser()
    name = next((word for word in words if not word.startswith("-")), None)
    if name is not None and name not in commands:
        parser.error(unknown_name("command", name, commands))
    command = commands[name] if name else parser
    flags = [flag for flag in command._option_string_actions if flag.startswith("--")]
    end = words.index("--") if "--" in words else len(words)
    behind: list[str] = []
    if name == "launch":  # what stands behind `--` is a command line of its own
        words, behind = words[:end], words[end + 1 :]
        if not {"-h", "--help"} & set(words):
            _check_worker_command(command, behind, commands)
    for i, word in enumerate(words[:end]):
        flag, equals, value = word.partition("=")
        if flag.startswith("--") and flag.replace("_", "-") not in flags:
            command.error(unknown_name("argument", flag, flags))
        if flag.startswith("--"):
            words[i] = flag.replace("_", "-") + equals + value
    options, rest = parser.parse_known_args(words)
    if name is None:
        parser.print_help()
        return None
    # argparse fills a list of positionals once; words that follow a flag are left over.
    lists = [a for a in command._actions if not a.option_strings and a.nargs in ("*", "+")]
    only_texts = False
    for word in rest:
        if word == "--" and not only_texts:
            only_texts = True
            continue
        key, equals, _ = word.partition("=")
        setting = equals and f"--{key.replace('_', '-')}" in flags
        if setting and "positional_assignments" not in vars(options):
            command.error(f"unexpected argument {word!r}; a setting is given as --set {word}")
        if not lists or (word.startswith("-") and not only_texts):
            command.error(f"unexpected argument {word!r}")
        setattr(options, lists[0].dest, [*getattr(options, lists[0].dest), word])
    if texts := FREE_TEXT.get(name):
        _take_settings(command, options, texts, len(words) - end - 1)
    if name == "launch":
        options.worker_command, options.worker_options = behind, parse(behind)
    return options


def _take_settings(command: _Parser, options: argparse.Namespace, texts: str, behind: int) -> None:
    """Take the settings from among the texts of a command: `generate MODEL "Hi" top_p=0.9`.

    A word is a setting if a setting's name stands before its first =. What stands behind `--` is
    text, whatever it is.

    Args:
        command: whose errors are shown.
        options: what was parsed; settings are moved to where those of `--set` are.
        texts: the name of the texts among them.
        behind: how many words stand behind `--`.
    """
    if getattr(options, "signature", None):  # whose inputs are given as NAME=VALUE
        return
    words = getattr(options, texts)
    free = max(len(words) - max(behind, 0), 0)
    names = [*field_types(GenerationConfig)]
    taken, kept = [], []
    for word in words[:free]:
        key, equals, _ = word.partition("=")
        name = key.strip().removeprefix("generation.").replace("-", "_")
        if equals and name in names:
            taken.append(f"{name}{equals}{word.partition('=')[2]}")
            continue
        near = difflib.get_close_matches(name, names, 1, 0.8) if name.isidentifier() else []
        if equals and near:
            command.error(
                f"{unknown_name('setting', name, names)} A text that holds a = in this way goes "
                f"behind --, as in: {command.prog} MODEL -- {word!r}"
            )
        kept.append(word)
    setattr(options, texts, kept + words[free:])
    if not getattr(options, texts) and taken and options.command == "query":
        command.error(
            f"name a text, too: {taken[0]!r} is a setting; a text that begins so goes behind --"
        )
    options.positional_assignments = taken


def _check_worker_command(parser: _Parser, behind: list[str], commands: dict[str, Any]) -> None:
    usage = "the workers' command stands behind --: tfllm launch --workers 2 -- train --data ..."
    if not behind:
        parser.error(usage)
    if behind[0] == "train":
        return
    if behind[0] not in commands:
        parser.error(f"{usage}; received {behind[0]!r} there")
    parser.error(
        f"launch starts the workers of one training, behind -- stands train; received "
        f"{behind[0]!r}, which runs in one process: start it without launch"
    )


def _parser() -> tuple[_Parser, dict[str, _Parser]]:
    """Of all commands, and of each."""
    parser = _Parser(
        allow_abbrev=False,
        prog="tfllm",
        description="From a folder of text to a language model that TensorFlow Serving runs.",
        epilog="Settings may also stand in a TOML file: --config FILE, with the sections "
        "[prepare], [model], [training] and [generation]; what the command line says goes over it.",
    )
    parser.add_argument("--version", action="version", version=f"tfllm {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")

    def add(name: str, text: str, run: RunCommand) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            allow_abbrev=False,
            help=text[0].lower() + text[1:],
            description=text + ".",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            argument_default=argparse.SUPPRESS,
        )
        command.set_defaults(run=run)
        return command

    for module in MODULES:
        module.add_commands(add)
    return parser, dict(commands.choices)
