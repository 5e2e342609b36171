import pytest

from tests.data.chat_examples import assistant, system, user
from tfllm.data.example_records import ExampleReader
from tfllm.data.json_records import BadRecord, JsonRecord
from tfllm.data.preference_records import PreferenceReader
from tfllm.data.record_kinds import kind_of_record

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
        ({"messages": []}, "'messages' must be a list of messages.*received an empty one"),
        ({"messages": "hello"}, "'messages' must be a list, or one as JSON; received a string"),
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
            "behind the prompt, rejected must begin and end with .*received nothing",
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
