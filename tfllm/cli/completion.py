"""The command `completion`, and the completions that argcomplete gets from the parsers.

The shell starts `tfllm` whenever Tab is pressed, so nothing here imports TensorFlow.
"""

from __future__ import annotations

import argparse
import typing
from collections.abc import Callable, Iterable
from typing import Any, Literal

from tfllm.cli.arguments import AddCommand
from tfllm.cli.settings import FLAG, SECTIONS, names_of
from tfllm.config import field_types

_HOLD_SETTINGS = ("positional_assignments", "assignments", "prompt", "message")
"""arguments whose words are, or may be, settings"""


def add_commands(add: AddCommand) -> None:
    """Add the commands of this module."""
    completion = add(
        "completion",
        "Print the script that makes Tab complete tfllm commands in a shell",
        _completion,
        "source <(tfllm completion bash)      # in ~/.bashrc; zsh: in ~/.zshrc\n"
        "  tfllm completion fish > ~/.config/fish/completions/tfllm.fish",
    )
    completion.add_argument("shell", choices=["bash", "zsh", "fish"], help="shell to complete in")


def _completion(options: argparse.Namespace) -> None:
    try:
        import argcomplete
    except ModuleNotFoundError:  # an environment older than this command
        raise ImportError(
            "argcomplete is needed but not installed: pip install argcomplete"
        ) from None

    print(argcomplete.shellcode(["tfllm"], shell=options.shell))


def complete(parser: argparse.ArgumentParser, commands: dict[str, Any]) -> None:
    """Answer a completion request, which the shell makes with the variable _ARGCOMPLETE, and exit.

    Args:
        parser: the parser of the whole command line.
        commands: command names and their parsers.
    """
    import argcomplete

    for command in commands.values():
        _add_completers(command)

    class Finder(argcomplete.CompletionFinder):
        """Ignores settings already given, since argparse fills a list of positionals only once."""

        def _get_completions(self, words: list[str], *rest: Any) -> Any:
            if words[1:2] == ["launch"] and "--" in words:  # a command line of its own follows
                words = [words[0], *words[words.index("--") + 1 :]]
            known = _settings_of(commands.get(words[1] if len(words) > 1 else ""))
            left = [w for w in words if f"{w.partition('=')[0]}=" not in known or "=" not in w]
            return super()._get_completions(left, *rest)

    Finder()(parser, always_complete_options=False)


def _add_completers(command: argparse.ArgumentParser) -> None:
    settings = _settings_of(command)
    for action in command._actions:
        completer: Callable[..., Iterable[str]]
        if action.dest in _HOLD_SETTINGS and settings:
            completer = _setting_completer(settings)
        elif action.dest.startswith(FLAG):
            completer = _value_completer(settings.get(action.dest.rpartition(".")[2] + "=", ()))
        elif action.dest == "task":
            completer = _tasks
        else:  # argcomplete completes its choices, or files
            continue
        action.completer = completer  # type: ignore[attr-defined]


def _settings_of(command: argparse.ArgumentParser | None) -> dict[str, tuple[str, ...]]:
    """Maps `KEY=` of each setting that a command knows to its possible values, if they are few."""
    dests = [action.dest for action in command._actions] if command else []
    sections = dict.fromkeys(d[len(FLAG) :].partition(".")[0] for d in dests if FLAG in d)
    found: dict[str, tuple[str, ...]] = {}
    for section in sections:
        for name in names_of(section):
            values = _values(field_types(SECTIONS[section]).get(name))
            found.setdefault(f"{name}=", values)
            found[f"{section}.{name}="] = values
    if "size=" in found:
        from tfllm.models.sizes.all_sizes import size_names

        found["size="] = found["model.size="] = tuple(size_names())
    return found


def _values(kind: Any) -> tuple[str, ...]:
    if kind is bool:
        return ("true", "false")
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def _setting_completer(settings: dict[str, tuple[str, ...]]) -> Callable[..., Iterable[str]]:
    def completer(prefix: str, **rest: Any) -> list[str]:
        key, equals, _ = prefix.partition("=")
        if equals:
            return [f"{key}={value}" for value in settings.get(f"{key}=", ())]
        return [name for name in settings if "." not in name or "." in prefix]

    return completer


def _value_completer(values: tuple[str, ...]) -> Callable[..., Iterable[str]]:
    return lambda **rest: values


def _tasks(**rest: Any) -> Iterable[str]:
    from tfllm.tasks.registry import TASKS

    return TASKS
