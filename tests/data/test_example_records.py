import json
import re
from pathlib import Path

import pytest

from tests.data.chat_examples import assistant, system, user
from tfllm.config import ConfigError
from tfllm.data.reading.example_records import ExampleReader
from tfllm.data.reading.json_records import BadRecord, JsonRecord
from tfllm.data.reading.preference_records import PreferenceReader
from tfllm.data.reading.record_keys import MESSAGE_REASONING, MESSAGE_WEIGHTS, REFUSED, SUPPORTED
from tfllm.data.reading.record_kinds import kind_of_record

QA = [user("q"), assistant("a")]


def example(value, **options):
    return ExampleReader(**options)(JsonRecord("f.jsonl, line 3", value))


def preference(value):
    return PreferenceReader()(JsonRecord("f.jsonl, line 3", value))


@pytest.mark.parametrize(
    ("record", "messages", "plain"),
    [
        ({"messages": QA}, QA, False),
        ({"messages": [system("s"), *QA, *QA]}, [system("s"), *QA, *QA], False),
        ({"messages": QA, "system": "s"}, [system("s"), *QA], False),
        ({"messages": [system("s"), *QA], "system": "s"}, [system("s"), *QA], False),
        ({"prompt": "q", "response": "a", "id": 7}, QA, True),
        ({"prompt": "q", "completion": "a"}, QA, True),
        ({"prompt": "q", "response": "a", "system": "s"}, [system("s"), *QA], True),
        ({"prompt": "q", "response": "a", "system": ""}, QA, True),
        ({"instruction": "q", "output": "a"}, QA, True),
        ({"instruction": "q", "input": "", "output": "a"}, QA, True),
        ({"instruction": "q", "input": None, "output": "a"}, QA, True),
        ({"instruction": "q", "input": "x", "output": "a"}, [user("q\n\nx"), assistant("a")], True),
        (
            {
                "conversations": [
                    {"from": "system", "value": "s"},
                    {"from": "human", "value": "q"},
                    {"from": "gpt", "value": "a"},
                ]
            },
            [system("s"), *QA],
            False,
        ),
        ({"prompt": "", "response": ""}, [user(""), assistant("")], True),
    ],
)
def test_records_of_every_shape_become_conversations(record, messages, plain):
    made = example(record)
    assert made.conversations == (messages,) and made.plain == plain and made.text is None
    assert made.where == "f.jsonl, line 3" and made.num_prompt == 0
    assert kind_of_record(record, "text") == "examples"


def test_a_text_is_an_example_too():
    assert example({"text": "words"}).text == "words"
    assert example({"body": "words"}, text_field="body").text == "words"
    assert kind_of_record({"text": "words"}, "text") == "text"
    assert kind_of_record({"prompt": "words", "response": "x"}, "prompt") == "text"
    assert kind_of_record({"prompt": "words"}, "text") is None
    assert kind_of_record(["text"], "text") is None


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([QA], "must be a JSON object; received a list"),
        ({"question": "q"}, "must have the keys messages, or prompt and .*keys are: 'question'"),
        ({"prompt": "q"}, "must have the keys"),
        ({"prompt": 5, "response": "a"}, "'prompt' must be a string; received a number"),
        ({"prompt": "q", "response": None}, "'response' must be a string; received null"),
        ({"instruction": "q", "input": [1], "output": "a"}, "'input' must be a string"),
        ({"prompt": "q", "response": "\ud83d"}, "character 0 of 'response' is half of a"),
        ({"messages": []}, "'messages' must be a list of messages.*received an empty list"),
        ({"messages": "hello"}, "'messages' must be a list, possibly as JSON; received a string"),
        ({"messages": "['q']"}, "'messages' must be .*it looks like a Python list"),
        ({"messages": 5}, "'messages' must be a list of messages.*received a number"),
        ({"messages": ["hello"]}, "message 1 of 'messages' must be an object.*received a string"),
        ({"messages": [user("q"), {"content": "a"}]}, "message 2 of 'messages' has no role"),
        ({"messages": [{"role": "user"}]}, "message 1 of 'messages' has no content"),
        ({"conversations": [{"from": 1, "value": "q"}]}, "role of message 1 of 'conv.*a number"),
        ({"messages": [user(None)]}, "content of message 1 of 'messages'.* must be a string"),
        (
            {"messages": [user(["part"])]},
            "content of message 1 of .*a list of parts.*part 1",
        ),
        ({"messages": [assistant("a")]}, "must not start with the assistant"),
        ({"messages": [system("s"), assistant("a"), *QA]}, "must not start with the assistant"),
        ({"messages": QA, "system": 5}, "'system' must be a string; received a number"),
    ],
)
def test_a_record_that_is_no_example_is_named_with_its_place(record, message):
    with pytest.raises(BadRecord, match=r"^f\.jsonl, line 3.*" + message):
        example(record)


