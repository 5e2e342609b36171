"""`tfllm chat`, as somebody at a terminal meets it."""

import io

import pytest

from tests.tasks.chat_models import chat, model
from tests.tokenizers.conversations import assistant, system, user
from tests.tokenizers.test_chat_template import tokenizer
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
def loaded(monkeypatch, folder):
    """The model of that folder, whose functions are traced once for all tests."""

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
    assert "/clear begins anew" in captured.err and next(said) == "three"


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
    made = BytePairTokenizer(tokenizer("qwen3")._json, end_token="<|im_end|>")
    save(model(), tmp_path / "plain", made, generation=GenerationConfig(max_new_tokens=6))
    assert main(["chat", str(tmp_path / "plain"), "a"]) == 1
    assert "the tokenizer has no chat template" in capsys.readouterr().err
