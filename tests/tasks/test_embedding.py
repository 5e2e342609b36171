"""Embedding beyond the contract: pairs, retrieval, MiniLM."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.rounding import assert_rounded, assert_within, in_double, weight_rounding
from tests.tasks.tiny_cases import ADDITIONS, TINY_ENCODER
from tfllm.data.reading.table_records import Record
from tfllm.models.encoder_config import EncoderConfig
from tfllm.models.heads.sentence_encoder import SentenceEncoder
from tfllm.tasks import load
from tfllm.tasks.encoder.embedding import Embedding
from tfllm.tasks.encoder.text_embedding import TextEmbedding
from tfllm.tokenizers.kinds.word_piece import WordPiece

TEXTS = ["the cat sat on the mat", "a dog ran", "naïve 你好", "", "the " * 40]


@pytest.fixture(scope="module")
def tokenizer():
    return WordPiece.train([*TEXTS, "question answer"], 120)


@pytest.fixture(scope="module")
def task(tokenizer):
    model = SentenceEncoder(EncoderConfig(vocab_size=tokenizer.vocab_size, **TINY_ENCODER))
    return TextEmbedding(model, tokenizer, {"sequence_length": 12})


def records(*rows):
    return [Record(row, f"line {number}") for number, row in enumerate(rows, 1)]


def test_a_served_vector_is_the_models(task, tokenizer):
    given = task.signatures["serving_default"](text=tf.constant(TEXTS))
    for row, text in enumerate(TEXTS):
        ids = [tokenizer.cls_token_id, *tokenizer.encode(text, add_special=False)[:10]]
        wanted = task.model(np.array([[*ids, tokenizer.sep_token_id]], np.int32))[0]
        if text:
            assert_rounded(given["vector"][row], wanted, ADDITIONS)
        else:
            assert np.abs(given["vector"][row]).max() == 0
    errors = [error.decode() for error in given["error"].numpy()]
    assert errors == ["", "", "", "the text is empty", ""]
    assert given["truncated_tokens"].numpy().tolist() == [0, 0, 0, 0, 30]
    assert_rounded(task.embed(TEXTS), given["vector"], ADDITIONS)
    assert task.embed([]).shape == (0, 16)


def test_a_text_without_a_token_is_empty(task, tokenizer):
    blank = [" ", "\u3000", "\u00a0\t\r\n", "\u200b\ufeff", "\u0000\u2028\x85"]
    seen = ["x", " .", "中", "\u3000é", "🙂", "1"]
    assert [bool(tokenizer.encode(t, add_special=False)) for t in blank + seen] == [False] * 5 + [
        True
    ] * 6
    errors = [answer["error"] for answer in task.predict([{"text": t} for t in blank + seen])]
    assert errors == ["the text is empty"] * 5 + [""] * 6


def test_pairs_become_rows_of_two(tokenizer):
    definition, information = Embedding(), {"sequence_length": 12}
    rows = records(
        {"text": "the cat", "positive": "a dog ran", "score": None},
        {"text": "the mat", "positive": "a dog ran", "score": None},
        {"text": "a", "positive": "the " * 40, "score": None},
        {"text": "a", "positive": "b", "score": "0.5"},
    )
    made = [e for row in rows for e in definition.examples(row, tokenizer, information, 12)]
    assert [int(example["truncated"][0]) for example in made] == [0, 0, 30]
    batch = definition.batch(made, 12)
    assert batch.inputs["token_ids"].shape == batch.inputs["padding_mask"].shape == (3, 2, 12)
    first, second, third = batch.labels
    assert first == second != third and first >= 0
    for side, text in enumerate(("the cat", "a dog ran")):
        mask = batch.inputs["padding_mask"][0, side]
        assert batch.inputs["token_ids"][0, side][mask].tolist() == tokenizer.encode(text)
    assert definition.batch([], 12).inputs["token_ids"].shape == (0, 2, 0)


def test_records_that_teach_nothing_are_refused():
    definition = Embedding()
    with pytest.raises(ValueError, match="all 1 training records have a score"):
        definition.information(records({"text": "a", "positive": "b", "score": "1"}))
    same = [{"text": t, "positive": "b", "score": None} for t in "xy"]
    with pytest.raises(ValueError, match=r"the same 'positive' \('b'"):
        definition.information(records(*same))


def test_a_text_should_find_the_positives_of_all_its_records():
    vectors = np.eye(12)
    rows = records(
        *({"text": f"t{i}", "positive": f"p{i}", "score": None} for i in range(11)),
        {"text": "t0", "positive": "p11", "score": None},
        {"text": "t3", "positive": "p3", "score": None},
    )
    predictions = []
    for i, row in enumerate(rows):
        # t0 is like p0 and less like p11; all others are like their own.
        near = vectors[min(i, 11) if row["text"] != "t0" else 0] + 0.5 * (
            vectors[11] if row["text"] == "t0" else 0
        )
        positive = vectors[int(row["positive"][1:])]
        predictions.append({"vector": near.tolist(), "positive_vector": positive.tolist()})
    predictions[12]["vector"] = predictions[12]["positive_vector"] = vectors[3].tolist()
    recall, rank = Embedding().metrics(rows, predictions)
    assert (recall.name, recall.value) == ("recall@10", 1.0)
    assert (rank.name, rank.value) == ("MRR", 1.0)
    predictions[5]["vector"] = (-vectors[5]).tolist()  # the last of all
    recall, rank = Embedding().metrics(rows, predictions)
    assert recall.value == in_double(12 / 13)
    assert rank.value == in_double((12 + 1 / 12) / 13)
    predictions[5]["vector"] = [0.0] * 12  # refused: it finds nothing, not what comes first
    recall, rank = Embedding().metrics(rows, predictions)
    assert (recall.value, rank.value) == (in_double(12 / 13), in_double(12 / 13))


def test_scores_are_compared_with_cosines():
    rows = records(*({"text": "a", "positive": "b", "score": str(s)} for s in (5, 1, 3)))
    predictions = [
        {"vector": [1.0, 0.0], "positive_vector": [cosine, (1 - cosine**2) ** 0.5]}
        for cosine in (0.9, -0.5, 0.1)
    ]
    (metric,) = Embedding().metrics(rows, predictions)
    assert (metric.name, metric.value) == ("Spearman", in_double(1.0))
    rows[1]["score"] = "high"
    with pytest.raises(ValueError, match="line 2: a score must be a number; received 'high'"):
        Embedding().metrics(rows, predictions)


@pytest.mark.parametrize("score", ["high", "nan"])
def test_a_score_that_is_none_is_told_before_training(tokenizer, score):
    (row,) = records({"text": "a", "positive": "b", "score": score})
    with pytest.raises(ValueError, match=f"a score must be a number; received '{score}'"):
        Embedding().examples(row, tokenizer, {}, 12)


@pytest.mark.slow  # MiniLM, 90 MB
def test_minilm_is_a_task_as_it_comes(minilm_folder, tmp_path):
    from tests.pretrained.record_encoders import MINILM_REFERENCE, SENTENCES
    from tfllm import pretrained
    from tfllm.serving import check, export

    task = load(minilm_folder)
    assert isinstance(task, TextEmbedding) and task.sequence_length == 256
    expected = np.load(MINILM_REFERENCE)["vectors"]
    some = [i for i, text in enumerate(SENTENCES) if text.strip()]
    given = task.embed(SENTENCES)
    bound = weight_rounding(task.model, lambda: task.embed(SENTENCES))
    assert_within(given[some], expected[some], bound[some])
    folder = pretrained.save(task.model, tmp_path / "model", task.tokenizer)
    assert_within(load(folder).embed(SENTENCES[:2]), given[:2], bound[:2])
    report = check(export(load(minilm_folder, dtype="bfloat16"), tmp_path / "served"))
    assert report.ok, report.format()
