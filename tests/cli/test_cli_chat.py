"""`tfllm chat` as a user at a terminal sees it."""

import contextlib
import io
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tasks.chat_models import chat, model
from tests.tokenizers.conversations import assistant, system, user
from tests.tokenizers.template_tokenizers import tokenizer
from tfllm.cli import main
from tfllm.config import GenerationConfig
from tfllm.pretrained import save
from tfllm.tasks import ChatSession
from tfllm.tokenizers import BytePairTokenizer

MORE = ["--max-new-tokens", "6"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    of = chat("qwen3")
    return str(save(model(), tmp_path_factory.mktemp("chat") / "model", of.tokenizer))


@pytest.fixture(autouse=True)
def loaded(monkeypatch, folder, tmp_path):
    """The model of that folder, whose functions are traced once for all tests."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def load(path, **options):
        assert path == folder
        return chat("qwen3")

    monkeypatch.setattr("tfllm.tasks.Chat.load", load)


def reply(*messages, **options):
    return chat("qwen3").reply(list(messages), **{"max_new_tokens": 6, **options})


def test_a_session_goes_on_from_what_was_said():
    session = ChatSession(chat("qwen3"), system="Be kind.", max_new_tokens=6)
    first = "".join(session.say("one"))
    assert first == reply(system("Be kind."), user("one"))
    said = [system("Be kind."), user("one"), assistant(first)]
    assert session.messages == said
    pieces = session.say("two")
    next(pieces)
    pieces.close()
    with pytest.raises(ValueError, match="shorter than the model's context"):
        session.say("word " * 600)
    assert session.messages == said  # as if it had not been asked
    assert "".join(session.say("two")) == reply(*said, user("two"))
    assert session.undo() == "two"
    assert session.messages == said
    session.set_system("Be brief.")
    assert session.messages == [system("Be brief."), *said[1:]]
    assert session.undo() == "one" and session.undo() is None
    session.set_system("")
    assert session.messages == []
    session.set_system("Be kind.")
    session.clear()
    assert session.messages == said[:1]


def test_messages_are_said_one_after_another(folder, capsys):
    first = reply(user("one"))
    second = reply(user("one"), assistant(first), user("two"))
    for arguments in (["one", "two"], ["--no-stream", "one", "two"]):
        assert main(["chat", folder, *MORE, *arguments]) == 0
        assert capsys.readouterr().out == f"{first}\n{second}\n"
    assert main(["chat", folder, *MORE, "--system", "Be kind.", "one"]) == 0
    assert capsys.readouterr().out == reply(system("Be kind."), user("one")) + "\n"


def test_what_comes_through_a_pipe_is_one_message(folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))
    assert main(["chat", folder, *MORE]) == 0
    assert capsys.readouterr().out == reply(user("one\ntwo")) + "\n"


def test_a_conversation_at_a_terminal(folder, capsys, monkeypatch):
    said = iter(["one", "", "two", "word " * 600, "/clear", "two", "/exit", "three"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: next(said))
    assert main(["chat", folder, *MORE]) == 0
    first = reply(user("one"))
    expected = [first, reply(user("one"), assistant(first), user("two")), reply(user("two"))]
    captured = capsys.readouterr()
    assert captured.out == "".join(f"{text}\n" for text in expected)
    assert "shorter than the model's context" in captured.err
    assert "/reset starts over" in captured.err and next(said) == "three"


def test_commands_at_a_terminal(folder, capsys, monkeypatch):
    lines = [
        *("one", "/undo", "/undo", "/system Be kind.", "one", "/system none", "/reset"),
        *('"""', "two", 'three"""', "/reset", "//two\\", "three", "/set max_new_tokens=3"),
        *("/reset", "one", "/set", "/set top_p=2", "/set num_beams=2", "/set colour=1", "/set x"),
        *("/hlep", "/help", "/quit", "never"),
    ]
    said = iter(lines)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: next(said))
    assert main(["chat", folder, *MORE]) == 0
    captured = capsys.readouterr()
    expected = [
        reply(user("one")),
        reply(system("Be kind."), user("one")),
        reply(user("two\nthree")),
        reply(user("/two\nthree")),
        reply(user("one"), max_new_tokens=3),
    ]
    assert captured.out == "".join(f"{text}\n" for text in expected)
    for told in (
        *("forgotten: one", "there is nothing to forget", "system message: Be kind."),
        *("system message: none", "max_new_tokens=3\n", "top_p must lie in (0, 1]; received 2"),
        *("num_beams must be 1", "unknown setting 'colour'", "given as NAME=VALUE; received 'x'"),
        *("unknown command '/hlep'", "/help                  this list"),
    ):
        assert told in captured.err, told
    assert next(said) == "never"


SCRIPT = """
import fcntl, signal, sys, termios, time

fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C is a signal
from tfllm.cli.conversation import Conversation, history_file, line_editing
from tfllm.config import GenerationConfig

class Session:
    options, system = {}, ""
    def say(self, words):
        for piece in ("I heard ", repr(words), "."):
            yield piece
        if words == "wait":
            time.sleep(60)

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what a shell runs behind &
talk = Conversation(Session(), GenerationConfig())
with line_editing(talk, None if "--no-history" in sys.argv else history_file()):
    talk.run()
print("left")
"""


class Terminal:
    """A child process at a pseudo-terminal."""

    def __init__(self, state, *arguments):
        self.host, child = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments],
            stdin=child, stdout=child, stderr=child, start_new_session=True,
            env={**os.environ, "XDG_STATE_HOME": str(state), "TERM": "dumb"},
        )  # fmt: skip
        os.close(child)
        self.seen = ""

    def read_until(self, text):
        """What was printed since the last call, up to `text`."""
        while text not in self.seen:
            ready, _, _ = select.select([self.host], [], [], 60)
            assert ready, self.seen
            self.seen += os.read(self.host, 4096).decode()
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def type(self, keys):
        os.write(self.host, keys.encode())

    def interrupt(self):
        """Ctrl-C, once the child waits: one that comes just before is seen with the next key."""
        status = Path(f"/proc/{self.process.pid}/status")
        while status.exists() and "State:\tS" not in status.read_text():
            time.sleep(0.01)
        self.type("\x03")

    def end(self):
        with contextlib.suppress(OSError):  # the child has closed it
            self.read_until("left")
        assert self.process.wait(60) == 0
        os.close(self.host)


def test_lines_are_edited_and_kept_and_ctrl_c_stops_a_reply(tmp_path):
    terminal = Terminal(tmp_path)
    terminal.read_until("> ")
    terminal.type("hellXo\x1b[D\x7f\n")  # left, and the X is deleted
    assert "I heard 'hello'" in terminal.read_until(".\r\n")
    terminal.read_until("> ")
    terminal.type("wait\n")
    terminal.read_until("I heard 'wait'.")
    terminal.interrupt()
    terminal.read_until("stopped; this turn is forgotten")
    terminal.read_until("> ")
    terminal.type("half a line")
    terminal.read_until("half a line")
    terminal.interrupt()
    terminal.read_until("/quit or Ctrl-D exits")
    terminal.read_until("> ")
    terminal.type("/he\t\n")  # completed
    terminal.read_until("forget the last question")
    terminal.read_until("> ")
    terminal.type("\x04")
    terminal.end()
    kept = tmp_path / "tfllm/chat_history"
    assert kept.read_text().split() == ["hello", "wait", "/help"]
    assert kept.stat().st_mode & 0o777 == 0o600
    again = Terminal(tmp_path)
    again.read_until("> ")
    again.type("\x1b[A\x1b[A\x1b[A\n")  # three lines back
    assert "I heard 'hello'" in again.read_until(".\r\n")
    again.read_until("> ")
    again.type("/quit\n")
    again.end()


def test_no_line_is_kept_where_that_is_not_wanted(tmp_path):
    terminal = Terminal(tmp_path, "--no-history")
    terminal.read_until("> ")
    terminal.type("hello\n")
    terminal.read_until("I heard 'hello'.")
    terminal.read_until("> ")
    terminal.type("\x04")
    terminal.end()
    assert list(tmp_path.iterdir()) == []


def test_the_end_of_input_ends_it_and_ctrl_c_ends_a_reply_alone(folder, capsys, monkeypatch):
    said = iter(["one", "two"])

    def ask(_):
        try:
            return next(said)
        except StopIteration:
            raise EOFError from None

    original, calls = chat("qwen3").stream_reply, []

    def interrupted(messages, **options):
        calls.append(messages)
        yield from original(messages, **options)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(chat("qwen3"), "stream_reply", interrupted)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", ask)
    assert main(["chat", folder, *MORE]) == 0
    assert calls == [[user("one")], [user("two")]]  # the first turn is forgotten
    assert "stopped" in capsys.readouterr().err


def test_a_chat_has_one_reply_at_a_time(folder, capsys):
    assert main(["chat", folder, "--num-samples", "2", "a"]) == 1
    assert "num_samples must be 1 for a chat; received 2" in capsys.readouterr().err


def test_a_model_without_a_template_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.undo()
    made = BytePairTokenizer(tokenizer("qwen3").to_json(), end_token="<|im_end|>")
    save(model(), tmp_path / "plain", made, generation=GenerationConfig(max_new_tokens=6))
    assert main(["chat", str(tmp_path / "plain"), "a"]) == 1
    assert "the tokenizer has no chat template" in capsys.readouterr().err
