"""Find the assistant's words in a rendered conversation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tfllm.tokenizers.chat.template_program import TemplateProgram
from tfllm.tokenizers.chat.template_sandbox import LEARN_FROM, LEARN_TO, now

_STAND_IN = "\ufdd3"  # for words of the assistant, to see where a template puts them
_MARKS = re.compile(f"[{LEARN_FROM}{LEARN_TO}]")

Span = tuple[int, int]
"""Indices of the first character and of the one after the last."""


def assistant_spans(
    template: TemplateProgram,
    messages: list[dict[str, Any]],
    variables: Mapping[str, Any],
    ends: list[str],
) -> tuple[str, list[Span]]:
    """Render a conversation, and find the assistant's words and ends of turns in it.

    Messages whose `weight` is 0 are left out of the spans.

    Args:
        template: of the model.
        messages: checked, with special tokens in them broken.
        variables: others that the template knows.
        ends: the tokens at which an answer ends, the longest first.

    Raises:
        ValueError: If the template rewrites the words, so that they cannot be found.
    """
    time = now()
    is_learned = [message.get("weight", 1) != 0 for message in messages]
    messages = [{k: v for k, v in message.items() if k != "weight"} for message in messages]

    def render(messages: list[dict[str, Any]], prompt: bool = False, **options: Any) -> str:
        return template.run(messages, prompt, variables, now=time, **options)

    if re.search(r"\{%-?\s*generation\s*-?%\}", template.source):
        text, spans = _marked(render(messages, marking=True))
        for number in _unlearned(render, messages, is_learned, len(spans)):
            spans[number] = (0, 0)
        return text, [(begin, _with_end(text, end, ends)) for begin, end in spans if end]
    text = render(messages)
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant" or not is_learned[i]:
            continue
        spoken = {**message, "content": _STAND_IN}
        before, found, behind = render([*messages[:i], spoken, *messages[i + 1 :]]).partition(
            _STAND_IN
        )
        if not found:
            if message.get("tool_calls"):  # a template that writes only these
                spans.append(_whole_turn(text, render(messages[:i], prompt=True),
                                         render(messages[: i + 1]), ends, i))  # fmt: skip
            continue  # otherwise a template that leaves this turn out
        end = len(text) - len(behind)
        prompt = render(messages[:i], prompt=True)
        if text.startswith(prompt):
            begin = len(prompt)
        elif text.startswith(before):
            begin = len(before) - _written_before(render, messages, i)
        else:
            begin = end + 1
        if _STAND_IN in behind or not text.endswith(behind) or begin > end:
            raise ValueError(
                f"the chat template rewrites what the assistant says in message {i + 1} or before "
                "it, so the tokens to learn cannot be determined; mark them in the "
                "template with {% generation %} ... {% endgeneration %}"
            )
        plain = set(message) <= {"role", "content"}
        spans.append((begin, _with_end(text, end, ends, anywhere=not plain)))
    return text, spans


def _unlearned(
    render: Any, messages: list[dict[str, Any]], is_learned: list[bool], number: int
) -> set[int]:
    """The indices of marked spans that belong to messages that are not to be learned."""
    found = set()
    for i, message in enumerate(messages):
        if message["role"] != "assistant" or is_learned[i]:
            continue
        spoken = {**message, "content": _STAND_IN}
        text, spans = _marked(render([*messages[:i], spoken, *messages[i + 1 :]], marking=True))
        place = text.find(_STAND_IN)
        here = {n for n, (begin, end) in enumerate(spans) if begin <= place < end}
        if len(spans) != number or (place >= 0 and text.count(_STAND_IN) > 1):
            raise ValueError(
                f"the chat template does not show which of its marks belong to message {i + 1}, "
                "whose weight is 0; leave the message out, or give it a weight of 1"
            )
        found |= here
    return found


def _whole_turn(text: str, prompt: str, upto: str, ends: list[str], i: int) -> Span:
    """The span of a turn without words: everything after its prompt."""
    if not (text.startswith(prompt) and text.startswith(upto) and len(prompt) < len(upto)):
        raise ValueError(
            f"the chat template writes the tool calls of message {i + 1} so that the "
            "tokens to learn cannot be determined; mark them in the template with "
            "{% generation %} ... {% endgeneration %}"
        )
    begin, end = len(prompt), len(upto.rstrip())
    last = max((text.rfind(token, begin, len(upto)) + len(token) for token in ends
                if token in text[begin : len(upto)]), default=end)  # fmt: skip
    return begin, last


def _written_before(render: Any, messages: list[dict[str, Any]], i: int) -> int:
    """The number of characters that the template writes between message i's prompt and its words.

    This is for templates whose prompt differs from the same text in a longer conversation, such as
    one that puts the system message into the last question.
    """
    asked = {**messages[i - 1], "content": _STAND_IN}
    prompt = render([*messages[: i - 1], asked], prompt=True).partition(_STAND_IN)[2]
    spoken = {**messages[i], "content": _STAND_IN}
    between = render([*messages[: i - 1], asked, spoken, *messages[i + 1 :]]).split(_STAND_IN)[1]
    return len(between) - len(prompt) if between.startswith(prompt) else 0


def writes_an_end(template: TemplateProgram, ends: list[str]) -> bool:
    """Whether a token at which the model stops is learned after the assistant's words.

    Also True if the template does not accept a question and its answer, so that it cannot be
    determined.
    """
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    try:
        text, spans = assistant_spans(template, messages, {}, ends)
    except ValueError:
        return True
    return not spans or any(token in text[begin:end] for begin, end in spans for token in ends)


def end_of_turn(template: TemplateProgram, special_tokens: Iterable[str]) -> str | None:
    """The special token after the assistant's words, with at most white space between them."""
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _STAND_IN}]
    try:
        behind = template.run(messages, False, {}).partition(_STAND_IN)[2].lstrip()
    except ValueError:
        return None
    found = [token for token in special_tokens if token and behind.startswith(token)]
    return max(found, key=len, default=None)


def _with_end(text: str, end: int, ends: list[str], *, anywhere: bool = False) -> int:
    """The end of a span, moved to after the token that ends the turn.

    `anywhere`: whether other text of the same turn, such as tool calls, may come before that token.
    """
    if not ends or text.endswith(tuple(ends), 0, end):
        return end
    between = r"(?s:.*?)" if anywhere else r"\s*"
    found = re.compile(f"{between}(?:{'|'.join(map(re.escape, ends))})").match(text, end)
    return found.end() if found else end


def _marked(text: str) -> tuple[str, list[Span]]:
    """Remove the marks from a text, and return the spans that were between them."""
    pieces, spans = [], []
    length = begin = 0
    position = 0
    for mark in _MARKS.finditer(text):
        pieces.append(text[position : mark.start()])
        length += mark.start() - position
        position = mark.end()
        if mark.group() == LEARN_FROM:
            begin = length
        else:
            spans.append((begin, length))
    return "".join([*pieces, text[position:]]), spans