@pytest.mark.parametrize(
    ("record", "shared", "plain"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, 1, True),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "system": "s"}, 2, True),
        ({"prompt": "q", "chosen": [assistant("a")], "rejected": assistant("b")}, 1, False),
        ({"prompt": [user("q")], "chosen": "a", "rejected": "b"}, 1, False),
        ({"prompt": [system("s"), user("q")], "chosen": "a", "rejected": "b"}, 2, False),
        (
            {
                "prompt": "q",
                "chosen": [user("q"), assistant("a")],
                "rejected": [user("q"), assistant("b")],
            },
            1,
            False,
        ),
        ({"chosen": [*QA[:1], assistant("a")], "rejected": [*QA[:1], assistant("b")]}, 1, False),
        ({"prompt": [*QA, user("q")], "chosen": "a", "rejected": "b"}, 3, False),
        (
            {
                "conversations": [{"from": "human", "value": "q"}],
                "chosen": {"from": "gpt", "value": "a"},
                "rejected": {"from": "gpt", "value": "b"},
            },
            1,
            False,
        ),
    ],
)
def test_preferences_of_every_shape_become_two_conversations(record, shared, plain):
    made = preference(record)
    chosen, rejected = made.conversations
    assert made.num_prompt == shared and made.plain == plain
    assert chosen[:shared] == rejected[:shared]
    assert chosen[shared - 1] == user("q")
    assert (chosen[shared:], rejected[shared:]) == ([assistant("a")], [assistant("b")])
    assert (chosen[0] == system("s")) == ("'s'" in str(record))
    assert kind_of_record(record, "text") == "preference"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "q", "chosen": "a"}, "has no key 'rejected'; a preference has prompt"),
        ({"prompt": "q", "chosen": 1, "rejected": "b"}, "'chosen' must be a list of messages"),
        ({"prompt": 1, "chosen": "a", "rejected": "b"}, "value of 'prompt' must be a string"),
        ({"chosen": "a", "rejected": "b"}, "has no prompt"),
        ({"prompt": "q", "chosen": [user("a")], "rejected": "b"}, "assistant's words; received us"),
        ({"prompt": [assistant("q")], "chosen": "a", "rejected": "b"}, "must not start with"),
        (
            {"chosen": QA, "rejected": QA[:1]},
            "after the prompt, rejected must begin and end with .*received nothing",
        ),
    ],
)
def test_a_record_that_is_no_preference_is_named_with_its_place(record, message):
    with pytest.raises(BadRecord, match=r"^f\.jsonl, line 3.*" + message):
        preference(record)


def test_the_same_example_has_the_same_key_however_its_keys_stand():
    turned = [dict(reversed(message.items())) for message in QA]
    assert example({"messages": QA}).key() == example({"messages": turned}).key()
    assert example({"messages": QA}).key() != example({"messages": [*QA, *QA]}).key()
    assert example({"text": "q"}).key() != example({"messages": [user("q")]}).key()


# ------------------------------------------------------------------ keys with a meaning

TOOLS = [{"type": "function", "function": {"name": "weather"}}]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"town": "Zürich"}}}
HISTORY = [["h", "i"], ["j", "k"]]
TURNS = [user("h"), assistant("i"), user("j"), assistant("k")]


