"""Content that a chat template would silently drop is refused by name."""

import json

import pytest

from tests.tokenizers.conversations import TOOL_CONVERSATION, TOOLS, assistant, system, user
from tests.tokenizers.template_tokenizers import template, tokenizer
from tfllm.tokenizers.chat.chat_template import ChatTemplate
from tfllm.tokenizers.chat.template_coverage import TemplateCoverage

QA = [user("one"), assistant("two")]


def fitted(name, messages, **variables):
    of = template(name) if "{" not in name else made(name)
    return of.render(TemplateCoverage(of).fitted(messages, variables), **variables)


def made(source):
    of = tokenizer("chatml")
    return ChatTemplate(source, special_tokens=of.special_tokens, tokenizer=of)


def call(arguments, nested=True):
    function = {"name": "weather", "arguments": arguments}
    found = {"type": "function", "function": function} if nested else function
    return [user("one"), {"role": "assistant", "content": None, "tool_calls": [found]}]


@pytest.mark.parametrize(
    ("name", "messages", "variables", "message"),
    [
        ("chatml", QA, {"tools": TOOLS}, "does not write 'tools'; .*--ignore-keys tools"),
        ("qwen2_5", QA, {"documents": [{"text": "x"}]}, "does not write 'documents'"),
        ("qwen2_5", QA, {"enable_thinking": False}, "'enable_thinking'.*chat_template_kwargs"),
        ("{{ tools is none }}", QA, {"tools": TOOLS}, "does not write 'weather' of tools"),
        ("chatml", TOOL_CONVERSATION, {}, "tool_calls of message 2 .*template failed"),
        ("llama2", TOOL_CONVERSATION[:2], {}, "tool_calls of message 2"),
        ("qwen2_5", [user("one"), {"role": "assistant", "tool_calls": [{"id": "1"}]}], {},
         "a call must have a name; its keys are 'id'"),
        ("qwen2_5", [{"role": "developer", "content": "x"}, *QA], {}, "message 1, with role 'deve"),
        ("chatml", [user("one"), assistant("two", reasoning_content="hm")], {}, "the reasoning"),
        (  # it knows the word, but not of messages
            "{{ 'y' if thinking else 'n' }}{% for m in messages %}{{ m.content }}{% endfor %}",
            [user("one"), assistant("two", thinking="hm")],
            {},
            "the reasoning",
        ),
    ],
)  # fmt: skip
def test_what_a_template_leaves_out_is_refused_by_name(name, messages, variables, message):
    with pytest.raises(ValueError, match=message):
        fitted(name, messages, **variables)


def test_arguments_of_a_call_are_given_as_the_template_takes_them():
    arguments = {"town": "Zürich", "days": [1, 2]}
    text = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
    spaced = json.dumps(arguments, ensure_ascii=False)
    # It writes JSON of what it gets: of text that would be JSON inside JSON.
    assert "\\" in template("qwen2_5").render(call(text))
    for given in (call(arguments), call(text), call(arguments, nested=False)):
        assert f'"arguments": {spaced}}}' in fitted("qwen2_5", given)
    # It takes either, and leaves text as it is; calls without `function` it does not know.
    assert f'"parameters": {text}}}' in fitted("calls", call(text))
    assert f'"parameters": {spaced}}}' in fitted("calls", call(arguments))
    assert f'"parameters": {spaced}}}' in fitted("calls", call(arguments, nested=False))
    # It joins texts, so it takes text alone.
    joins = (
        "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.name + ': ' + "
        "c.function.arguments }}{% else %}{{ m.content }}{% endfor %}{% endfor %}"
    )
    assert fitted(joins, call(arguments)) == f"oneweather: {spaced}"
    # It prints what it gets: of an object that would be Python.
    prints = joins.replace(" + c.function", " }}{{ c.function")
    prints = prints.replace("+ ': ' +", "}}: {{")
    assert fitted(prints, call(arguments)) == f"oneweather: {spaced}"


def test_what_is_written_passes_unchanged():
    for messages, variables in (
        (QA, {}),
        ([system("s"), *QA], {}),
        (TOOL_CONVERSATION, {"tools": TOOLS}),
    ):
        expected = template("qwen2_5").render(messages, **variables)
        assert fitted("qwen2_5", messages, **variables) == expected
    thoughts = [*QA, user("three"), assistant("four", reasoning="hm")]
    assert fitted("qwen3", thoughts).count("hm") == 1
    # Thoughts of earlier turns are left out on purpose.
    assert "hm" not in fitted("qwen3", [*thoughts, user("five"), assistant("six")])


def test_a_template_without_an_end_is_known():
    ends = "{% for m in messages %}{{ m.content }}<|im_end|>\n{% endfor %}"
    assert made(ends).writes_an_end and template("llama3").writes_an_end
    assert not made(ends.replace("<|im_end|>", "###")).writes_an_end
    # Words between the answer and its end: the end would not be learned.
    assert not made(ends.replace("<|im_end|>", "###<|im_end|>")).writes_an_end
    marked = "{% for m in messages %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    assert made(f"{marked}{{% endfor %}}").writes_an_end
    assert made("{{ raise_exception('no') }}").writes_an_end  # it cannot be known
