"""Classification beyond the contract: labels, pairs of texts, truncation, Classify."""

import functools
import json
import random

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.message import DecodeError

from tests.rounding import about, assert_within, rounding, weight_rounding
from tests.tasks.tiny_cases import TINY_ENCODER, prepare_task
from tfllm.config import ConfigError, PrepareConfig
from tfllm.data.reading.table_records import Record
from tfllm.models.encoder_config import EncoderConfig
from tfllm.models.heads.sequence_classifier import SequenceClassifier
from tfllm.serving import Client, ModelServer, export
from tfllm.tasks.encoder.classification import Classification
from tfllm.tasks.encoder.encoder_inputs import encoder_inputs
from tfllm.tasks.encoder.encoder_task import encoded_texts
from tfllm.tasks.encoder.text_classifier import TextClassifier, serialized_example
from tfllm.tasks.example_messages import example_texts
from tfllm.tokenizers.kinds.word_piece import WordPiece

TEXTS = ["the cat sat on the mat", "a dog ran", "naïve 你好", "", "the " * 40]


@pytest.fixture(scope="module")
def tokenizer():
    return WordPiece.train([*TEXTS, "good bad odd even"], 120)


def classifier(tokenizer, information):
    sizes = {"vocab_size": tokenizer.vocab_size, **TINY_ENCODER}
    model = SequenceClassifier(EncoderConfig(**sizes), label_names=information["labels"])
    rng = np.random.default_rng(1)
    for weight in model.weights:  # so large that texts have different probabilities
        if "norm" not in weight.path and "seed" not in weight.path:
            weight.assign(rng.normal(0, 0.4, weight.shape))
    return TextClassifier(model, tokenizer, information)


def probabilities(served, rows):
    """Float64 [rows, labels]; of a row with an error none."""
    return np.array([list(a["probabilities"].values()) for a in served.predict(rows)])


def bound_of(served, rows):
    """What rounding may do to each row's probabilities, themselves the quotients of a softmax."""
    bound = weight_rounding(served.model, lambda: probabilities(served, rows))
    return bound + rounding(len(served.information["labels"]))


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
    inputs, num_truncated = encoder_inputs(tokenizer, graph, tf.constant(TEXTS), second, length)
    for row, (text, other) in enumerate(zip(TEXTS, seconds, strict=True)):
        wanted = encoded_texts(tokenizer, text, other, length)
        mask = inputs["padding_mask"][row].numpy()
        assert mask.sum() <= length
        for name in ("token_ids", "token_type_ids"):
            given = inputs[name][row].numpy()[mask]
            np.testing.assert_array_equal(given, wanted[name], err_msg=f"{name} of {text!r}")
        assert num_truncated[row] == wanted["truncated"][0]


def test_labels_are_those_of_training_in_the_alphabets_order():
    task = Classification()
    rows = records({"text": "a", "label": "spam"}, {"text": "b", "label": "ham"})
    assert task.information(rows) == {"labels": ["ham", "spam"], "pairs": False}
    with pytest.raises(ValueError, match="at least two labels; all 2 training records have 'x'"):
        task.information(records({"text": "a", "label": "x"}, {"text": "b", "label": "x"}))
    one = {"text": "a", "label": "x", "second_text": "c"}
    with pytest.raises(ValueError, match="1 of 2 have one, but line 2 has none"):
        task.information(records(one, {"text": "b", "label": "y"}))


def test_a_label_that_only_the_validation_records_have_is_named(tmp_path):
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(20)]
    data = write(tmp_path / "train.jsonl", rows)
    other = write(tmp_path / "validation.jsonl", [{"text": "new", "label": "c"}])
    config = PrepareConfig(validation=(str(other),), vocab_size=80)
    with pytest.raises(
        ValueError,
        match=r"validation\.jsonl, line 1 \(validation\): the label 'c'.*not go beyond the",
    ):
        prepare_task(Classification(), data, tmp_path / "out", config, sequence_length=8)
    config = PrepareConfig(validation=(str(other),), vocab_size=80, skip_bad_records=True)
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
        "they are held out for validation, by validation_fraction",
    ):
        prepare_task(Classification(), data, tmp_path / "out", sequence_length=8)


def test_records_are_divided_by_their_texts_and_copies_stay_together(tmp_path):
    rows = [{"text": f"text {i % 30}", "label": "ab"[i % 2]} for i in range(60)]
    data = write(tmp_path / "a.jsonl", rows)
    config = PrepareConfig(validation_fraction=0.3, vocab_size=80)
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
    config = PrepareConfig(validation_fraction=0.2, vocab_size=80)
    data = prepare_task(
        Classification(),
        write(tmp_path / "a.jsonl", rows),
        tmp_path / "out",
        config,
        sequence_length=16,
    )
    (note,) = data.notes()
    assert note.startswith("10 of 20 examples are longer than 16 tokens and were truncated")


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
    assert sum(local[0]["probabilities"].values()) == about(1, 3)
    bounds = bound_of(served, rows[::2])
    export(served, tmp_path / "pairs")
    with ModelServer(tmp_path, rest_port=0, grpc_port=0) as server:
        for protocol, address in (("rest", server.rest_address), ("grpc", server.grpc_address)):
            with Client(address, model="pairs", protocol=protocol) as client:
                signatures = client.metadata()["metadata"]["signature_def"]["signature_def"]
                assert signatures["classify"]["method_name"] == "tensorflow/serving/classify"
                given = client.classify(rows)
            assert given[1] == [("error: the text is empty", 0.0), ("", 0.0), ("", 0.0)]
            for answer, classes, bound in zip(local[::2], given[::2], bounds, strict=True):
                assert [label for label, _ in classes] == ["bad", "good", "odd"]
                wanted = [answer["probabilities"][label] for label, _ in classes]
                assert_within([score for _, score in classes], wanted, bound)


