"""Chat templates: the same text and ids as `transformers`, and the limits of the sandbox."""

import copy
import datetime
import hashlib
import json
import pickle
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizers.conversations import (
    BEGIN_AND_END,
    CONVERSATIONS,
    MESSAGES,
    SPECIAL_TOKENS,
    TOOL_CONVERSATION,
    TOOLS,
    VARIABLES,
    assistant,
    system,
    user,
)
from tests.tokenizers.template_tokenizers import FOLDER, WORDS, template, tokenizer
from tfllm.tokenizers import BytePairTokenizer
from tfllm.tokenizers.chat.chat_template import ChatTemplate
from tfllm.tokenizers.chat.conversation import BREAK
from tfllm.tokenizers.chat.template_coverage import TemplateCoverage

RECORDED = json.loads((FOLDER / "recorded.json").read_text(encoding="utf-8"))
RECORDED_MESSAGES = json.loads((FOLDER / "messages.json").read_text(encoding="utf-8"))
NAMES = [name for name in BEGIN_AND_END if name in RECORDED]
MORE = {
    "tools": (TOOL_CONVERSATION, {"tools": TOOLS}),
    "no thoughts": (CONVERSATIONS["1 turns"], {"enable_thinking": False}),
}


def chatml(source: str = "{{ messages[0].content }}") -> ChatTemplate:
    return ChatTemplate(source, special_tokens=SPECIAL_TOKENS)


# ---------------------------------------------------------------------- as transformers


@pytest.mark.parametrize(
    ("name", "case"), [(name, case) for name in NAMES for case in RECORDED[name]]
)
def test_text_ids_and_what_is_learned_are_those_of_transformers(name, case):
    expected = copy.deepcopy(RECORDED[name][case])
    messages, more = MORE.get(case) or (CONVERSATIONS[case], {})
    options = {**VARIABLES.get(name, {}), **more}
    of = template(name)
    if "error" in expected:
        with pytest.raises(ValueError, match=r"refuses the conversation: .*roles"):
            of.render(messages, **options)
        return
    assert of.render(messages, **options) == expected["text"]
    assert of.render(messages, add_generation_prompt=True, **options) == expected["prompt"]
    assert of.encode(messages, **options) == expected["ids"]
    if case == "tools":
        # "\n\n" is one token, of which the assistant says the second half: not learned here.
        del expected["learned"][0]
    for either in (of, template(name, marked=True)):
        ids, learned = either.encode_for_training(messages, **options)
        assert ids == expected["ids"]
        assert [i for i, is_learned in enumerate(learned) if is_learned] == expected["learned"]


@pytest.mark.parametrize("key", RECORDED_MESSAGES)
def test_messages_as_data_sets_have_them_are_written_as_by_transformers(key):
    expected = RECORDED_MESSAGES[key]
    name, case = key.split(": ")
    _, messages, has_tools = MESSAGES[case]
    options = {"tools": TOOLS} if has_tools else {}
    of = template(name)
    assert of.render(messages, **options) == expected["text"]
    assert of.encode(messages, **options) == expected["ids"]
    fitted = TemplateCoverage(of).fitted if "reasoning" not in str(messages) else None
    if fitted:
        assert of.encode(fitted(messages, options), **options) == expected["ids"]
    # "\n\n" is one token, of which the assistant says the second half in Qwen's calls.
    wanted = expected["learned"][name == "qwen2_5" and "a call" in case :]
    for marked in (False, True):
        ids, learned = template(name, marked).encode_for_training(messages, **options)
        assert ids == expected["ids"]
        assert [i for i, is_learned in enumerate(learned) if is_learned] == wanted


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize(
    "name", ["chatml", "qwen2_5", "qwen3", "llama3", "mistral", "parts", "calls"]
)
def test_of_a_message_of_weight_0_nothing_is_learned(name, marked):
    """The recorded mask without its first run, or without its second."""
    expected = RECORDED_MESSAGES[f"{name}: weights"]
    learned = expected["learned"]
    cut = next(n for n in range(1, len(learned)) if learned[n] != learned[n - 1] + 1)
    _, messages, _ = MESSAGES["weights"]
    for place, wanted in ((1, learned[cut:]), (3, learned[:cut])):
        given = copy.deepcopy(messages)
        given[place]["weight"] = 0
        ids, found = template(name, marked).encode_for_training(given)
        assert ids == expected["ids"]
        assert [i for i, is_learned in enumerate(found) if is_learned] == wanted


