"""A conversation in a terminal: line editing, commands, and settings of the replies."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tfllm.cli.settings import pair
from tfllm.cli.terminal import print_stream
from tfllm.config import ConfigError, GenerationConfig, build, field_docs, to_dict, unknown_name

_MOST_LINES = 1000
"""number of lines of the history that are saved"""
_BLOCK = '"""'

HELP = f"""\
  /help                  this list
  /reset                 start over, with the same system message
  /system TEXT           change the system message; /system shows it, /system none removes it
  /undo                  forget the last question and its reply
  /set NAME=VALUE ...    change generation settings, such as temperature=0.7; /set shows them
  /quit                  exit; so does Ctrl-D
End a line with \\ to continue it on the next, or put {_BLOCK} around a text of several lines. A
message that starts with // is sent with one /. Ctrl-C stops a reply and removes its turn.\
"""


class Conversation:
    """A loop that reads messages and commands from the terminal and prints the model's replies.

    Args:
        session: a `tfllm.tasks.ChatSession`.
        defaults: the model's own generation settings.
        whole: whether to print a reply only when it is complete.
    """

    def __init__(self, session: Any, defaults: GenerationConfig, *, whole: bool = False) -> None:
        self.session = session
        self.defaults = defaults
        self.whole = whole
        self.commands: dict[str, Callable[[str], None]] = {
            "/help": lambda words: _say(HELP),
            "/reset": self._reset,
            "/clear": self._reset,
            "/system": self._system,
            "/undo": self._undo,
            "/set": self._set,
        }
        self.ends = ("/quit", "/exit", "/bye")

    def run(self) -> None:
        """Read and answer until the input ends or one of the commands in `ends` is given."""
        _say("Type a message; /help lists commands, /quit or Ctrl-D exits.")
        with contextlib.suppress(EOFError):
            while True:
                try:
                    text = _read().strip()
                except KeyboardInterrupt:
                    _say("\n/quit or Ctrl-D exits")
                    continue
                name, _, words = text.partition(" ")
                if name in self.ends:
                    return
                if text.startswith("/") and not text.startswith("//"):
                    self._command(name, words.strip())
                elif text:
                    self._answer(text.removeprefix("/") if text.startswith("//") else text)

    def _command(self, name: str, words: str) -> None:
        known = self.commands.get(name)
        if known is None:
            _say(f"{unknown_name('command', name, [*self.commands, '/quit'])}; see /help")
            return
        try:
            known(words)
        except ValueError as error:
            _say(str(error))

    def _answer(self, text: str) -> None:
        """Answer one message; Ctrl-C only stops the reply."""
        try:
            print_reply(self.session.say(text), self.whole)
        except KeyboardInterrupt:
            _say("\nstopped; this turn is forgotten")
        except ValueError as error:  # this turn failed; another one may work
            _say(f"tfllm chat: {error}; /reset starts over")

    def _reset(self, words: str) -> None:
        self.session.clear()

    def _system(self, words: str) -> None:
        if words:
            self.session.set_system("" if words == "none" else words)
        _say(f"system message: {self.session.system or 'none'}")

    def _undo(self, words: str) -> None:
        last = self.session.undo()
        _say("there is nothing to forget" if last is None else f"forgotten: {_short(last)}")

    def _set(self, words: str) -> None:
        if words:
            given = {}
            for assignment in words.split():
                name, value = pair(assignment, form="NAME=VALUE")
                given[name] = value
            options = {**self.session.options, **given}
            config = checked_settings(self.defaults, options)
            self.session.options = {name: getattr(config, name) for name in options}
        config = checked_settings(self.defaults, self.session.options)
        _say("\n".join(f"  {name}={_shown(value)}" for name, value in to_dict(config).items()))

    def completions(self, text: str, line: str) -> list[str]:
        """The completions of a word that Tab offers."""
        if line.startswith("/set "):
            return [f"{n}=" for n in field_docs(GenerationConfig) if n.startswith(text)]
        return [n for n in [*self.commands, *self.ends] if n.startswith(text) and text]


def checked_settings(defaults: GenerationConfig, options: dict[str, Any]) -> GenerationConfig:
    """The generation settings of a chat: `defaults`, changed by `options`.

    Raises:
        ConfigError: an option is unknown, out of range, or not supported in a chat.
    """
    config = build(GenerationConfig, {**to_dict(defaults), **options})
    if config.num_samples > 1:
        raise ConfigError(f"num_samples must be 1 for a chat; received {config.num_samples}")
    if config.searches:
        raise ConfigError(
            "num_beams must be 1, and no_repeat_ngram_size 0, for a chat, since its replies are "
            f"streamed; received {config.num_beams} and {config.no_repeat_ngram_size}"
        )
    return config


def print_reply(pieces: Iterator[str], whole: bool) -> None:
    """Print a reply piece by piece, or only when it is complete."""
    print_stream("", iter(["".join(pieces)]) if whole else pieces)


def history_file() -> Path:
    """The file that saves the lines that were typed."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local/state") / "tfllm/chat_history"


@contextlib.contextmanager
def line_editing(conversation: Conversation, history: Path | None) -> Iterator[None]:
    """Context in which lines can be edited: arrow keys, Tab, and Ctrl-R to search the history.

    Args:
        conversation: gives the completions that Tab offers.
        history: file that saves the lines, readable only by its owner; None: they are not saved.
    """
    try:
        import readline
    except ImportError:  # not available on every system
        yield
        return

    def complete(text: str, number: int) -> str | None:
        found = conversation.completions(text, readline.get_line_buffer())
        return found[number] if number < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" ")
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
    readline.clear_history()
    if history is not None:
        with contextlib.suppress(OSError):
            readline.read_history_file(history)
    try:
        yield
    finally:
        readline.set_completer(None)
        if history is not None:
            readline.set_history_length(_MOST_LINES)
            with contextlib.suppress(OSError):  # a chat must not fail because of its history
                history.parent.mkdir(parents=True, exist_ok=True)
                history.touch(mode=0o600)
                readline.write_history_file(history)


def _read() -> str:
    """Read the next input: a line, lines continued by a backslash, or a block."""
    text = input("> ")
    if text.lstrip().startswith(_BLOCK):
        text = text.lstrip().removeprefix(_BLOCK)
        while not text.rstrip().endswith(_BLOCK):
            text += "\n" + input("... ")
        return text.rstrip().removesuffix(_BLOCK)
    while text.endswith("\\"):
        text = text[:-1] + "\n" + input("... ")
    return text


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:59] + "…"


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str | tuple | list) else str(value)
