"""Conversations of many kinds, and the special tokens of each template's models."""

from typing import Any

SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]
OTHER_ADDED_TOKENS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]

BEGIN_AND_END = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "qwen2_5": (None, "<|im_end|>"),
    "qwen3": (None, "<|im_end|>"),
    "llama2": ("<s>", "</s>"),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>"),
    "llama3_2": ("<|begin_of_text|>", "<|eot_id|>"),
    "mistral": ("<s>", "</s>"),
    "parts": (None, "<|im_end|>"),
    "calls": ("<|begin_of_text|>", "<|eot_id|>"),
}
"""template: bos_token, eos_token"""
VARIABLES: dict[str, dict[str, Any]] = {"llama3_2": {"date_string": "24 Dec 2031"}}

WORDS = [
    "What is the cat doing?",
    "It sits on the mat.",
    "  And the hat?\n ",
    "The hat sat, too: naïve, 你好, 🎉.",
    "\n\nWhy\tis that\u00a0so?",
    "Because 1 + 1 = 2.\n\n```python\nprint('it's')\n```",
]


def system(content: str) -> dict[str, Any]:
    return {"role": "system", "content": content}


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def _turns(number: int) -> list[dict[str, Any]]:
    return [(user, assistant)[i % 2](WORDS[i]) for i in range(number)]


CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    **{f"{n} turns": _turns(n) for n in range(1, 7)},
    **{f"{n} turns, system": [system("Be kind."), *_turns(n)] for n in range(1, 7)},
    "spaces": [system(" \n Be kind.  "), user("   "), assistant("\u3000yes \x1c"), user("\x85ok")],
    "empty words": [system(""), user(""), assistant(""), user("")],
    "thoughts": [
        user("one"),
        assistant("<think>\nhm\n</think>\n\nfirst"),
        user("two"),
        assistant("<think>\nhm, hm\n</think>\n\nsecond"),
    ],
    "thoughts beside": [
        user("one"),
        assistant("first", reasoning_content="hm"),
        user("two"),
        assistant("second", reasoning_content="hm, hm"),
    ],
    "two questions": [user("one"), user("two"), assistant("three")],
    "two systems": [system("Be kind."), user("one"), system("Be brief."), user("two")],
    "braces": [user("{{ 1 }} {% if %} {# #} \\ ' \""), assistant("{{ messages }}")],
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "What it's like outside, in °C",
            "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
        },
    }
]
TOOL_CONVERSATION = [
    user("Is it warm in Zürich?"),
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"type": "function", "function": {"name": "weather", "arguments": {"town": "Zürich"}}}
        ],
    },
    {"role": "tool", "content": "21 °C"},
    assistant("It is."),
]


def _call(arguments: Any, **more: Any) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": "weather", "arguments": arguments}}
    return {"role": "assistant", "tool_calls": [call], **more}


_EVERY = ("chatml", "qwen2_5", "qwen3", "llama3", "mistral", "parts", "calls")
_NOTHING = {"name": None, "tool_calls": None, "reasoning_content": None, "refusal": None}
MESSAGES: dict[str, tuple[tuple[str, ...], list[dict[str, Any]], bool]] = {
    "keys that are null": (
        _EVERY,
        [
            {**user("one"), **_NOTHING},
            {**assistant("two"), **_NOTHING},
            {**user("three"), **_NOTHING},
            {**assistant("four"), **_NOTHING},
        ],
        False,
    ),
    "weights": (_EVERY, [*_turns(3), assistant("short", weight=1)], False),
    "parts of text": (
        ("parts",),
        [
            {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "user", "content": [{"type": "text", "text": t} for t in ("one ", "two")]},
            {"role": "assistant", "content": [{"type": "text", "text": "three"}]},
        ],
        False,
    ),
    "thoughts under other names": (
        ("chatml", "qwen3", "parts"),
        [
            user("one"),
            assistant("first", reasoning="hm"),
            user("two"),
            assistant("b", thinking="a"),
        ],
        False,
    ),
    "thoughts under the names that templates read": (
        ("qwen3", "parts"),
        [user("one"), assistant("first", reasoning_content="hm")],
        False,
    ),
    "names": (("parts",), [{**user("one"), "name": "ann"}, assistant("two")], False),
    "no content, a call": (("qwen2_5", "calls"), TOOL_CONVERSATION, True),
    "a content that is missing, a call": (
        ("qwen2_5", "calls"),
        [user("one"), _call({"town": "Zürich"}), {"role": "tool", "content": "21 °C"}],
        True,
    ),
    "an empty content, a call": (
        ("qwen2_5", "calls"),
        [user("one"), _call({"town": "Zürich"}, content=""), {"role": "tool", "content": "21"}],
        False,
    ),
    "arguments as JSON": (("calls",), [user("one"), _call('{"town":"Zürich"}')], True),
}
"""by what is special: templates that know it, messages, and whether there are tools"""


def without_generation_tags(template: str) -> str:
    """The template as models mostly have it: nothing tells which words are the assistant's."""
    for tag in ("{%- generation %}", "{%- generation -%}"):
        template = template.replace(tag, "")
    for tag in ("{%- endgeneration %}", "{%- endgeneration -%}"):
        template = template.replace(tag, "")
    return template
