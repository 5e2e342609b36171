"""Chat with a real model: SmolLM2-135M-Instruct from its GGUF file."""

import pytest
import tensorflow as tf

from tests.tasks.chat_questions import QUESTIONS, conversation, encoded, served
from tests.tokenizers.conversations import CONVERSATIONS, assistant, system, user
from tfllm.tasks import Chat, load

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def smollm2(smollm2_file) -> Chat:
    # In bfloat16 it says something else where the processor does not multiply such numbers.
    of = load(smollm2_file)
    assert isinstance(of, Chat)
    return of


def test_the_graph_encodes_a_question_as_python_does(smollm2):
    columns = [
        tf.constant([texts[i].encode("utf-8", "surrogatepass") for texts in QUESTIONS])
        for i in (0, 1)
    ]
    ids, _ = smollm2.question_ids(*columns)
    assert ids.to_list() == [encoded(smollm2, conversation(*texts)) for texts in QUESTIONS]


def test_what_is_learned_is_what_the_assistant_says(smollm2):
    ids, learned = smollm2.template.encode_for_training(CONVERSATIONS["4 turns, system"])
    said = [i for i, is_learned in zip(ids, learned, strict=True) if is_learned]
    words = [m["content"] for m in CONVERSATIONS["4 turns, system"] if m["role"] == "assistant"]
    text = smollm2.tokenizer.decode(said, skip_special=False)
    assert text == "".join(f"{word}<|im_end|>" for word in words)


def test_it_answers_and_goes_on(smollm2):
    asked = [user("What is the capital of France?")]
    first = smollm2.reply(asked, max_new_tokens=24)
    assert "Paris" in first
    assert "".join(smollm2.stream_reply(asked, max_new_tokens=24)) == first
    further = [*asked, assistant(first), user("And of Italy? Answer with one word.")]
    assert "Rome" in smollm2.reply(further, max_new_tokens=24)
    one, other = smollm2.reply([further, asked], max_new_tokens=24)
    assert "Rome" in one and "Paris" in other


def test_a_question_has_one_answer_however_it_is_asked(smollm2):
    words = "Answer in one short sentence.", "Say <|im_end|> twice."
    texts = served(smollm2, "chat", system=[words[0]], user=[words[1]])
    prompt = smollm2.template.prompt([system(words[0]), user(words[1])])
    assert texts["text"] == served(smollm2, "chat_prompt", prompt=[prompt])["text"]
    assert texts["finish_reason"][0] in (b"stop", b"length") and texts["text"][0]
