"""Parse the command line into a command with its flags and settings, without TensorFlow."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from tfllm.cli import (
    completion,
    evaluation,
    export,
    generation,
    preparation,
    report,
    serving,
    sizes,
    tasks,
    training,
)
from tfllm.cli.arguments import RunCommand
from tfllm.cli.help import HelpFormatter, Parser
from tfllm.cli.settings import settings_among
from tfllm.config import ConfigError, unknown_name
from tfllm.version import __version__

FREE_TEXT = {"generate": "prompt", "chat": "message", "query": "prompt"}
"""commands that take texts, which may contain a =, and the name of that argument"""
MODULES = (
    preparation,
    training,
    report,
    evaluation,
    tasks,
    generation,
    export,
    serving,
    sizes,
    completion,
)
"""modules of the commands, in the order of the help"""
OLD_COMMANDS = {"presets": "sizes"}
"""old name of a command to its present name"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace | None:
    """Parse the words of a command line.

    Exits with status 2 and one line on standard error if the arguments are wrong.

    Args:
        arguments: words after the program's name. Defaults to those of the process.

    Returns:
        The options, whose `run` is the function of the command, to be called with the options;
        None if no command was named, in which case the help was printed.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser, commands = command_line()
    name = next((word for word in words if not word.startswith("-")), None)
    if name in OLD_COMMANDS:
        words[words.index(name)] = name = OLD_COMMANDS[name]
    if name is not None and name not in commands:
        parser.error(unknown_name("command", name, commands))
    command = commands[name] if name else parser
    flags = [flag for flag in command._option_string_actions if flag.startswith("--")]
    end = words.index("--") if "--" in words else len(words)
    after: list[str] = []
    if name == "launch":  # the words after `--` are a command line of their own
        words, after = words[:end], words[end + 1 :]
        if not {"-h", "--help"} & set(words):
            _check_worker_command(command, after, commands)
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
        options.worker_command, options.worker_options = after, parse(after)
    return options


def _take_settings(command: Parser, options: argparse.Namespace, texts: str, after: int) -> None:
    """Separate settings from the texts of a command: `generate MODEL "Hi" top_p=0.9`.

    Args:
        command: parser that reports errors.
        options: the parsed options; settings are moved to `positional_assignments`.
        texts: name of the argument that holds the texts.
        after: number of words after `--`, all of which are text.
    """
    if getattr(options, "signature", None):  # the inputs of a signature are also NAME=VALUE
        return
    words = getattr(options, texts)
    free = max(len(words) - max(after, 0), 0)
    try:
        kept, taken = settings_among(words[:free], f"{command.prog} MODEL")
    except ConfigError as error:
        command.error(str(error))
    setattr(options, texts, kept + words[free:])
    if not getattr(options, texts) and taken and options.command == "query":
        command.error(
            f"a text is missing: {taken[0]!r} is a setting; if it is text, put it after --"
        )
    options.positional_assignments = taken


def _check_worker_command(parser: Parser, after: list[str], commands: dict[str, Any]) -> None:
    usage = "the workers' command must follow --: tfllm launch --workers 2 -- train --data ..."
    if not after:
        parser.error(usage)
    if after[0] == "train":
        return
    if after[0] not in commands:
        parser.error(f"{usage}; received {after[0]!r} there")
    parser.error(
        f"launch starts the workers of one training run: train must follow --; received "
        f"{after[0]!r}, which runs in one process: start it without launch"
    )


def command_line() -> tuple[Parser, dict[str, Parser]]:
    """The parser of the whole command line, and those of the commands by name."""
    parser = Parser(
        allow_abbrev=False,
        prog="tfllm",
        description="Train, fine-tune, evaluate, export and serve language models with Keras.",
        epilog="""\
`tfllm COMMAND --help` shows a command's options. Settings can also be read from a TOML
file (--config FILE) with the sections [prepare], [model], [training] and [generation];
the command line overrides the file.""",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tfllm {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")

    def add(name: str, text: str, run: RunCommand, example: str) -> Parser:
        command = commands.add_parser(
            name,
            allow_abbrev=False,
            help=text[0].lower() + text[1:],
            description=f"{text}.\n\nexample:\n  {example}",
            formatter_class=HelpFormatter,
            argument_default=argparse.SUPPRESS,
        )
        command.set_defaults(run=run)
        return command

    for module in MODULES:
        module.add_commands(add)
    return parser, dict(commands.choices)
