"""The commands `generate` and `chat`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from tfllm.cli.arguments import AddCommand, add_model
from tfllm.cli.settings import add_settings, settings
from tfllm.cli.terminal import print_stream, quiet_start
from tfllm.config import ConfigError, GenerationConfig, build


def add_commands(add: AddCommand) -> None:
    """Add the commands of this module."""
    generate = add("generate", "Continue prompts", _generate)
    add_model(generate, adapter=True)
    generate.add_argument(
        "prompt",
        nargs="*",
        default=[],
        help="texts to continue; none: asks for them. top_p=0.9 among them is a setting, as with "
        "--set; behind -- all is text",
    )
    generate.add_argument("--no-stream", action="store_true", help="print whole texts only")
    add_settings(generate, "generation")

    chat = add("chat", "Talk with a chat model", _chat)
    add_model(chat, adapter=True)
    chat.add_argument(
        "message",
        nargs="*",
        default=[],
        help="what to say, one after another; none: asks for it, until /exit or Ctrl-D. top_p=0.9 "
        "among them is a setting, as with --set; behind -- all is text",
    )
    chat.add_argument("--system", help="a system message")
    chat.add_argument("--no-stream", action="store_true", help="print whole replies only")
    add_settings(chat, "generation")


def _generate(options: argparse.Namespace) -> None:
    config = build(GenerationConfig, given := settings(options, "generation")["generation"])
    with quiet_start():
        from tfllm.tasks import TextGeneration
    task = TextGeneration.load(options.model, adapter=getattr(options, "adapter", None))
    if options.prompt:
        for prompt in options.prompt:
            _print_continuation(task, prompt, given, config, options)
    elif sys.stdin.isatty():
        print("Type a prompt and Enter; an empty line ends.", file=sys.stderr)
        with contextlib.suppress(EOFError):
            while prompt := input("> "):
                try:
                    _print_continuation(task, prompt, given, config, options)
                except ValueError as error:  # of this prompt; the next one may do
                    print(f"tfllm generate: {error}", file=sys.stderr)
    else:
        _print_continuation(task, sys.stdin.read(), given, config, options)


def _print_continuation(
    task: Any, prompt: str, given: dict[str, Any], config: GenerationConfig, options: Any
) -> None:
    chosen = {name: getattr(config, name) for name in given}
    if config.num_samples > 1 or config.searches or getattr(options, "no_stream", False):
        texts = task.generate(prompt, **chosen)
        for text in [texts] if isinstance(texts, str) else texts:
            print(f"{prompt}{text}")
        return
    print_stream(prompt, task.stream(prompt, **chosen))


def _chat(options: argparse.Namespace) -> None:
    config = build(GenerationConfig, given := settings(options, "generation")["generation"])
    if config.num_samples > 1:
        raise ConfigError(f"num_samples must be 1 for a chat; received {config.num_samples}")
    with quiet_start():
        from tfllm.tasks import Chat, ChatSession
    chosen = {name: getattr(config, name) for name in given}
    task = Chat.load(options.model, adapter=getattr(options, "adapter", None))
    session = ChatSession(task, system=getattr(options, "system", ""), **chosen)
    whole = getattr(options, "no_stream", False)
    if options.message:
        for message in options.message:
            _print_reply(session.say(message), whole)
    elif sys.stdin.isatty():
        print("Say something; /clear begins anew, /exit or Ctrl-D ends.", file=sys.stderr)
        with contextlib.suppress(EOFError):
            while (message := input("> ").strip()) != "/exit":
                if message == "/clear":
                    session.clear()
                elif message:
                    _answer(session, message, whole)
    else:
        _print_reply(session.say(sys.stdin.read().rstrip("\n")), whole)


def _answer(session: Any, message: str, whole: bool) -> None:
    """One turn of a conversation in a terminal; Ctrl-C ends the reply, and nothing else."""
    try:
        _print_reply(session.say(message), whole)
    except KeyboardInterrupt:
        print("\nstopped; this turn is forgotten", file=sys.stderr)
    except ValueError as error:  # of this turn; another may do
        print(f"tfllm chat: {error}; /clear begins anew", file=sys.stderr)


def _print_reply(pieces: Iterator[str], whole: bool) -> None:
    print_stream("", iter(["".join(pieces)]) if whole else pieces)