@pytest.mark.parametrize(
    ("record", "messages", "variables"),
    [
        # Dolly, LLaMA-Factory, OpenOrca, GSM8K, MetaMathQA
        ({"instruction": "q", "context": "c", "response": "a"}, [user("q\n\nc"), QA[1]], {}),
        ({"instruction": "q", "context": "", "response": "a"}, QA, {}),
        ({"instruction": "q", "input": "i", "context": "c", "output": "a"},
         [user("q\n\ni\n\nc"), QA[1]], {}),
        ({"instruction": "q", "output": "a", "history": HISTORY}, [*TURNS, *QA], {}),
        ({"instruction": "q", "output": "a", "history": json.dumps(HISTORY)}, [*TURNS, *QA], {}),
        ({"instruction": "q", "output": "a", "history": TURNS}, [*TURNS, *QA], {}),
        ({"query": "q", "response": "a", "history": [], "kto_tag": True}, QA, {}),
        ({"system_prompt": "s", "question": "q", "response": "a"}, [system("s"), *QA], {}),
        ({"question": "q", "answer": "a"}, QA, {}),
        ({"Question": "q", " Answer ": "a"}, QA, {}),
        ({"input": "q", "output": "a"}, QA, {}),
        ({"question": "q", "answer": "a", "response": None, "prompt": ""}, QA, {}),
        ({"question": "q", "reasoning": "hm", "answer": "a"},
         [user("q"), assistant("a", reasoning_content="hm")], {}),
        ({"prompt": "q", "completion": "a", "label": True, "weight": 1}, QA, {}),
        ({"messages": None, "prompt": "q", "response": "a"}, QA, {}),
        # TRL's prompt and completion of messages: what the prompt's assistant says is not learned
        ({"prompt": QA[:1], "completion": QA[1:]}, QA, {}),
        ({"prompt": QA[:1], "completion": "a"}, QA, {}),
        ({"prompt": "q", "completion": assistant("a")}, QA, {}),
        ({"prompt": [*QA, user("r")], "completion": [assistant("b")]},
         [user("q"), assistant("a", weight=0), user("r"), assistant("b")], {}),
        # HH-RLHF's prompts
        ({"prompt": "\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant:", "response": " b\n"},
         [user("q"), assistant("a", weight=0), user("r"), assistant("b")], {}),
        # ShareGPT's roles, Glaive's, and OpenAI's
        ({"conversations": [{"from": "human", "value": "q"},
                            {"from": "function_call", "value": json.dumps(CALL["function"])},
                            {"from": "observation", "value": "5"}, {"from": "gpt", "value": "a"}],
          "tools": json.dumps(TOOLS)},
         [user("q"), {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "5"},
          QA[1]], {"tools": TOOLS}),
        *[({"conversation": [{"from": who, "value": "q"}, {"from": other, "value": "a"}]}, QA, {})
          for who, other in (("user", "assistant"), ("Human", "chatgpt"), ("human", "bing"),
                             ("human", "model"), ("prompter", "bard"))],
        ({"messages": [user("q"), {"role": "function-response", "content": "5"}, QA[1]]},
         [user("q"), {"role": "tool", "content": "5"}, QA[1]], {}),
        ({"messages": [user("q"), {"role": "assistant", "content": None, "tool_calls": [CALL]}]},
         [user("q"), {"role": "assistant", "tool_calls": [CALL]}], {}),
        ({"messages": [{**user("q"), "name": None}, {**QA[1], "tool_calls": None, "audio": None,
                                                     "refusal": None, "annotations": []}]}, QA, {}),
        ({"messages": [user([{"type": "text", "text": "q"}]),
                       assistant([{"type": "text", "text": "a"}, {"type": "text", "text": "b",
                                                                  "image_url": None}])]},
         [user("q"), assistant("ab")], {}),
        ({"messages": QA, "tools": TOOLS, "documents": []}, QA, {"tools": TOOLS}),
        ({"messages": QA, "tools": "", "functions": None, "images": []}, QA, {}),
        ({"messages": QA, "chat_template_kwargs": {"enable_thinking": False}}, QA,
         {"enable_thinking": False}),
        ({"messages": [user("q"), assistant("a", weight=0), user("r"), assistant("b", weight=1.0)]},
         [user("q"), assistant("a", weight=0), user("r"), assistant("b", weight=1)], {}),
        ({"messages": [user("q"), assistant("a", loss=False)]},
         [user("q"), assistant("a", weight=0)], {}),
        ({"messages": [{**user("q"), "train": False}, assistant("a", train=True)]},
         [user("q"), assistant("a", weight=1)], {}),
        ({"messages": QA, "prompt": "q", "prompt_id": "7"}, QA, {}),
    ],
    ids=str,
)  # fmt: skip
def test_keys_with_a_meaning_are_supported(record, messages, variables):
    made = example(record)
    assert made.conversations == (messages,) and made.variables == variables
    assert kind_of_record(record, "text") == "examples"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "q", "completion": "a", "label": "good"}, "'label' of an example must be true"),
        ({"prompt": "q", "completion": "a", "weight": 0.5}, "'weight' of an example must be 0"),
        ({"messages": [user("q"), assistant("a", weight=0.5)]}, "'weight' of message 2 .* 0.5"),
        ({"messages": [user("q"), assistant("a", weight="0")]}, "'weight' of message 2 .* '0'"),
        ({"messages": [{**user("q"), "weight": 1}, QA[1]]}, "'weight' of message 1 .*only the ass"),
        ({"messages": QA, "functions": TOOLS}, "'functions', which is not supported: write tools"),
        ({"messages": QA, "tools": "weather"}, "'tools' must be a list, possibly as JSON"),
        ({"messages": QA, "tools": ["weather"]}, "'tools' must be a list of objects"),
        ({"messages": QA, "context": "c"}, "'context' next to 'messages'.*--ignore-keys context"),
        ({"messages": QA, "history": HISTORY}, "'history' next to 'messages'"),
        ({"messages": QA, "instruction": "Be kind"}, "'instruction' next to 'messages'"),
        ({"messages": QA[:1], "response": "a"}, "'response' next to 'messages'"),
        ({"messages": [system("own"), *QA], "system": "s"}, "two system messages, 'system' and"),
        ({"text": "t", "tools": TOOLS}, "'tools' next to 'text'"),
        ({"prompt": "q", "completion": "a", "history": ["h"]}, "'history' must be a list of pairs"),
        ({"prompt": "q", "context": {"a": 1}, "output": "a"}, "'context' must be a string"),
        ({"prompt": QA[:1], "completion": QA[1:], "context": "c"}, "'context' next to 'prompt'"),
        ({"prompt": QA[:1], "completion": QA[:1]}, "must contain the assistant's words"),
        ({"prompt": "q", "completion": ["a", "b"]}, "received a list of 2 strings; write several"),
        *[({"prompt": "q", "response": "a", key: ["a", "b"]}, f"'{key}', which is not supported")
          for key in ("completions", "responses", "candidates", "choices", "images", "videos")],
        ({"prompt": "q", "response": "a", "Image": "a.png"}, "'Image', which is not supported"),
        ({"prompt": "q", "suffix": "s", "completion": "a"}, "'suffix'.*fill_in_the_middle"),
        ({"query": "q", "question": "r", "response": "a"}, "'question' and 'query', which both"),
        ({"question": "q", "answer": "a", "output": "b"}, "'output' and 'answer'.*--columns respo"),
        *[({"messages": [user([part]), QA[1]]}, f"part 1 has the type '{part['type']}'")
          for part in ({"type": "image_url", "image_url": {"url": "x"}}, {"type": "input_audio"},
                       {"type": "tool_result", "content": "x"}, {"type": "image", "text": None})],
        ({"messages": [user([{"type": "text", "text": "q", "image": "x"}]), QA[1]]}, "'image'"),
        ({"messages": [user("q"), {"role": "assistant", "function_call": {"name": "f"}}]},
         "'function_call', which is not supported; write tool_calls"),
        *[({"prompt": "q", "response": "a", key: "b"}, f"'{key}', but a preference has both")
          for key in ("rejected", "chosen")],
        ({"messages": QA, "rejected_messages": QA}, "'rejected_messages'.*as chosen and rejected"),
        ({"input": {"messages": QA[:1]}, "preferred_output": QA[1:], "tools": []},
         "'preferred_output'.*as chosen and rejected"),
        ({"messages": [user("q"), {**assistant("a"), "masked": True}]}, "'masked'.*the weight 0"),
        ({"messages": [user("q"), {**assistant("a"), "train_detail": [{"begin_offset": 0}]}]},
         "'train_detail'.*whole or not at all"),
        ({"messages": [user("q"), {**assistant(None), "refusal": "no"}]}, "'refusal'"),
        ({"messages": [user("q"), {"role": "narrator", "content": "a"}]}, "roles .*'narrator'"),
        ({"messages": [user("q"), assistant("a", tool_calls="f(x)")]}, "tool_calls of message 2"),
        ({"conversations": [{"from": "human", "value": "q"},
                            {"from": "function_call", "value": "f(x)"}]}, "call of message"),
    ],
    ids=str,
)  # fmt: skip
def test_unsupported_keys_are_refused_by_name(record, message):
    with pytest.raises(BadRecord, match=r"^f\.jsonl, line 3.*" + message):
        example(record)


