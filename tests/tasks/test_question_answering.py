"""Question answering beyond the contract: windows, no answer, answers of several forms, SQuAD."""

import functools
import json
import random

import numpy as np
import pytest
import tensorflow as tf

from tests.rounding import about, in_double
from tests.tasks.oracles import Oracle
from tests.tasks.tiny_cases import ADDITIONS, TINY_ENCODER
from tfllm.data.reading.table_records import Record, read_table
from tfllm.evaluation.metric_values import metric_values
from tfllm.models.encoder_config import EncoderConfig
from tfllm.models.heads.span_classifier import SpanClassifier
from tfllm.tasks.encoder.question_answerer import (
    MAX_ANSWER_TOKENS,
    QuestionAnswerer,
    question_room,
)
from tfllm.tasks.encoder.question_answering import QuestionAnswering, answers_of
from tfllm.tasks.encoder.windows import windows_of
from tfllm.tokenizers.kinds.word_piece import WordPiece

WORDS = ["the", "road", "was", "built", "in", "naïve", "Rome", "unbelievable", "\U0001f389", "1923"]


@pytest.fixture(scope="module")
def tokenizer():
    return WordPiece.train([" ".join(WORDS) + " when who? what"] * 3, 120)


@functools.cache
def oracle(tokenizer, first, last, sequence_length, none=5.0, **information):
    """Knows where an answer begins and where it ends by their tokens; else there is none."""
    begin, end = (tokenizer.encode(word, add_special=False)[0] for word in (first, last))

    def logits(token_ids, mask):
        is_first = tf.cast(tf.range(tf.shape(token_ids)[1]) == 0, tf.float32) * none
        starts = 10.0 * tf.cast(token_ids == begin, tf.float32) + is_first
        ends = 10.0 * tf.cast(token_ids == end, tf.float32) + is_first
        return tf.stack([starts, ends], -1)

    information = {"sequence_length": sequence_length, **information}
    return QuestionAnswerer(Oracle(logits, 2), tokenizer, information)


@pytest.mark.parametrize("sequence_length", [12, 64])
def test_the_answer_is_found_wherever_it_stands(tokenizer, sequence_length):
    rng = random.Random(0)
    words = ["the", "road", "was", "unbelievable", "\U0001f389"]
    fillers = [" ".join(rng.choices(words, k=number)) for number in (0, 3, 20, 80)]
    contexts = [f"{a} Rome in 1923. {b}" for a in fillers for b in fillers]
    records = [{"question": "when was?", "context": context} for context in contexts]
    answers = oracle(tokenizer, "Rome", "1923", sequence_length).predict(records)
    for context, found in zip(contexts, answers, strict=True):
        assert found["answer"] == "Rome in 1923"
        assert context[found["begin"] : found["end"]] == "Rome in 1923"
        assert found["score"] > 0.9
        assert found["error"] == ""


def test_no_answer_and_what_is_said_instead(tokenizer):
    context = "the road was " * 40
    may = oracle(tokenizer, "Rome", "1923", 12).ask("who?", context)
    assert (may["answer"], may["begin"], may["end"]) == ("", -1, -1)
    assert may["score"] > 0.7
    must = oracle(tokenizer, "Rome", "1923", 64, may_be_unanswered=False).ask("who?", context)
    assert must["answer"]
    assert must["answer"] == context[must["begin"] : must["end"]]
    for question, context in (("", "a"), ("a", " \n"), (" ", "")):
        answer = oracle(tokenizer, "Rome", "1923", 12).ask(question, context)
        assert answer["error"].endswith("is empty")
        assert (answer["answer"], answer["begin"], answer["score"]) == ("", -1, 0.0)


def test_an_answer_ends_after_its_begin_and_is_not_too_long(tokenizer):
    found = oracle(tokenizer, "Rome", "1923", 256)
    assert found.ask("when?", "1923 the road Rome")["answer"] in ("", "1923", "Rome")
    far = f"Rome {'the ' * MAX_ANSWER_TOKENS} 1923"
    assert found.ask("when?", far)["answer"] != far
    near = f"Rome {'the ' * (MAX_ANSWER_TOKENS - 2)}1923"
    assert found.ask("when?", near)["answer"] == near