def test_what_is_recorded_tells_answers_from_questions():
    """Of the reference itself: that it is neither all nor nothing."""
    for name in NAMES:
        for case, entry in RECORDED[name].items():
            if "ids" in entry and any(
                m["role"] == "assistant" for m in CONVERSATIONS.get(case, ())
            ):
                assert 0 < len(entry["learned"]) < len(entry["ids"])


@pytest.mark.slow
def test_smollm2s_own_template_gives_the_text_of_transformers(smollm2_file):
    from tfllm.pretrained.gguf.header import read_header

    source = read_header(smollm2_file).metadata["tokenizer.chat_template"]
    assert hashlib.sha256(source.encode()).hexdigest() == RECORDED["SmolLM2"]["sha256"]
    of = ChatTemplate(source, special_tokens=["<|im_start|>", "<|im_end|>"])
    for case, (text, prompt) in RECORDED["SmolLM2"]["texts"].items():
        assert of.render(CONVERSATIONS[case]) == text
        assert of.render(CONVERSATIONS[case], add_generation_prompt=True) == prompt
    assert of.end_of_turn == "<|im_end|>"


# ---------------------------------------------------------------------- special tokens as words


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(words=WORDS, more=WORDS, answer=WORDS)
def test_words_that_look_like_special_tokens_stay_words(name, words, more, answer):
    of, special = template(name), set(tokenizer(name).special_tokens.values())
    messages = [system(more), user(words), assistant(answer), user(f"{more}{words}")]
    plain = [{**message, "content": "a"} for message in messages]
    ids = of.encode(messages, **VARIABLES.get(name, {}))
    expected = [i for i in of.encode(plain, **VARIABLES.get(name, {})) if i in special]
    assert [i for i in ids if i in special] == expected
    text = of.prompt(messages, add_generation_prompt=False, **VARIABLES.get(name, {}))
    assert tokenizer(name).decode(ids, skip_special=False) == text.replace(BREAK, "")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.text(max_size=40), st.text(max_size=10))
def test_words_without_special_tokens_are_encoded_with_the_whole_text(words, answer):
    messages = [user(words), assistant(answer)]
    of = template("qwen2_5")
    text = of.render(messages)
    if not any(token in words + answer for token in SPECIAL_TOKENS) and not any(
        "\ufdd0" <= character <= "\ufdd3" for character in words + answer
    ):
        assert of.encode(messages) == tokenizer("qwen2_5").encode(text, add_special=False)
        assert of.prompt(messages, add_generation_prompt=False).replace(BREAK, "") == text


def test_a_special_token_is_broken_wherever_a_conversation_holds_text():
    of = template("qwen2_5")
    bad = "<|im_end|>"
    call = {"type": "function", "function": {"name": bad, "arguments": {bad: [bad]}}}
    messages = [user("a"), {"role": "assistant", "content": bad, "tool_calls": [call]}]
    text = of.prompt(messages, tools=[{"name": bad}])
    assert text.count(bad) == 3  # of the system, the user and the assistant
    assert text.count("<\ufdd0|im_end|>") == 5


def test_the_same_ids_come_of_words_with_other_tokens_around():
    """`encode_unbroken` against the plain encoding of each stretch between special tokens."""
    of = template("llama3")
    messages = [user("one <|eot_id|> two"), assistant("<|eot_id|>")]
    plain = tokenizer("llama3").encode
    token = tokenizer("llama3").token_id
    header = [token("<|start_header_id|>")], [token("<|end_header_id|>")]

    def turn(role, content):
        return [
            *header[0],
            *plain(role),
            *header[1],
            *plain(f"\n\n{content}", parse_special=False),
            token("<|eot_id|>"),
        ]

    assert of.encode(messages) == [
        token("<|begin_of_text|>"),
        *turn("user", "one <|eot_id|> two"),
        *turn("assistant", "<|eot_id|>"),
    ]


# ---------------------------------------------------------------------- what is learned


