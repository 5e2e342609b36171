"""Where in a rendered conversation the assistant speaks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tfllm.tokenizers.chat.template_program import TemplateProgram
from tfllm.tokenizers.chat.template_sandbox import LEARN_FROM, LEARN_TO, now

_STAND_IN = "\ufdd3"  # for words of the assistant, to see where a template puts them
_MARKS = re.compile(f"[{LEARN_FROM}{LEARN_TO}]")

Span = tuple[int, int]
"""characters: the first, and the one after the last"""


def assistant_spans(
    template: TemplateProgram,
    messages: list[dict[str, Any]],
    variables: Mapping[str, Any],
    ends: list[str],
) -> tuple[str, list[Span]]:
    """A conversation as text, and where the assistant's words and ends of turns are.

    Of a message whose `weight` is 0 nothing is named.

    Args:
        template: of the model.
        messages: checked, with special tokens in them broken.
        variables: others that the template knows.
        ends: the tokens at which an answer ends, the longest first.

    Raises:
        ValueError: the template's rewriting leaves it open.
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
        before, stands, behind = render([*messages[:i], spoken, *messages[i + 1 :]]).partition(
            _STAND_IN
        )
        if not stands:
            if message.get("tool_calls"):  # a template that writes these alone
                spans.append(_whole_turn(text, render(messages[:i], prompt=True),
                                         render(messages[: i + 1]), ends, i))  # fmt: skip
            continue  # else a template that leaves this turn out
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
                "it, so that it is not known which tokens are to be learned; mark them in the "
                "template with {% generation %} ... {% endgeneration %}"
            )
        plain = set(message) <= {"role", "content"}
        spans.append((begin, _with_end(text, end, ends, anywhere=not plain)))
    return text, spans


def _unlearned(
    render: Any, messages: list[dict[str, Any]], is_learned: list[bool], number: int
) -> set[int]:
    """Which of so many marked spans belong to messages that are not to be learned."""
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
                f"the chat template does not tell which of its marks belong to message {i + 1}, "
                "whose weight is 0; leave the message out, or give it a weight of 1"
            )
        found |= here
    return found


def _whole_turn(text: str, prompt: str, upto: str, ends: list[str], i: int) -> Span:
    """The span of a turn that has no words: all behind its prompt."""
    if not (text.startswith(prompt) and text.startswith(upto) and len(prompt) < len(upto)):
        raise ValueError(
            f"the chat template writes the calls of tools in message {i + 1} so that it is not "
            "known which tokens are to be learned; mark them in the template with "
            "{% generation %} ... {% endgeneration %}"
        )
    begin, end = len(prompt), len(upto.rstrip())
    last = max((text.rfind(token, begin, len(upto)) + len(token) for token in ends
                if token in text[begin : len(upto)]), default=end)  # fmt: skip
    return begin, last


def _written_before(render: Any, messages: list[dict[str, Any]], i: int) -> int:
    """How many characters the template writes between the prompt for message i and its words.

    For a template whose prompt reads otherwise than what it becomes later, such as one that puts
    the system message into the last question.
    """
    asked = {**messages[i - 1], "content": _STAND_IN}
    prompt = render([*messages[: i - 1], asked], prompt=True).partition(_STAND_IN)[2]
    spoken = {**messages[i], "content": _STAND_IN}
    between = render([*messages[: i - 1], asked, spoken, *messages[i + 1 :]]).split(_STAND_IN)[1]
    return len(between) - len(prompt) if between.startswith(prompt) else 0


def writes_an_end(template: TemplateProgram, ends: list[str]) -> bool:
    """Whether a token at which the model stops is learned behind the assistant's words.

    True, too, where the template does not take a question and its answer, so that it cannot be
    known.
    """
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    try:
        text, spans = assistant_spans(template, messages, {}, ends)
    except ValueError:
        return True
    return not spans or any(token in text[begin:end] for begin, end in spans for token in ends)


def end_of_turn(template: TemplateProgram, special_tokens: Iterable[str]) -> str | None:
    """The special token behind the assistant's words, with nothing but space between."""
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _STAND_IN}]
    try:
        behind = template.run(messages, False, {}).partition(_STAND_IN)[2].lstrip()
    except ValueError:
        return None
    found = [token for token in special_tokens if token and behind.startswith(token)]
    return max(found, key=len, default=None)


def _with_end(text: str, end: int, ends: list[str], *, anywhere: bool = False) -> int:
    """The end of a span, moved behind the token that ends the turn.

    `anywhere`: other words of the same turn, such as calls of tools, may stand before that token.
    """
    if not ends or text.endswith(tuple(ends), 0, end):
        return end
    between = r"(?s:.*?)" if anywhere else r"\s*"
    found = re.compile(f"{between}(?:{'|'.join(map(re.escape, ends))})").match(text, end)
    return found.end() if found else end


def _marked(text: str) -> tuple[str, list[Span]]:
    """The text without the marks, and what stood between them."""
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
