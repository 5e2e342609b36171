"""BERT folders, read and written, compared with `transformers` (see record_encoders.py)."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file, save_file

from tests.pretrained.record_encoders import MINILM_REFERENCE, REFERENCES
from tests.rounding import assert_within, weight_rounding
from tfllm import pretrained
from tfllm.config import ConfigError, ModelConfig
from tfllm.models.causal_lm import CausalLM
from tfllm.models.encoder import Encoder
from tfllm.models.encoder_config import EncoderConfig
from tfllm.models.heads.masked_language_model import MaskedLanguageModel
from tfllm.models.heads.sentence_encoder import SentenceEncoder
from tfllm.models.heads.sequence_classifier import SequenceClassifier
from tfllm.models.heads.span_classifier import SpanClassifier
from tfllm.models.heads.token_classifier import TokenClassifier
from tfllm.pretrained.hugging_face.bert_config import BERT, read_labels

CLASSES = {
    "model": Encoder,
    "masked": MaskedLanguageModel,
    "sequence": SequenceClassifier,
    "sequence_two": SequenceClassifier,
    "token": TokenClassifier,
    "question": SpanClassifier,
}
NAMES = list(CLASSES)
LABELS = ("ham", "spam", "not sure")


@functools.cache
def model(name, dtype="float32"):
    return pretrained.load(REFERENCES / name, dtype=dtype).model


@functools.cache
def recorded(name):
    return dict(np.load(REFERENCES / name / "reference.npz"))


def inputs_of(name):
    return {key: recorded(name)[key] for key in ("token_ids", "token_type_ids", "padding_mask")}


def computed(given_model, inputs):
    """What is recorded, by our model."""
    if not isinstance(given_model, Encoder):
        return {"logits": given_model(inputs).numpy()}
    states = given_model(inputs)
    return {"states": states.numpy(), "pooled": given_model.pooled(states).numpy()}


@functools.cache
def bounds(name, dtype="float32"):
    """Of each vector of what is recorded."""
    return weight_rounding(model(name), lambda: computed(model(name), inputs_of(name)), dtype)


def close(name, given, expected, dtype="float32"):
    mask = recorded(name)["padding_mask"]
    for key, value in given.items():
        theirs, bound = expected[key], bounds(name, dtype)[key]
        if value.shape[:2] == mask.shape:  # what stands at padding means nothing
            value, theirs, bound = value[mask], theirs[mask], bound[mask]
        assert_within(value, theirs, bound, key)


@pytest.fixture
def folder_of(tmp_path):
    """A copy of a recorded folder, some keys of its config.json changed, tensors renamed."""

    def copy(name, rename=lambda tensors: tensors, **changes):
        folder = tmp_path / "copy"
        shutil.copytree(REFERENCES / name, folder, ignore=shutil.ignore_patterns("reference.npz"))
        values = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(values))
        if (folder / "model.safetensors").exists():
            tensors = load_file(folder / "model.safetensors")
            save_file(rename(tensors), folder / "model.safetensors")
        return folder

    return copy


def test_every_recorded_folder_is_tested():
    assert sorted(NAMES) == sorted(path.name for path in REFERENCES.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_a_padded_batch_gives_what_transformers_gives(name):
    assert type(model(name)) is CLASSES[name]
    close(name, computed(model(name), inputs_of(name)), recorded(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_row_gives_alone_what_it_gives_beside_longer_ones(name):
    inputs, expected = inputs_of(name), recorded(name)
    for row, length in enumerate(inputs["padding_mask"].sum(1)):
        alone = {key: value[row : row + 1, :length] for key, value in inputs.items()}
        del alone["padding_mask"]
        for key, value in computed(model(name), alone).items():
            whole, bound = expected[key][row], bounds(name)[key][row]
            if value.ndim == 3:
                whole, bound = whole[:length], bound[:length]
            assert_within(value[0], whole, bound, key)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_near(name):
    close(name, computed(model(name, "bfloat16"), inputs_of(name)), recorded(name), "bfloat16")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_the_same_model(name, tmp_path):
    folder = pretrained.save(model(name), tmp_path / "model")
    assert json.loads((folder / "tfllm.json").read_text())["transformers"] is True
    stored = json.loads((REFERENCES / name / "config.json").read_text())
    values = json.loads((folder / "config.json").read_text())
    for key in ("model_type", "architectures", "hidden_act", "layer_norm_eps", "type_vocab_size"):
        assert values[key] == stored[key]
    again = pretrained.load(folder).model
    assert type(again) is CLASSES[name] and again.config == model(name).config
    before, after = (computed(m, inputs_of(name)) for m in (model(name), again))
    for key, value in before.items():
        np.testing.assert_array_equal(value, after[key])


def test_labels_keep_their_names_and_a_task_may_name_them(tmp_path):
    assert model("sequence").label_names == model("token").label_names == LABELS
    assert model("sequence_two").label_names == ("LABEL_0", "LABEL_1")
    folder = pretrained.save(model("sequence"), tmp_path / "model")
    assert pretrained.load(folder).model.label_names == LABELS
    task = {"name": "classification", "information": {"labels": ["a", "b", "c"]}}
    pretrained.save(model("sequence"), folder, task=task)
    assert pretrained.load(folder).model.label_names == ("a", "b", "c")
    assert pretrained.task_of(folder) == task


def test_the_task_of_a_folder_that_others_wrote(tmp_path):
    information = {"labels": list(LABELS)}
    given = {"name": "classification", "information": information}
    assert pretrained.task_of(REFERENCES / "sequence") == given
    assert pretrained.task_of(REFERENCES / "masked") is None
    pretrained.save(model("masked"), tmp_path / "model")
    assert pretrained.task_of(tmp_path / "model") is None
    (tmp_path / "model" / "tfllm.json").write_text('{"task": "x"}')
    with pytest.raises(ValueError, match=r"tfllm\.json: task must have a name.*'x'"):
        pretrained.task_of(tmp_path / "model")


@pytest.mark.parametrize("name", NAMES)
def test_the_encoder_is_taken_out_of_any_of_them(name):
    encoder, tokenizer = pretrained.load_encoder(REFERENCES / name)
    assert isinstance(encoder, Encoder) and tokenizer is None
    whole = model(name) if name == "model" else model(name).encoder
    np.testing.assert_array_equal(encoder(inputs_of(name)), whole(inputs_of(name)))


def test_no_encoder_is_taken_out_of_a_causal_model(tmp_path):
    config = ModelConfig(vocab_size=11, embedding_dim=4, num_layers=1, num_heads=1)
    folder = pretrained.save(CausalLM(config), tmp_path / "model")
    with pytest.raises(ValueError, match=r"read from a BERT.*received the class CausalLM"):
        pretrained.load_encoder(folder)


def test_no_text_is_generated_by_an_encoder():
    from tfllm.tasks import TextGeneration

    with pytest.raises(ValueError, match=r"causal language model; .* of the class Encoder"):
        TextGeneration.load(REFERENCES / "model")


def old_names(tensors):
    """As in the first BERT folders: other names of norms, constants, the other task's weights."""
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in tensors.items()
    }
    return old | {
        "bert.embeddings.position_ids": np.arange(29)[np.newaxis],
        "bert.pooler.dense.weight": np.zeros((18, 18), np.float32),
        "bert.pooler.dense.bias": np.zeros(18, np.float32),
        "cls.seq_relationship.weight": np.zeros((2, 18), np.float32),
        "cls.seq_relationship.bias": np.zeros(2, np.float32),
        "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"],
        "cls.predictions.decoder.bias": tensors["cls.predictions.bias"],
    }