def learned_text(name, messages, **options):
    ids, learned = template(name, options.pop("marked", False)).encode_for_training(messages)
    pieces, last = [], False
    for id_, is_learned in zip(ids, learned, strict=True):
        if is_learned:
            pieces += [[]] if not last else []
            pieces[-1].append(id_)
        last = is_learned
    return [tokenizer(name).decode(piece, skip_special=False) for piece in pieces]


@pytest.mark.parametrize("marked", [False, True])
def test_the_assistants_words_and_the_end_of_its_turn_are_learned(marked):
    messages = [system("s"), user("a"), assistant("b"), user("c"), assistant("d e")]
    for name, expected in {
        "chatml": ["b<|im_end|>", "d e<|im_end|>"],
        "qwen3": ["b<|im_end|>", "<think>\n\n</think>\n\nd e<|im_end|>"],
        "llama2": [" b </s>", " d e </s>"],
        "llama3": ["b<|eot_id|>", "d e<|eot_id|>"],
        "mistral": [" b</s>", " d e</s>"],
    }.items():
        assert learned_text(name, messages, marked=marked) == expected


def test_a_special_token_in_the_assistants_words_does_not_end_its_turn():
    messages = [user("a"), assistant("b <|im_end|> c"), user("assistant\n"), assistant("d")]
    expected = ["b <|im_end|> c<|im_end|>", "d<|im_end|>"]
    assert learned_text("chatml", messages) == expected


def test_a_template_that_marks_words_without_the_end_of_the_turn_learns_it_all_the_same():
    of = tokenizer("chatml", marked=True)
    source = of.settings["chat_template"].replace(
        "message.content + '<|im_end|>' -}}{%- endgeneration -%}",
        "message.content -}}{%- endgeneration -%}{{- '<|im_end|>' -}}",
    )
    assert source != of.settings["chat_template"]
    made = ChatTemplate(
        source, special_tokens=of.special_tokens, variables={}, tokenizer=of
    ).encode_for_training(CONVERSATIONS["4 turns"])
    assert made == template("chatml").encode_for_training(CONVERSATIONS["4 turns"])


def test_a_call_of_a_tool_is_learned_with_the_end_of_its_turn():
    (call, answer) = learned_text("qwen2_5", TOOL_CONVERSATION)
    assert call.startswith("<tool_call>") and call.endswith("</tool_call><|im_end|>")
    assert answer == "It is.<|im_end|>"


def test_a_prompt_that_says_more_than_the_conversation_later_has():
    """As DeepSeek R1: the prompt begins the thoughts, which are dropped from what was said."""
    of = tokenizer("chatml")
    source = (
        "{%- for m in messages -%}{%- if m.role == 'user' -%}{{- '<|im_start|>' + m.content -}}"
        "{%- else -%}{{- '[INST]' + m.content.split('</think>')[-1] + '<|im_end|>' -}}"
        "{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}[INST]<think>{%- endif -%}"
    )
    made = ChatTemplate(source, special_tokens=of.special_tokens, tokenizer=of)
    ids, learned = made.encode_for_training([user("a"), assistant("<think>hm</think>yes")])
    assert of.decode([i for i, x in zip(ids, learned, strict=True) if x]) == "yes"
    assert learned[-1]


def test_rewriting_that_hides_where_words_are_is_refused():
    of = tokenizer("chatml")
    for source in (
        # Twice; and reversed as a whole.
        "{% for m in messages %}{{ m.content + m.content }}<|im_end|>{% endfor %}",
        "{% set ns = namespace(t='') %}{% for m in messages %}"
        "{% set ns.t = m.content ~ (m.content|length if loop.last) ~ ns.t %}{% endfor %}{{ ns.t }}",
    ):
        made = ChatTemplate(source, special_tokens=of.special_tokens, tokenizer=of)
        with pytest.raises(ValueError, match=r"rewrites what the assistant says in message 2"):
            made.encode_for_training([user("ab"), assistant("cde")])


def test_a_turn_that_the_template_leaves_out_has_nothing_to_learn():
    of = tokenizer("chatml")
    source = "{% for m in messages if m.role == 'user' %}{{ m.content }}<|im_end|>{% endfor %}"
    made = ChatTemplate(source, special_tokens=of.special_tokens, tokenizer=of)
    assert not any(made.encode_for_training([user("a"), assistant("b")])[1])


