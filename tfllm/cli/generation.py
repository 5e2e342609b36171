"""The commands `generate` and `chat`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import Any

from tfllm.cli.arguments import GENERATION, AddCommand, add_model, add_settings
from tfllm.cli.conversation import (
    Conversation,
    checked_settings,
    history_file,
    line_editing,
    print_reply,
)
from tfllm.cli.settings import settings
from tfllm.cli.terminal import print_stream, quiet_start
from tfllm.config import GenerationConfig, build, to_dict


def add_commands(add: AddCommand) -> None:
    """Add the commands of this module."""
    generate = add(
        "generate",
        "Generate text from prompts",
        _generate,
        'tfllm generate runs/mine "Once upon a time" --temperature 0.8',
    )
    add_model(generate, adapter=True)
    generate.add_argument(
        "prompt",
        metavar="TEXT",
        nargs="*",
        default=[],
        help="prompts; without any, they are read from the terminal or from standard input. A word "
        "such as top_p=0.9 is a setting; everything after -- is text",
    )
    generate.add_argument(
        "--no-stream", action="store_true", help="print each text when it is complete"
    )
    add_settings(generate, "generation")
    generate.lead_with(
        "--adapter", *GENERATION, "--min-p", "--repetition-penalty", "--num-samples", "--no-stream"
    )

    chat = add(
        "chat",
        "Chat with a model",
        _chat,
        'tfllm chat runs/mine "What is the capital of France?"',
    )
    add_model(chat, adapter=True)
    chat.add_argument(
        "message",
        metavar="TEXT",
        nargs="*",
        default=[],
        help="messages, one after another; without any, they are read from the terminal (type "
        "/help there) or from standard input. A word such as top_p=0.9 is a setting; everything "
        "after -- is text",
    )
    chat.add_argument("--system", metavar="TEXT", help="system message")
    chat.add_argument(
        "--no-stream", action="store_true", help="print each reply when it is complete"
    )
    chat.add_argument(
        "--no-history",
        action="store_true",
        help="do not save what you type; it is saved in $XDG_STATE_HOME/tfllm/chat_history "
        "(~/.local/state if that is not set)",
    )
    add_settings(chat, "generation")
    chat.lead_with(
        "--adapter", "--system", *GENERATION, "--repetition-penalty", "--no-stream", "--no-history"
    )


def _generate(options: argparse.Namespace) -> None:
    config = build(GenerationConfig, given := settings(options, "generation")["generation"])
    with quiet_start():
        from tfllm.tasks import TextGeneration
    task = TextGeneration.load(options.model, adapter=getattr(options, "adapter", None))
    if options.prompt:
        for prompt in options.prompt:
            _print_continuation(task, prompt, given, config, options)
    elif sys.stdin.isatty():
        print("Type a prompt and press Enter; an empty line exits.", file=sys.stderr)
        with contextlib.suppress(EOFError):
            while prompt := input("> "):
                try:
                    _print_continuation(task, prompt, given, config, options)
                except ValueError as error:  # this prompt failed; the next one may work
                    print(f"tfllm generate: {error}", file=sys.stderr)
    else:
        _print_continuation(task, sys.stdin.read(), given, config, options)


def _print_continuation(
    task: Any, prompt: str, given: dict[str, Any], config: GenerationConfig, options: Any
) -> None:
    chosen = {name: getattr(config, name) for name in given}
    own = build(GenerationConfig, {**to_dict(task.generation), **chosen})
    if own.num_samples > 1 or own.searches or getattr(options, "no_stream", False):
        texts = task.generate(prompt, **chosen)
        for text in [texts] if isinstance(texts, str) else texts:
            print(f"{prompt}{text}")
        return
    print_stream(prompt, task.stream(prompt, **chosen))


def _chat(options: argparse.Namespace) -> None:
    given = settings(options, "generation")["generation"]
    config = checked_settings(GenerationConfig(), given)
    with quiet_start():
        from tfllm.tasks import Chat, ChatSession
    chosen = {name: getattr(config, name) for name in given}
    task = Chat.load(options.model, adapter=getattr(options, "adapter", None))
    session = ChatSession(task, system=getattr(options, "system", ""), **chosen)
    whole = getattr(options, "no_stream", False)
    if options.message:
        for message in options.message:
            print_reply(session.say(message), whole)
    elif sys.stdin.isatty():
        conversation = Conversation(session, task.generation, whole=whole)
        history = None if getattr(options, "no_history", False) else history_file()
        with line_editing(conversation, history):
            conversation.run()
    else:
        print_reply(session.say(sys.stdin.read().rstrip("\n")), whole)