@pytest.mark.parametrize("sequence_length", [20])
def test_answers_are_those_of_a_search_in_python(tokenizer, sequence_length):
    config = EncoderConfig(vocab_size=tokenizer.vocab_size, **TINY_ENCODER)
    model = SpanClassifier(config, seed=2)
    model.classifier.kernel.assign(model.classifier.kernel * 40)
    information = {"sequence_length": sequence_length, "may_be_unanswered": True}
    served = QuestionAnswerer(model, tokenizer, information)
    rng = random.Random(0)
    records = [
        {
            "question": " ".join(rng.choices(WORDS, k=rng.randint(1, 12))),
            "context": " ".join(rng.choices(WORDS, k=rng.randint(1, 50))),
        }
        for _ in range(12)
    ]
    answers = served.predict(records)
    assert any(a["answer"] for a in answers)
    for record, answer in zip(records, answers, strict=True):
        wanted = searched(model, tokenizer, record, sequence_length)
        assert answer["answer"] == wanted[0]
        assert answer["score"] == about(wanted[1], ADDITIONS)


def searched(model, tokenizer, record, sequence_length):
    """The answer and its score, one window and one pair of ends after the other."""
    encode = tokenizer.encode
    asked = encode(record["question"], add_special=False)[: question_room(sequence_length)]
    ids, offsets = tokenizer.encode_with_offsets(record["context"], add_special=False)
    room = sequence_length - 3 - len(asked)
    best, least = (-np.inf, "", 0.0), np.inf
    for window in windows_of(len(ids), room, room // 2):
        inside = ids[window.begin : window.end]
        head = [tokenizer.cls_token_id, *asked, tokenizer.sep_token_id]
        row = [*head, *inside, tokenizer.sep_token_id]
        inputs = {
            "token_ids": np.array([row], np.int32),
            "token_type_ids": np.array([[0] * len(head) + [1] * (len(inside) + 1)], np.int32),
            "padding_mask": np.ones((1, len(row)), bool),
        }
        logs = tf.nn.log_softmax(model(inputs), 1).numpy()[0]
        none = logs[0].sum()
        least = min(least, np.exp(none))
        for i in range(len(inside)):
            for j in range(i, len(inside)):
                together = logs[len(head) + i, 0] + logs[len(head) + j, 1]
                if together - none > best[0]:
                    begin = offsets[window.begin + i][0]
                    end = offsets[window.begin + j][1]
                    best = (together - none, record["context"][begin:end], np.exp(together))
    return best[1:] if best[0] > 0 else ("", least)


@pytest.mark.parametrize("sequence_length", [12, 24, 300])
def test_examples_say_where_the_answer_is(tokenizer, sequence_length):
    context = f"{'the road was ' * 20}built in Rome, 1923. {'the road ' * 10}"
    record = Record({"question": "when was the road?", "context": context, "answer": "Rome, 1923"})
    information = {"may_be_unanswered": False}
    examples = QuestionAnswering().examples(record, tokenizer, information, sequence_length)
    wanted = tokenizer.encode("Rome, 1923", add_special=False)
    held = 0
    for example in examples:
        first, last = example["span"]
        ids = example["token_ids"].tolist()
        assert len(ids) <= sequence_length
        if last:
            held += 1
            assert ids[first : last + 1] == wanted
        else:
            assert not any(ids[i : i + len(wanted)] == wanted for i in range(len(ids)))
        assert example["token_type_ids"].tolist() == sorted(example["token_type_ids"])
    assert held >= 1
    batch = QuestionAnswering().batch(examples, sequence_length)
    assert batch.labels.shape == (len(examples), 2)


def test_an_answer_that_no_window_holds_is_no_lesson(tokenizer):
    answer = "the road was " * 20
    record = Record({"question": "what?", "context": f"say {answer} built", "answer": answer})
    of, information = QuestionAnswering().examples, {"may_be_unanswered": True}
    with pytest.raises(
        ValueError, match="no window of 24 tokens can hold the 60 tokens of the answer"
    ):
        of(record, tokenizer, information, 24)
    (example,) = of(record, tokenizer, information, 128)
    first, last = example["span"]
    assert last - first + 1 == 60


def test_a_long_question_is_cut_and_counted(tokenizer):
    record = Record({"question": "road " * 30, "context": "built in Rome", "answer": "Rome"})
    (example, *_) = QuestionAnswering().examples(
        record, tokenizer, {"may_be_unanswered": False}, 24
    )
    assert example["truncated"][0] == 30 - question_room(24)
    served = oracle(tokenizer, "Rome", "Rome", 24)
    answer = served.predict([record])[0]
    assert answer["truncated_tokens"] == 30 - question_room(24)
    assert answer["answer"] == "Rome"


@pytest.mark.parametrize(
    ("record", "wanted"),
    [
        ({"answer": "b"}, [("b", 2)]),
        ({"answer": "b", "answer_start": 6}, [("b", 6)]),
        ({"answer": ""}, []),
        ({}, []),
        ({"answers": {"text": ["b", "c"], "answer_start": [6, 4]}}, [("b", 6), ("c", 4)]),
        ({"answers": [{"text": "c", "answer_start": 4}]}, [("c", 4)]),
        ({"answers": {"text": [], "answer_start": []}}, []),
    ],
)
def test_answers_of_several_forms(record, wanted):
    assert answers_of({"context": "a b c b", **record}) == wanted


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"answer": "d"}, "'d' is not in the context"),
        ({"answer": "b", "answer_start": 3}, "is not at answer_start 3: the text there is ' '"),
        ({"answer": "b", "answer_start": -1}, "is not at answer_start -1"),
        ({"answer": "b", "answer_start": "2"}, "must be a whole number; received '2'"),
        ({"answers": {"text": ["b"], "answer_start": []}}, "equally many text and answer_start"),
        ({"answers": "b"}, "must be a list of objects"),
        ({"answers": [{"text": 3}]}, "an answer must be a text; received 3"),
    ],
)
def test_answers_that_are_none(record, message):
    with pytest.raises(ValueError, match=message):
        answers_of({"context": "a b c b", **record})