# ---------------------------------------------------------------------- bad conversations


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "at least one message"),
        ("hello", "must be a list of messages.*'hello'"),
        ({"role": "user"}, "must be a list of messages"),
        (["hello"], "message 1 .* must be a dictionary"),
        ([user("a"), {"content": "b"}], "message 2 .* has no role; its keys are \\['content'\\]"),
        ([{"role": "user"}], "message 1 .* has no content"),
        ([user("a"), {"role": "assistant", "content": None}], "message 2 .* has no content"),
        ([{"role": "usr", "content": "a"}], "message 1 .* one of the roles system, .*'usr'"),
        ([{"role": ["user"], "content": "a"}], "message 1 .* one of the roles"),
        ([{"role": "user", "content": 5}], "message 1 .* must have a text .* received 5"),
        ([assistant("a"), user("b")], "the user must speak first.*message 1.*'assistant'"),
        ([system("a"), assistant("b")], "the user must speak first.*message 2.*'assistant'"),
        ([{"role": "tool", "content": "a"}], "the user must speak first.*'tool'"),
        ([{"role": "user", "content": "a", "x": object()}], "message 1 .*must hold text"),
    ],
)
def test_a_bad_conversation_is_refused_with_what_and_where(messages, words):
    for call in ("render", "prompt", "encode", "encode_for_training"):
        with pytest.raises(ValueError, match=words):
            getattr(template("chatml"), call)(messages)


def test_a_tokenizer_without_a_template_is_refused():
    made = BytePairTokenizer((FOLDER / "tokenizer.json").read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match="has no chat template"):
        ChatTemplate.of(made)
    made.settings["chat_template"] = [{"name": "rag", "template": "{{ messages }}"}]
    with pytest.raises(ValueError, match="one must be named default; received 'rag'"):
        ChatTemplate.of(made)
    made.settings["chat_template"].append({"name": "default", "template": "x"})
    assert ChatTemplate.of(made).render([user("a")]) == "x"


# ---------------------------------------------------------------------- hostile templates

EXPENSIVE = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% endfor %}{% endfor %}",
    "a loop with work": "{% for a in range(99999) %}{% for b in range(99999) %}{{ b ~ a }}"
    "{% endfor %}{% endfor %}",
    "a large range": "{% for a in range(10**9) %}{% endfor %}",
    "a long string": "{{ 'a' * 10**9 }}",
    "a long list": "{{ ([1] * 10**9) | length }}",
    "a large number": "{{ 7 ** 99999999 }}",
    "squares": "{% set n = namespace(x=7) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}"
    "{% endfor %}",
    "doubling": "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}"
    "{% endfor %}",
    "replacing": "{% set n = namespace(x='aa') %}{% for i in range(60) %}"
    "{% set n.x = n.x.replace('a', n.x) %}{% endfor %}",
    "replacing by a filter": "{% set n = namespace(x='aa') %}{% for i in range(60) %}"
    "{% set n.x = n.x | replace('a', n.x) %}{% endfor %}",
    "lists of itself": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}"
    "{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "dictionaries of itself": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}"
    "{% set n.x = dict(a=n.x, b=n.x) %}{% endfor %}{{ n.x | tojson }}",
    "a namespace in itself": "{% set n = namespace() %}{% set n.a = n %}{{ n }}",
    "a macro without end": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "macros that branch": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}"
    "{% endmacro %}{{ f(60) }}",
    "a block in itself": "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
    "a recursive loop": "{% for x in range(9) recursive %}{{ loop(range(9)) }}{% endfor %}",
    "a wide field": "{{ 'a'.ljust(10**9) }}",
    "a wide format": "{{ '%1000000000d' % 1 }}",
    "a computed width": "{{ '%*d' | format(1000000000, 1) }}",
    "a wide str.format": "{{ '{:1000000000}'.format(1) }}",
    "a computed str.format": "{{ '{:{w}}'.format(1, w=10**9) }}",
    "a deep indent": "{{ ('a\n' * 9999) | indent(10**6) }}",
    "a deep tojson": "{{ messages | tojson(indent=10**8) }}",
    "joined": "{{ ('a' * 9999).join(['b'] * 9999) }}",
    "joined by a filter": "{{ range(99999) | map('string') | join('a' * 9999) }}",
    "many places": "{{ 1.5 | round(10**9, 'ceil') }}",
    "a wide date": "{{ strftime_now('%1000000000d') }}",
    "much text": "{% for a in range(99999) %}" + "text " * 1000 + "{% endfor %}",
    "a search repeated": "{% set x = 'a' * 900000 %}{% for i in range(99999) %}"
    "{% if 'b' in x %}{% endif %}{% endfor %}",
}


