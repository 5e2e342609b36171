"""From conversations to replies: the same ids in Python, by `chat` and by `chat_prompt`."""

import datetime

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tasks.chat_models import chat, model
from tests.tasks.chat_questions import QUESTIONS, conversation, encoded, served
from tests.tokenizers.conversations import (
    BEGIN_AND_END,
    CONVERSATIONS,
    SPECIAL_TOKENS,
    assistant,
    user,
)
from tests.tokenizers.template_tokenizers import WORDS, tokenizer
from tfllm.config import GenerationConfig
from tfllm.pretrained import save
from tfllm.tasks import Chat, TextGeneration, load
from tfllm.tokenizers import BytePairTokenizer
from tfllm.tokenizers.chat import prompt_form_graph
from tfllm.tokenizers.chat.prompt_form import NoPromptForm, prompt_form
from tfllm.tokenizers.chat.prompt_form_graph import date

NAMES = list(BEGIN_AND_END)


# ---------------------------------------------------------------------- one question


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_writes_a_question_as_python_does(name):
    of = chat(name)
    columns = [
        tf.constant([texts[i].encode("utf-8", "surrogatepass") for texts in QUESTIONS])
        for i in (0, 1)
    ]
    written, refused = prompt_form_graph.prompts(of.form, of.template.special_tokens, *columns)
    assert refused.numpy().tolist() == [b""] * len(QUESTIONS)
    for text, texts in zip(written.numpy(), QUESTIONS, strict=True):
        ids, _ = of.tokenizer.encode_unbroken(text.decode())
        assert ids == encoded(of, conversation(*texts)), texts


@pytest.mark.parametrize("name", ["llama2", "qwen3"])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.text(max_size=12) | WORDS, st.text(max_size=12) | WORDS)
def test_the_graph_encodes_any_words_as_python_does(name, first, second):
    of = chat(name)
    columns = [tf.constant([w.encode("utf-8", "surrogatepass")]) for w in (first, second)]
    (ids,) = of.question_ids(*columns)[0].to_list()
    assert ids == encoded(of, conversation(first, second))


@pytest.mark.parametrize("name", ["llama2", "qwen3"])
def test_a_question_has_one_answer_however_it_is_asked(name):
    of = chat(name)
    systems, users = zip(*QUESTIONS[:7], strict=True)
    asked = served(of, "chat", system=systems, user=users)
    conversations = [conversation(*texts) for texts in QUESTIONS[:7]]
    prompts = [of.template.prompt(messages) for messages in conversations]
    by_prompt = served(of, "chat_prompt", prompt=prompts)
    for key, values in asked.items():
        np.testing.assert_array_equal(values, by_prompt[key])
    lengths = [len(encoded(of, messages)) for messages in conversations]
    assert asked["prompt_tokens"].tolist() == lengths
    assert [text.decode() for text in asked["text"]] == of.reply(conversations)
    assert of.reply(conversations[1]) == of.reply(conversations)[1]


@pytest.mark.parametrize("name", ["llama2", "qwen3"])
def test_a_reply_is_what_the_model_finds_likeliest_after_the_conversation(name):
    of = chat(name)
    for case in ("3 turns, system", "5 turns"):
        ids = encoded(of, CONVERSATIONS[case])
        new: list[int] = []
        for _ in range(6):
            logits = model()(tf.constant([ids + new])).numpy()[0, -1]
            new.append(int(logits.argmax()))
            if new[-1] in of.tokenizer.end_token_ids:
                break
        expected = tokenizer(name).decode([i for i in new if i < tokenizer(name).vocab_size])
        assert of.reply(CONVERSATIONS[case]) == expected
        assert "".join(of.stream_reply(CONVERSATIONS[case])) == expected


def test_options_are_those_of_generate():
    of = chat("qwen3")
    options = {"temperature": 1.5, "seed": 3, "max_new_tokens": 8}
    samples = of.reply([user("a")], num_samples=3, **options)
    assert len(set(samples)) > 1
    assert samples[0] == of.reply([user("a")], **options)
    assert "".join(of.stream_reply([user("a")], **options)) == samples[0]
    several = of.reply([[user("a")], [user("b")]], num_samples=2, **options)
    assert [len(texts) for texts in several] == [2, 2] and several[0] == samples[:2]
    with pytest.raises(ValueError, match="did you mean 'temperature'"):
        of.reply([user("a")], temprature=1.0)


def test_variables_of_the_template_reach_it():
    of = chat("qwen3")
    thinking, not_thinking = (
        of.template.prompt([user("a")], **more) for more in ({}, {"enable_thinking": False})
    )
    assert not_thinking == f"{thinking}<think>\n\n</think>\n\n"
    expected = served(of, "chat_prompt", prompt=[not_thinking])["text"][0].decode()
    assert of.reply([user("a")], variables={"enable_thinking": False}) == expected


def test_the_other_signatures_are_those_of_text_generation():
    plain = TextGeneration(model(), tokenizer("qwen3"))
    assert set(chat("qwen3").signatures) == {*plain.signatures, "chat", "chat_prompt"}


# ---------------------------------------------------------------------- ends and errors


