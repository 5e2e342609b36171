"""Classification beyond the contract: labels, pairs of texts, what is cut off, Classify."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks.tiny_cases import TINY_ENCODER
from tfllm.config import ConfigError
from tfllm.data import TaskDataConfig
from tfllm.data.table_records import Record
from tfllm.models.encoder_config import EncoderConfig
from tfllm.models.sequence_classifier import SequenceClassifier
from tfllm.serving import Client, ModelServer, export
from tfllm.tasks.classification import Classification, TextClassifier, serialized_example
from tfllm.tasks.encoder_inputs import encoder_inputs
from tfllm.tasks.encoder_task import encoded_texts
from tfllm.tokenizers.word_piece import WordPiece
from tfllm.training.task_preparation import prepare_task

TEXTS = ["the cat sat on the mat", "a dog ran", "naïve 你好", "", "the " * 40]


@pytest.fixture(scope="module")
def tokenizer():
    return WordPiece.train([*TEXTS, "good bad odd even"], 120)


def classifier(tokenizer, information):
    sizes = {"vocab_size": tokenizer.vocab_size, **TINY_ENCODER}
    model = SequenceClassifier(EncoderConfig(**sizes), label_names=information["labels"])
    return TextClassifier(model, tokenizer, information)


def records(*rows):
    return [Record(row, f"line {number}") for number, row in enumerate(rows, 1)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("length", [4, 7, 12, 100])
@pytest.mark.parametrize("pairs", [False, True])
def test_the_graph_makes_the_inputs_that_training_made(tokenizer, length, pairs):
    seconds = [*TEXTS[1:], TEXTS[0]] if pairs else [None] * len(TEXTS)
    graph = tokenizer.graph()
    second = tf.constant(seconds) if pairs else None
    inputs, num_cut = encoder_inputs(tokenizer, graph, tf.constant(TEXTS), second, length)
    for row, (text, other) in enumerate(zip(TEXTS, seconds, strict=True)):
        wanted = encoded_texts(tokenizer, text, other, length)
        mask = inputs["padding_mask"][row].numpy()
        assert mask.sum() <= length
        for name in ("token_ids", "token_type_ids"):
            given = inputs[name][row].numpy()[mask]
            np.testing.assert_array_equal(given, wanted[name], err_msg=f"{name} of {text!r}")
        assert num_cut[row] == wanted["truncated"][0]


def test_labels_are_those_of_training_in_the_alphabets_order():
    task = Classification()
    rows = records({"text": "a", "label": "spam"}, {"text": "b", "label": "ham"})
    assert task.information(rows) == {"labels": ["ham", "spam"], "pairs": False}
    with pytest.raises(ValueError, match="at least two labels; all 2 training records have 'x'"):
        task.information(records({"text": "a", "label": "x"}, {"text": "b", "label": "x"}))
    one = {"text": "a", "label": "x", "second_text": "c"}
    with pytest.raises(ValueError, match="1 of 2 have one, and line 2 has none"):
        task.information(records(one, {"text": "b", "label": "y"}))


def test_a_label_that_only_the_validation_records_have_is_named(tmp_path):
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(20)]
    data = write(tmp_path / "train.jsonl", rows)
    other = write(tmp_path / "validation.jsonl", [{"text": "new", "label": "c"}])
    config = TaskDataConfig(validation=(str(other),), vocab_size=80)
    with pytest.raises(
        ValueError,
        match=r"validation\.jsonl, line 1 \(validation\): the label 'c'.*known from training",
    ):
        prepare_task(Classification(), data, tmp_path / "out", config, sequence_length=8)
    config = TaskDataConfig(validation=(str(other),), vocab_size=80, skip_bad_records=True)
    with pytest.warns(UserWarning, match="1 bad record was skipped"):
        found = prepare_task(Classification(), data, tmp_path / "out", config, sequence_length=8)
    assert found.train.num_examples == 20
    assert found.train.longest == max(len(found.train.example(i)["token_ids"]) for i in range(20))
    assert found.validation.num_examples == 0


def test_a_label_that_only_the_records_kept_for_validation_have_is_explained(tmp_path):
    data = write(tmp_path / "a.jsonl", [{"text": t, "label": t} for t in "ab"])
    with pytest.raises(
        ValueError,
        match=r"at least two labels; all 1 training .*\(1 of 2 records are not among them: "
        "validation_fraction keeps",
    ):
        prepare_task(Classification(), data, tmp_path / "out", sequence_length=8)


def test_records_are_divided_by_their_texts_and_copies_stay_together(tmp_path):
    rows = [{"text": f"text {i % 30}", "label": "ab"[i % 2]} for i in range(60)]
    data = write(tmp_path / "a.jsonl", rows)
    config = TaskDataConfig(validation_fraction=0.3, vocab_size=80)
    found = prepare_task(Classification(), data, tmp_path / "one", config, sequence_length=8)
    kept = {record["text"] for record in found.validation_records()}
    assert 5 <= len(kept) <= 13
    assert found.validation.num_documents == sum(row["text"] in kept for row in rows)
    again = prepare_task(Classification(), data, tmp_path / "one", config, sequence_length=8)
    assert again.manifest == found.manifest
    with pytest.raises(ValueError, match="prepared with sequence_length = 8; received 9"):
        prepare_task(Classification(), data, tmp_path / "one", config, sequence_length=9)


def test_what_is_cut_off_is_counted(tmp_path):
    rows = [{"text": f"{'long ' * 30 * (i % 2)}{i}", "label": "ab"[i // 10]} for i in range(20)]
    config = TaskDataConfig(validation_fraction=0.2, vocab_size=80)
    data = prepare_task(
        Classification(),
        write(tmp_path / "a.jsonl", rows),
        tmp_path / "out",
        config,
        sequence_length=16,
    )
    (note,) = data.notes()
    assert note.startswith("10 of 20 examples are longer than 16 tokens and lose their ends")


def test_batches_are_as_wide_as_their_longest(tmp_path, tokenizer):
    task, information = Classification(), {"labels": ["a", "b"], "pairs": False}
    examples = [
        task.examples(Record({"text": text, "label": "b"}), tokenizer, information, 100)[0]
        for text in ("short", "the " * 40)
    ]
    for example in examples:
        example.pop("truncated")
    assert task.batch(examples[:1], 100).inputs["token_ids"].shape == (1, 32)
    batch = task.batch(examples, 100)
    assert batch.inputs["token_ids"].shape[1] in (64, 96)
    assert batch.inputs["padding_mask"].sum(1).tolist() == [len(e["token_ids"]) for e in examples]
    assert batch.labels.tolist() == [1, 1]
    assert task.batch(examples, 40).inputs["token_ids"].shape == (2, 40)
    assert task.batch([], 100).inputs["token_ids"].shape == (0, 0)


def test_classify_answers_over_rest_and_grpc(tokenizer, tmp_path):
    information = {"labels": ["bad", "good", "odd"], "pairs": True, "sequence_length": 16}
    served = classifier(tokenizer, information)
    rows = [
        {"text": "the cat sat", "second_text": "a dog"},
        {"text": "", "second_text": "a dog"},
        {"text": "the " * 40, "second_text": ""},
    ]
    local = served.predict(rows)
    assert [answer["error"] for answer in local] == ["", "the text is empty", ""]
    assert local[2]["truncated_tokens"] > 20
    assert sum(local[0]["probabilities"].values()) == pytest.approx(1)
    export(served, tmp_path / "pairs")
    with ModelServer(tmp_path, rest_port=0, grpc_port=0) as server:
        for protocol, address in (("rest", server.rest_address), ("grpc", server.grpc_address)):
            with Client(address, model="pairs", protocol=protocol) as client:
                signatures = client.metadata()["metadata"]["signature_def"]["signature_def"]
                assert signatures["classify"]["method_name"] == "tensorflow/serving/classify"
                given = client.classify(rows)
            for answer, classes in zip(local, given, strict=True):
                assert [label for label, _ in classes] == ["bad", "good", "odd"]
                for label, score in classes:
                    assert score == pytest.approx(answer["probabilities"][label], abs=1e-6)


def test_a_message_without_the_feature_is_an_empty_text(tokenizer):
    served = classifier(tokenizer, {"labels": ["a", "b"]})
    found = served.signatures["classify"](
        tf.constant([serialized_example({"text": "the cat"}), serialized_example({"other": "x"})])
    )
    scores = found["scores"].numpy()
    assert scores[0].sum() == pytest.approx(1)
    assert scores[1].tolist() == [0, 0]


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_other_dtypes_answer_nearly_alike(tokenizer, dtype):
    served = classifier(tokenizer, {"labels": ["a", "b"]})
    texts = [{"text": text} for text in TEXTS[:3]]
    for here, there in zip(
        served.predict(texts), served.with_dtype(dtype).predict(texts), strict=True
    ):
        assert here["probabilities"]["a"] == pytest.approx(there["probabilities"]["a"], abs=0.02)


def test_the_model_must_be_an_encoder(tmp_path, tiny_model, tokenizer):
    from tfllm.pretrained import save

    folder = save(tiny_model, tmp_path / "llama")
    with pytest.raises(ConfigError, match="needs an encoder"):
        Classification().config(str(folder), None, {}, vocab_size=60, sequence_length=8)
    with pytest.raises(ConfigError, match="did you mean 'bert-tiny'"):
        Classification().config(None, "bert-tny", {}, vocab_size=60, sequence_length=8)