@pytest.mark.parametrize("name", EXPENSIVE)
def test_a_template_without_end_or_measure_ends_soon_with_an_error(name):
    source = EXPENSIVE[name]
    begin = time.thread_time()
    if name == "a search repeated":  # 99,999 searches of 900,000 characters: time alone stops it
        source = source.replace("'b' in x", "'b' in x or 'c' in x or 'd' in x or 'e' in x")
    with pytest.raises(ValueError, match="the chat template failed: "):
        ChatTemplate(source).render([user("a")])
    assert time.thread_time() - begin < 3


FORBIDDEN = [
    "{{ ''.__class__.__mro__ }}",
    "{{ ''['__class__'] }}",
    "{{ '' | attr('__class__') }}",
    "{{ messages | map(attribute='__class__') | list }}",
    "{{ '{0.__class__}'.format(messages) }}",
    "{{ self.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__self__ }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ namespace(__class__=1) }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(a=1) }}",
    "{{ (1).to_bytes(99999999) }}",
    "{{ 'a'.encode() }}",
    "{% include 'file' %}",
    "{% import 'file' as x %}",
    "{% extends 'file' %}",
]


@pytest.mark.parametrize("source", FORBIDDEN)
def test_what_a_template_may_not_reach_is_an_error(source):
    with pytest.raises(ValueError, match="the chat template failed: "):
        ChatTemplate(source).render([user("a")])


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("a\n{% if %}", "is broken, line 2"),
        ("{% for x in y %}", "is broken"),
        ("{{ 1 | lipsum }}", "No filter named 'lipsum'"),
        ("{{" + "(" * 9999 + "1" + ")" * 9999 + "}}", "cannot be compiled"),
        ("a" * (2 << 20), "at most 1,048,576 characters; received 2,097,152"),
    ],
)
def test_what_is_no_template_is_refused_at_once(source, words):
    with pytest.raises(ValueError, match=words):
        ChatTemplate(source)


def test_what_goes_wrong_in_a_template_is_told():
    with pytest.raises(ValueError, match="refuses the conversation: no, never"):
        chatml("{{ raise_exception('no, never') }}").render([user("a")])
    with pytest.raises(ValueError, match="failed: 'tone' is undefined"):
        chatml("{{ tone.x }}").render([user("a")])
    assert chatml("{{ tone }}!").render([user("a")]) == "!"


def test_a_long_conversation_is_within_the_bounds():
    turns = [(user, assistant)[i % 2]("word " * 2000) for i in range(2001)]
    for name in ("qwen3", "mistral"):
        text = template(name).render(turns)
        assert text.count("word") == 2000 * 2001


# ---------------------------------------------------------------------- surroundings


def test_templates_know_the_date(monkeypatch):
    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 5, 6)

    monkeypatch.setattr(datetime, "datetime", Clock)
    assert "Today Date: 06 May 2031\n" in template("llama3_2").render([user("a")])


def test_a_template_can_be_sent_to_a_client_and_to_another_process():
    of = template("llama2")
    client = ChatTemplate.from_json(of.to_json())
    messages = [system("s"), user("a </s> b")]
    assert client.prompt(messages) == of.prompt(messages)
    with pytest.raises(ValueError, match="has no tokenizer"):
        client.encode(messages)
    assert pickle.loads(pickle.dumps(of)).encode(messages) == of.encode(messages)
    for bad in ("[]", "{}", "no", '{"chat_template": 1, "special_tokens": [], "variables": {}}'):
        with pytest.raises(ValueError, match="chat template"):
            ChatTemplate.from_json(bad)


def test_a_tokenizers_folder_keeps_the_template(tmp_path):
    tokenizer("llama2").save(tmp_path)
    loaded = BytePairTokenizer.load(tmp_path)
    messages = CONVERSATIONS["3 turns, system"]
    assert ChatTemplate.of(loaded).encode(messages) == template("llama2").encode(messages)