def test_the_names_of_the_first_bert_are_known(folder_of):
    folder = folder_of("masked", old_names, architectures=["BertForPreTraining"])
    given = computed(pretrained.load(folder).model, inputs_of("masked"))
    close("masked", given, recorded("masked"))


def test_a_copy_that_is_none_is_refused(folder_of):
    def changed(tensors):
        bias = tensors["cls.predictions.bias"] + 1
        return old_names(tensors) | {"cls.predictions.decoder.bias": bias}

    with pytest.raises(ValueError, match=r"decoder\.bias is equal to cls.*\.bias.*differ"):
        pretrained.load(folder_of("masked", changed))


def test_an_encoder_saved_with_or_without_prefix_and_pooler(folder_of):
    def changed(tensors):
        return {f"bert.{k}": v for k, v in tensors.items() if not k.startswith("pooler")}

    encoder = pretrained.load(folder_of("model", changed)).model
    assert encoder.pooler is None and model("model").pooler is not None
    np.testing.assert_array_equal(encoder(inputs_of("model")), model("model")(inputs_of("model")))


def test_no_weight_is_missing_or_left_over(folder_of, tmp_path):
    with pytest.raises(
        ValueError, match=r"contain weights that the model in config\.json does not have"
    ):
        pretrained.load(
            folder_of("sequence", lambda t: t | {"extra.weight": np.zeros(3, np.float32)})
        )
    shutil.rmtree(tmp_path / "copy")
    with pytest.raises(ValueError, match=r"lack weights of the model: classifier\.bias"):
        pretrained.load(
            folder_of("sequence", lambda t: {k: v for k, v in t.items() if k != "classifier.bias"})
        )


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"architectures": ["BertForMultipleChoice"]}, "architectures.*BertForMultipleChoice"),
        ({"problem_type": "regression"}, "problem_type.*'regression'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type.*'relative_key'"),
        ({"is_decoder": True}, "is_decoder.*True"),
        ({"id2label": {"0": "x", "2": "y"}}, "id2label.*'2'"),
        ({"id2label": {"0": "x", "1": "x"}}, "different names.*'x'"),
        ({"hidden_act": "quick_gelu"}, "did you mean 'gelu'"),
        ({"attention_probs_dropout_prob": "0.3"}, "attention_probs_dropout_prob must not be text"),
        ({"hidden_size": "18"}, "embedding_dim must not be text"),
        ({"hidden_size": None}, "no 'hidden_size'"),
        ({"num_attention_heads": 4}, r"divisible by num_heads \(4\); received 18"),
    ],
)
def test_what_is_not_supported_is_refused_by_its_name(changes, error, folder_of):
    with pytest.raises(ConfigError, match=rf"config\.json.*{error}"):
        pretrained.load(folder_of("sequence", **changes))