@pytest.mark.parametrize(
    "mark", [{"label": False}, {"kto_tag": 0}, {"label": "false"}, {"weight": 0}]
)
def test_a_record_that_is_marked_as_bad_is_left_out_and_counted(mark):
    reader = ExampleReader()
    record = {"prompt": "q", "completion": "a", **mark}
    assert reader(JsonRecord("f.jsonl, line 3", record)) is None
    assert reader.left_out == ["f.jsonl, line 3"]
    if "weight" not in mark:
        pair = {"prompt": "q", "chosen": "a", "rejected": "b", **mark}
        with pytest.raises(BadRecord, match="does not say which reply is the better one"):
            preference(pair)


def test_other_keys_are_counted_and_those_to_be_ignored_are_passed_over():
    reader = ExampleReader(ignored=["label", "Image", "weight"], reads=lambda key: key == "name")
    for i in range(3):
        messages = [{**user("q"), "name": "ann", "id": i}, assistant("a", weight=0, id=None)]
        record = {"messages": messages, "id": i, "label": "x", "image": "a.png", "url": None}
        made = reader(JsonRecord("f.jsonl, line 3", record))
        assert made.conversations == ([{**user("q"), "name": "ann"}, QA[1]],)
    assert reader.unused == {"id": 3, "label": 3, "image": 3}
    assert reader.unused_in_messages == {"id": 3, "weight": 3}