def test_a_reply_ends_where_the_template_ends_a_turn():
    """A tokenizer whose end token is another than the one behind the assistant's words."""
    made = BytePairTokenizer(tokenizer("chatml").to_json(), end_token="<|endoftext|>")
    made.settings = dict(tokenizer("chatml").settings)
    of = Chat(model(), made)
    wanted = [made.token_id("<|endoftext|>"), made.token_id("<|im_end|>")]
    assert of._end_token_ids.numpy().tolist() == wanted
    assert chat("chatml")._end_token_ids.numpy().tolist() == [made.token_id("<|im_end|>")]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "at least one message"),
        ([[]], "at least one message"),
        ("hello", "must be a list of messages"),
        ([user("a"), assistant("b")], "the last message must be one to reply to"),
        ([assistant("a")], "the user must speak first"),
        ([user("word " * 600)], "shorter than the model's context of 512 tokens"),
    ],
)
def test_what_cannot_be_replied_to_is_told(messages, words):
    with pytest.raises(ValueError, match=words):
        chat("qwen3").reply(messages)
    if messages != [[]]:
        with pytest.raises(ValueError, match=words):
            chat("qwen3").stream_reply(messages)


def with_template(source: str) -> BytePairTokenizer:
    made = BytePairTokenizer(tokenizer("chatml").to_json(), end_token="<|im_end|>")
    made.settings["chat_template"] = source
    return made


def test_a_template_without_system_refuses_the_row_alone():
    of = Chat(
        model(),
        with_template(
            "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
            "{{ '[INST]' + messages[0].content + '[/INST]' }}"
        ),
    )
    columns = tf.constant(["", "Be kind.", ""]), tf.constant(["a", "a", "b"])
    ids, refused = of.question_ids(*columns)
    assert [bool(error) for error in refused.numpy()] == [False, True, False]
    assert b"does not support a system message" in refused.numpy()[1]
    assert ids.to_list()[2] == encoded(of, [user("b")])


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ messages[-1].content | upper }}", "twice, changed, or not at all"),
        ("{{ messages[-1].content * 2 }}", "twice, changed, or not at all"),
        ("x", "twice, changed, or not at all"),
        ("{{ messages[-1].content | replace('a', 'b') }}.", "depends on these words"),
        ("{{ '/think' in messages[-1].content }}: {{ messages[-1].content }}", "depends on these"),
        ("{{ messages[-1].content or 'nothing' }}", "depends on these words"),
        ("{{ messages[-1].content[:9] }}", "other ways than stripping|depends on these words"),
        ("{{ messages[-1].content.strip('\n ').strip('.') }}", "depends on these words"),
        ("{{ messages[-1].content.replace('\n', '') }}", "other ways than stripping"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "nothing between"),
        ("<|{{ messages[-1].content }}", "could make a special token"),
        ("{{ strftime_now('%H:%M') }} {{ messages[-1].content }}", "writes the time as '%H:%M'"),
        ("{{ raise_exception('no') }}", "does not accept a single question: .* no"),
    ],
)
def test_a_template_that_does_more_has_no_signature_chat_and_says_why(source, words):
    made = with_template(source)
    with pytest.raises(NoPromptForm, match=words):
        prompt_form(Chat(model(), made).template)
    of = Chat(model(), made)
    assert "chat" not in of.signatures and "chat_prompt" in of.signatures
    assert of.no_chat_reason


def test_the_date_in_a_prompt_is_that_of_the_request(monkeypatch):
    of = chat("llama3_2")
    for moment in (datetime.datetime(2024, 2, 29, 23), datetime.datetime(2031, 12, 1)):
        moment = moment.replace(tzinfo=datetime.timezone.utc)
        monkeypatch.setattr("tfllm.tokenizers.chat.template_sandbox.now", lambda at=moment: at)
        monkeypatch.setattr(
            prompt_form_graph.tf,
            "timestamp",
            lambda at=moment: tf.constant(at.timestamp(), tf.float64),
        )
        expected = encoded(of, [user("a")])
        assert moment.strftime("%d %b %Y") in tokenizer("llama3_2").decode(expected)
        ids, _ = of.question_ids(tf.constant([""]), tf.constant(["a"]))
        assert ids.to_list() == [expected]


def test_dates_are_those_of_the_calendar():
    epoch = datetime.date(1970, 1, 1)
    for day in [*range(0, 60000, 37), 11016, 11017, 11380, 11381, 47540, 47541]:
        expected = (epoch + datetime.timedelta(days=day)).strftime("%d %b %Y, %B-%m")
        assert date("%d %b %Y, %B-%m", tf.constant(day, tf.int64)).numpy().decode() == expected


# ---------------------------------------------------------------------- loading


def test_a_folder_with_a_template_is_loaded_as_chat(tmp_path, caplog):
    save(model(), tmp_path / "chat", tokenizer("qwen2_5"))
    of = load(tmp_path / "chat").with_generation(GenerationConfig(max_new_tokens=6))
    assert isinstance(of, Chat)
    messages = CONVERSATIONS["3 turns, system"]
    assert encoded(of, messages) == encoded(chat("qwen2_5"), messages)
    assert of.generation.max_new_tokens == 6
    assert isinstance(Chat.load(tmp_path / "chat"), Chat)
    assert isinstance(of.with_dtype("bfloat16"), Chat)

    save(model(), tmp_path / "plain", BytePairTokenizer(tokenizer("qwen2_5").to_json()))
    assert type(load(tmp_path / "plain")) is TextGeneration
    with pytest.raises(ValueError, match="has no chat template"):
        Chat.load(tmp_path / "plain")

    save(model(), tmp_path / "broken", with_template("{% if %}"))
    with caplog.at_level("WARNING", logger="tfllm"):
        assert type(load(tmp_path / "broken")) is TextGeneration
    assert "does not support conversations: the chat template is broken" in caplog.text


def test_all_special_tokens_are_broken_in_the_graph():
    text = "".join(SPECIAL_TOKENS) + "<" + "<|im_end|>" * 3
    (broken,) = prompt_form_graph.broken(SPECIAL_TOKENS, tf.constant([text])).numpy()
    assert not any(token in broken.decode() for token in SPECIAL_TOKENS)
    assert broken.decode().replace("\ufdd0", "") == text