def test_dropouts_that_differ_are_refused_in_training_alone(folder_of, tmp_path):
    folder = folder_of("sequence", attention_probs_dropout_prob=0.3)
    reference = np.load(REFERENCES / "sequence" / "reference.npz")
    model = pretrained.load(folder).model
    inputs = {k: reference[k] for k in ("token_ids", "token_type_ids", "padding_mask")}
    assert_within(model(inputs), reference["logits"], bounds("sequence")["logits"])
    encoder, _ = pretrained.load_encoder(folder)
    head = SequenceClassifier(encoder, num_labels=3)
    head.save(tmp_path / "head.keras")
    stored = keras.models.load_model(tmp_path / "head.keras")
    saved = pretrained.load(pretrained.save(head, tmp_path / "head")).model
    again = SequenceClassifier(stored.encoder, num_labels=3)
    for refused in (model, head, head.with_dtype("bfloat16"), stored, again, saved):
        refused.compile("adam")
        with pytest.raises(ValueError, match=r"_prob=0\.1, attention_probs_dropout_prob=0\.3"):
            refused.fit(inputs, np.zeros(len(reference["token_ids"]), np.int32), verbose=0)


def test_a_value_of_another_kind_is_read_as_what_it_says_or_refused():
    values, refused = json.loads((REFERENCES / "sequence" / "config.json").read_text()), 0
    odd = ("x", "", "3", -1, 0, 2.5, 1e300, True, None, [], [1], {}, {"x": 1}, [{}])
    for key in values:
        for value in odd:
            try:
                changed = {**values, key: value}
                assert isinstance(BERT.read(changed, "config.json", None), EncoderConfig)
                assert read_labels(changed, "config.json")["num_labels"] >= 2
            except ConfigError as error:
                assert "config.json" in str(error)
                refused += 1
    assert refused > 50


