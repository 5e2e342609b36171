"""Masked tokens beyond the contract: spans, gaps, scores, and what they are used for."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.rounding import about, assert_rounded, assert_within, in_double, rounding
from tests.tasks.tiny_cases import ADDITIONS, TINY_ENCODER
from tfllm import pretrained
from tfllm.data.reading.table_records import Record
from tfllm.models.encoder_config import EncoderConfig
from tfllm.models.heads.masked_language_model import MaskedLanguageModel
from tfllm.models.token_masking import mask_tokens
from tfllm.tasks.encoder.gap_filling import GapFilling, token_masking
from tfllm.tasks.encoder.masked_language_model import MaskedText
from tfllm.tasks.evaluating import evaluate
from tfllm.tokenizers.kinds.word_piece import WordPiece
from tfllm.training import train

TEXTS = ["the cat sat on the mat", "a dog ran", "naïve 你好", "", "the " * 40]


@pytest.fixture(scope="module")
def tokenizer():
    return WordPiece.train([*TEXTS, "question answer"], 120)


@pytest.fixture(scope="module")
def task(tokenizer):
    config = EncoderConfig(vocab_size=tokenizer.vocab_size + 3, **TINY_ENCODER)
    model = MaskedLanguageModel(config, seed=2)
    return GapFilling(model, tokenizer, {"sequence_length": 12})


def test_a_long_text_is_learned_in_stretches(tokenizer):
    definition = MaskedText()
    (short,) = definition.examples(Record({"text": TEXTS[1]}), tokenizer, {}, 12)
    assert short["token_ids"].tolist() == tokenizer.encode(TEXTS[1])
    long = definition.examples(Record({"text": TEXTS[4]}), tokenizer, {}, 12)
    assert [len(example["token_ids"]) for example in long] == [12, 12, 12, 12]
    inner = np.concatenate([example["token_ids"][1:-1] for example in long])
    assert inner.tolist() == tokenizer.encode(TEXTS[4], add_special=False)
    batch = definition.batch([short, long[0]], 12)
    np.testing.assert_array_equal(batch.weights, batch.inputs["padding_mask"])
    assert definition.batch([], 12).inputs["token_ids"].shape == (0, 0)


def test_special_tokens_are_never_hidden(tokenizer):
    masking = token_masking(tokenizer, 3)
    assert masking.mask_token_id == tokenizer.token_id("[MASK]")
    kept = {tokenizer.token_id(t) for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")}
    assert kept <= set(masking.special_token_ids)


def test_gaps_are_filled_with_the_likeliest_tokens(task, tokenizer):
    texts = ["the cat [MASK] on the mat", "no gap", "[MASK] and [MASK]"]
    given = task.signatures["serving_default"](text=tf.constant(texts))
    errors = [error.decode() for error in given["error"].numpy()]
    assert errors == ["", "the text has no mask token", ""]
    for row, place in ((0, 3), (2, 1)):
        ids = tokenizer.encode(texts[row])
        assert ids[place] == tokenizer.mask_token_id
        logits = task.model(np.array([ids], np.int32)).numpy()[0, place, : tokenizer.vocab_size]
        order = np.argsort(-logits)[:5]
        chances = np.exp(logits - logits.max())
        chances /= chances.sum()
        assert_rounded(given["probabilities"][row], chances[order], ADDITIONS)
        told = [token.decode() for token in given["tokens"][row].numpy()]
        graph_bytes = tokenizer.graph().token_bytes.numpy()
        assert told == [graph_bytes[i].decode() for i in order]
    assert not any(given["tokens"][1].numpy())


def test_what_is_cut_off_is_counted(task, tmp_path):
    words = 9 * "the " + "[MASK]"
    texts = ["the [MASK]", words, "the " + words, "the " * 40]
    filled = task.signatures["serving_default"](text=tf.constant(texts))
    assert [error.decode() for error in filled["error"].numpy()] == [
        "",
        "",
        "the mask token comes after the first 10 tokens, at which the text is truncated",
        "the text has no mask token",
    ]
    for outputs in (filled, task.signatures["score"](text=tf.constant(texts))):
        assert outputs["truncated_tokens"].numpy().tolist() == [0, 0, 1, 30]
    answers = task.predict([{"text": text} for text in texts])
    assert [answer["truncated_tokens"] for answer in answers] == [0, 0, 1, 30]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS if text != ""))
    result = evaluate(task, file, task="masked_language_model")
    assert result.notes == (
        "1 of 4 records are longer than the model's maximum length and were truncated "
        "(see truncated_tokens of each answer)",
    )


def test_a_score_is_that_of_the_hidden_tokens(task, tokenizer):
    given = {k: v.numpy() for k, v in task.signatures["score"](text=tf.constant(TEXTS)).items()}
    for row, text in enumerate(TEXTS):
        ids = np.array([tokenizer.encode(text)], np.int32)
        if len(ids[0]) > 12:
            ids = np.concatenate([ids[:, :11], ids[:, -1:]], 1)
        masking = token_masking(tokenizer, 0)
        rows = mask_tokens(
            tf.constant(ids), tf.constant(ids >= 0), -1, masking, task.model.config.vocab_size
        )
        hidden = rows.hidden.numpy()[0]
        logits = tf.nn.log_softmax(task.model(rows.token_ids))[0].numpy()[hidden]
        labels = ids[0][hidden]
        assert given["num_hidden"][row] == len(labels) == (max(1, round(0.15 * (len(ids[0]) - 2)))
                                                           if text else 0)  # fmt: skip
        assert given["num_right"][row] == (logits.argmax(-1) == labels).sum()
        chosen = logits[np.arange(len(labels)), labels].sum()
        assert given["log_prob"][row] == about(chosen, ADDITIONS)
    predictions = task.predict([{"text": text} for text in TEXTS if text])
    accuracy, perplexity = MaskedText().metrics([], predictions)
    total = given["num_hidden"].sum()
    assert accuracy.value == in_double(given["num_right"].sum() / total)
    assert perplexity.value == about(np.exp(-given["log_prob"].sum() / total), len(TEXTS))
    assert not perplexity.higher_is_better


@pytest.mark.slow
def test_what_it_learned_is_where_other_tasks_begin(tmp_path, monkeypatch):
    monkeypatch.setattr("tfllm.training.worker_run.matmul_peak", lambda dtype: 1e9)
    monkeypatch.setattr(MaskedText, "max_evaluated_records", 0)
    words = ["lovely", "great", "awful", "poor"]
    rows = [{"text": f"a {words[i % 4]} day {i}", "label": "ab"[i % 2]} for i in range(24)]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"sequence_length": 12, "batch_size": 8, "steps": 1, "precision": "float32"}
    first = train(data, tmp_path / "first", TINY_ENCODER, task="masked_language_model",
                  verbose=False, **settings)  # fmt: skip
    assert type(pretrained.load(first.model_folder).model) is MaskedLanguageModel
    moved = 1e-11  # one step at that rate, which AdamW makes at most some times as large
    # On with its head, and with another head on its encoder.
    for task in ("masked_language_model", "classification"):
        more = train(data, tmp_path / task, str(first.model_folder), task=task, verbose=False,
                     **{**settings, "learning_rate": 1e-12, "weight_decay": 0.0})  # fmt: skip
        before, after = (run.model.encoder.blocks[0].attention for run in (first, more))
        for one, other in zip(before.weights, after.weights, strict=True):
            assert_within(one, other, moved + rounding(1, one))
    bias = pretrained.load(tmp_path / "masked_language_model").model.output_bias
    assert_within(bias, first.model.output_bias, moved + rounding(1, bias))