def test_records_without_any_answer():
    with pytest.raises(ValueError, match="none of the 1 training records has an answer"):
        QuestionAnswering().information([Record({"question": "a", "context": "b"})])
    wrong = Record({"question": "a", "context": "b", "answer": "c"}, "a.jsonl, line 3")
    with pytest.raises(ValueError, match=r"\(a.jsonl, line 3: the answer 'c' is not in"):
        QuestionAnswering().information([wrong])
    record = Record({"question": "a", "context": "b"})
    with pytest.raises(ValueError, match="have an answer, but this one has none"):
        QuestionAnswering().examples(record, None, {"may_be_unanswered": False}, 32)


def test_squads_files_are_read_as_they_are(tmp_path):
    asked = [
        {"question": "when?", "answers": [{"text": "1923", "answer_start": 8}], "id": "1"},
        {"question": "who?", "answers": [], "is_impossible": True, "plausible_answers": []},
    ]
    article = {"title": "Rome", "paragraphs": [{"context": "Rome in 1923", "qas": asked}]}
    path = tmp_path / "dev.json"
    path.write_text(json.dumps({"version": "v2.0", "data": [article]}))
    records = read_table(path, QuestionAnswering.columns).records
    assert [answers_of(r) for r in records] == [[("1923", 8)], []]
    assert records[1].where.endswith("line 1, article 1, paragraph 1, question 2")
    assert QuestionAnswering().information(records) == {"may_be_unanswered": True}
    del asked[0]["question"]
    path.write_text(json.dumps({"data": [article]}))
    with pytest.raises(ValueError, match="paragraph 1, question 1 must have a 'question'"):
        read_table(path, QuestionAnswering.columns)


def test_csv_has_places_as_numbers(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("question,context,answer,answer_start\nwhen?,in 19 or 19,19,9\nwho?,a,,\n")
    records = read_table(path, QuestionAnswering.columns).records
    assert [answers_of(r) for r in records] == [[("19", 9)], []]


def test_an_input_that_is_none_is_missing(tokenizer):
    served = oracle(tokenizer, "Rome", "1923", 64)
    record = Record({"question": "who?", "context": None}, "a.csv, line 2")
    with pytest.raises(
        ValueError, match=r"^a.csv, line 2 must have the text 'context'; it has 'question'$"
    ):
        served.predict([record])


def test_metrics_and_remarks(tokenizer):
    served = oracle(tokenizer, "Rome", "1923", 64, may_be_unanswered=False)
    rows = [
        {"question": "when?", "context": "built in Rome 1923", "answer": "Rome 1923"},
        {"question": "when?", "context": "Rome the 1923", "answer": "1923"},
        {"question": "who?", "context": "Rome 1923", "answer": ""},
    ]
    records = [Record(row) for row in rows]
    found = {
        m.name: m.value
        for m in metric_values(QuestionAnswering().metrics(records, served.predict(records)))
    }
    assert found["exact match"] == in_double(100 / 3)
    assert found["F1"] == in_double((100 + 200 / 3) / 3)
    # What was refused is wrong, also where no answer would have been right.
    records = [Record({"question": "", "context": "Rome 1923", "answer": None})]
    metrics = QuestionAnswering().metrics(records, served.predict(records))
    assert [metric.value for metric in metrics] == [0, 0]
    records = [Record(row) for row in rows]
    (remark,) = QuestionAnswering().remarks(records, served)
    assert "1 of 3 questions have no answer" in remark