# ------------------------------------------------------------------ sentence vectors


@pytest.fixture
def sentence_folder(tmp_path):
    """A folder in the layout of sentence-transformers, its encoder with a pooler."""
    encoder = model("model").with_dtype("float32")
    task = {"name": "embedding", "information": {"sequence_length": 17}}
    return pretrained.save(SentenceEncoder(encoder), tmp_path / "sentence", task=task)


def test_a_sentence_encoder_comes_back_with_its_pooler(sentence_folder):
    again = pretrained.load(sentence_folder).model
    assert type(again) is SentenceEncoder and again.encoder.pooler is not None
    inputs = inputs_of("model")
    states, mask = recorded("model")["states"], inputs["padding_mask"][..., np.newaxis]
    mean = (states * mask).sum(1) / mask.sum(1)
    expected = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    # The mean, whose error is at most the states'; then divided by its length.
    bound = bounds("model")["states"].max() / np.linalg.norm(mean, axis=-1).min()
    assert_within(again(inputs), expected, bound)
    (sentence_folder / "tfllm.json").unlink()
    known = {"name": "embedding", "information": {"sequence_length": 17}}
    assert pretrained.task_of(sentence_folder) == known


def test_a_saved_sentence_encoder_is_replaced(sentence_folder):
    pretrained.save(SentenceEncoder(model("model").config), sentence_folder)
    pretrained.save(model("model"), sentence_folder)
    assert type(pretrained.load(sentence_folder).model) is Encoder


@pytest.mark.parametrize(
    ("file", "old", "new", "error"),
    [
        (
            "1_Pooling/config.json",
            '"pooling_mode_mean_tokens"',
            '"pooling_mode_median_tokens"',
            r"pooling_mode must be one of cls, .*received \['pooling_mode_median_tokens'\]",
        ),
        (
            "1_Pooling/config.json",
            '"pooling_mode_mean_tokens": true',
            '"pooling_mode": ["mean", "median"]',
            r"pooling_mode must be one of cls, .*received \['mean', 'median'\]",
        ),
        ("modules.json", "Normalize", "Dense", "received Transformer, Pooling, Dense"),
        ("modules.json", "[", "", "damaged or cut short"),
    ],
)
def test_another_pooling_is_refused_by_name(sentence_folder, file, old, new, error):
    path = Path(sentence_folder / file)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=error):
        pretrained.load(sentence_folder)
    encoder, _ = pretrained.load_encoder(sentence_folder)
    np.testing.assert_array_equal(encoder(inputs_of("model")), model("model")(inputs_of("model")))


@pytest.mark.slow  # MiniLM, 90 MB
def test_minilm_gives_the_sentence_vectors_of_its_makers(minilm_folder):
    expected = np.load(MINILM_REFERENCE)
    inputs = {key: tf.constant(expected[key]) for key in ("token_ids", "padding_mask")}
    exact = pretrained.load(minilm_folder).model
    assert type(exact) is SentenceEncoder
    run = tf.function(lambda: exact(inputs))
    for dtype in ("float32", "bfloat16"):
        given = pretrained.load(minilm_folder, dtype=dtype).model(inputs)
        assert_within(given, expected["vectors"], weight_rounding(exact, run, dtype))
