"""The output of `--help`, which shows the most used options, and of `--help-all`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Parser of a command, with one-line errors and a short help for commands of many options."""

    leading: tuple[str, ...] = ()

    def lead_with(self, *flags: str) -> None:
        """Let `--help` show these flags and the positional arguments, and `--help-all` the rest."""
        self.leading = flags
        self.add_argument(
            "--help-all", action=_PrintAll, help="show all options with their defaults and exit"
        )

    def format_help(self) -> str:
        """The short help if the command has one, otherwise the full help."""
        return self._short_help() if self.leading else super().format_help()

    def format_full_help(self) -> str:
        """The help for all arguments."""
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Print the error in one line, without the usage that argparse prints, and exit."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")

    def _short_help(self) -> str:
        flags = self._option_string_actions
        positional = [action for action in self._actions if not action.option_strings]
        required = [a for a in self._actions if a.option_strings and a.required]
        words = [f"{a.option_strings[0]} {_value_name(a)}" for a in required]
        words += ["[options]", *map(_usage, positional)]
        formatter = self._get_formatter()
        formatter.add_usage(" ".join([self.prog, *words]), self._actions, [])
        formatter.add_text(self.description)
        for title, actions in (
            ("arguments", positional),
            ("common options", [flags[flag] for flag in self.leading]),
        ):
            formatter.start_section(title)
            formatter.add_arguments(actions)
            formatter.end_section()
        formatter.add_text(f"Every option: {self.prog} --help-all")
        return formatter.format_help()


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults other than [], False and None, and keeps the line breaks of an example."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **{"max_help_position": 26, **options})

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in ([], False, None):
            return action.help
        return super()._get_help_string(action)


class _PrintAll(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        assert isinstance(parser, Parser)
        print(parser.format_full_help(), end="")
        parser.exit()


def _value_name(action: argparse.Action) -> str:
    return str(action.metavar or action.dest.upper())


def _usage(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest)
    return {"*": f"[{name} ...]", "+": f"{name} [{name} ...]"}.get(str(action.nargs), name)