def test_columns_name_keys():
    record = {"frage": "q", "answer": "a", "response": "other", "question": "no", "quelle": "c"}
    reader = ExampleReader(columns={"prompt": "Frage", "response": "answer", "context": "quelle"})
    made = reader(JsonRecord("f.jsonl, line 3", record))
    assert made.conversations == ([user("q\n\nc"), assistant("a")],)
    assert reader.unused == {"response": 1, "question": 1}
    with pytest.raises(BadRecord, match="line 3 has no key 'quelle', which columns gives for cont"):
        reader(JsonRecord("f.jsonl, line 3", {"frage": "q", "answer": "a"}))
    with pytest.raises(ConfigError, match="unknown column 'prompd'; did you mean 'prompt'"):
        ExampleReader(columns={"prompd": "x"})


HH = "\n\nHuman: h\n\nAssistant: i\n\nHuman: q\n\nAssistant: "


@pytest.mark.parametrize(
    ("record", "shared"),
    [
        ({"chosen": f"{HH}a", "rejected": f"{HH}b"}, [*TURNS[:2], user("q")]),
        ({"prompt": HH, "chosen": " a", "rejected": " b"}, [*TURNS[:2], user("q")]),
        ({"chosen": "q a", "rejected": "q b"}, [user("q")]),  # TRL's, of strings
        ({"prompt": None, "chosen": QA, "rejected": [QA[0], assistant("b")]}, QA[:1]),
        ({"prompt": "q", "messages": QA, "chosen": "a", "rejected": "b"}, QA[:1]),
        ({"question": "q", "chosen": "a", "rejected": "b"}, QA[:1]),
        ({"instruction": "q", "input": "i", "history": HISTORY, "chosen": "a", "rejected": "b"},
         [*TURNS, user("q\n\ni")]),
        ({"conversations": [{"from": "human", "value": "q"}],
          "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}},
         QA[:1]),
        ({"prompt": QA[:1], "chosen": QA[1:], "rejected": assistant("b"), "tools": TOOLS}, QA[:1]),
    ],
    ids=str,
)  # fmt: skip
def test_preferences_have_their_prompt_in_every_form(record, shared):
    made = preference(record)
    assert made.num_prompt == len(shared)
    assert made.conversations == ([*shared, assistant("a")], [*shared, assistant("b")])
    assert made.variables == ({"tools": TOOLS} if "tools" in record else {})


def test_a_transcript_is_a_string_where_there_is_no_template():
    reader = ExampleReader(has_template=False)
    made = reader(JsonRecord("f", {"prompt": HH, "response": " a"}))
    assert made.conversations == ([user(HH), assistant(" a")],) and made.plain
    with pytest.raises(BadRecord, match="has 'tools', which needs a chat template"):
        reader(JsonRecord("f", {"prompt": "q", "response": " a", "tools": TOOLS}))


def test_half_of_a_surrogate_pair_in_a_tool_has_a_key():
    made = example({"messages": QA, "tools": [{"name": "\ud83d"}]})
    assert made.key().encode()


def test_the_documentation_names_every_key_with_a_meaning():
    text = (Path(__file__).parents[2] / "docs" / "fine_tuning.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    first = {key for row in rows for key in re.findall(r"`(.*?)`", row)}
    assert {key for keys in SUPPORTED.values() for key in keys} | set(REFUSED) <= first
    assert {*MESSAGE_WEIGHTS, *MESSAGE_REASONING, "function_call", "refusal"} <= first