def feature(kind, *values):
    lists = {"bytes": tf.train.BytesList, "int64": tf.train.Int64List, "float": tf.train.FloatList}
    return tf.train.Feature(**{f"{kind}_list": lists[kind](value=values)})


def message(**features):
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def test_a_bad_message_is_refused_and_the_others_of_its_batch_are_answered(tokenizer):
    served = classifier(tokenizer, {"labels": ["a", "b"]})
    good = serialized_example({"text": "the cat", "other": "x"})
    bad = {
        b"": "the message has no such feature",
        b"\xff\xff": "cannot be read",
        good[:-1]: "cannot be read",
        b"\x0a\xff\xff\xff\xff\x7f": "cannot be read",
        serialized_example({"other": "x"}): "the message has no such feature",
        message(text=feature("int64", 3)): "received int64_list",
        message(text=feature("float", 0.5, 1.5)): "received float_list",
        message(text=tf.train.Feature()): "received nothing",
        message(text=feature("bytes")): "received 0 values",
        message(text=feature("bytes", b"a", b"b")): "received 2 values",
        message(**{f"x{i}": feature("bytes") for i in range(1001)}): "cannot be read",
        serialized_example({"text": " "}): "the text is empty",
    }
    function = served.signatures["classify"]
    found = function(tf.constant([good, *bad, good]))
    classes, scores = found["classes"].numpy(), found["scores"].numpy()
    (alone,) = function(tf.constant([good]))["scores"].numpy()
    for row in (0, -1):
        assert classes[row].tolist() == [b"a", b"b"]
        assert_within(scores[row], alone, bound_of(served, [{"text": "the cat"}])[0])
    for reason, labels, row in zip(bad.values(), classes[1:-1], scores[1:-1], strict=True):
        assert labels[0].startswith(b"error: ") and reason in labels[0].decode()
        assert labels[1] == b"" and row.tolist() == [0, 0]


def test_messages_are_read_as_protocol_buffers_reads_them():
    """Whole ones and damaged ones, against the parser of protobuf."""
    rng = random.Random(0)
    kinds = [feature("bytes", text) for text in (b"a", b"", b"w" * 200, "é\0".encode())] * 4
    kinds += [feature("int64", 3), feature("bytes", b"a", b"b"), feature("float"), None]

    def written():
        chosen = {name: rng.choice(kinds) for name in ("text", "other", "second")}
        content = bytearray(message(**{n: f for n, f in chosen.items() if f is not None}))
        if rng.random() < 0.1:  # a second message behind it counts over it, as a context does
            content += message(text=feature("bytes", b"later"))
        if content and rng.random() < 0.5:
            place = rng.randrange(len(content))
            content[place : place + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 2))
        return bytes(content)

    def expected(content):
        try:
            features = tf.train.Example.FromString(content).features.feature
        except DecodeError:
            return None
        lists = [features[n].bytes_list.value for n in ("text", "second") if n in features]
        return [values[0] for values in lists if len(values) == 1]

    messages = [written() for _ in range(1500)]
    texts, error = tf.function(lambda x: example_texts(x, ("text", "second")))(
        tf.constant(messages)
    )
    answered = refused = 0
    columns = [t.numpy() for t in (*texts, error)]
    for content, *given, problem in zip(messages, *columns, strict=True):
        wanted = expected(content)
        if wanted is not None and len(wanted) == 2:
            assert not problem and given == wanted, content
            answered += 1
        elif wanted is not None:
            assert problem, content
            refused += 1
    assert answered > 500 and refused > 100


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_other_dtypes_answer_nearly_alike(tokenizer, dtype):
    served = classifier(tokenizer, {"labels": ["a", "b"]})
    texts = [{"text": text} for text in TEXTS[:3]]
    # A weight that is rounded to int8 is off by 2 / 127 / sqrt(12) of its row's deviation, in the
    # mean, which is less than the 2 u of bfloat16 by which the bound's weights are moved.
    run = functools.partial(probabilities, served, texts)
    bound = weight_rounding(served.model, run, "bfloat16")
    assert_within(probabilities(served.with_dtype(dtype), texts), run(), bound)
    assert np.ptp(run(), axis=0).min() > 0.1


def test_the_model_must_be_an_encoder(tmp_path, tiny_model, tokenizer):
    from tfllm.pretrained import save

    folder = save(tiny_model, tmp_path / "llama")
    with pytest.raises(ConfigError, match="needs an encoder"):
        Classification().pretrained_config(str(folder))
    with pytest.raises(ConfigError, match="encoder size 'bert-tny'; did you mean 'bert-tiny'"):
        Classification().new_config("bert-tny", {"vocab_size": 60})
