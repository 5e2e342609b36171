"""Labels of -100, class weights, and ids out of range."""

import functools
import re

import keras
import numpy as np
import pytest

import tfllm
from tests.optimization.labelled_models import ENCODER, IDS, LABELS, MODELS, T, V, causal, of
from tests.rounding import about
from tfllm.models.preference_tuning import PreferenceTuning
from tfllm.models.token_masking import TokenMasking

ADDITIONS = 3 * (8 + 4 + T + 8 + 8 + 16) + 8 + V + 4 * T
"""of the deepest, an encoder and a decoder with two attentions: to its loss over the rows"""


every_model = pytest.mark.parametrize("name", MODELS)


@functools.cache
def refusing(name):
    """As `of`, made once for batches that are all refused, so that nothing is learned."""
    return of(name)


def cross_entropy(model, x, y):
    logits = np.asarray(model(x), np.float64)
    logits -= logits.max(-1, keepdims=True)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -np.take_along_axis(log_probs, y[..., np.newaxis], -1)[..., 0]


@every_model
def test_a_label_of_minus_100_does_not_count(name):
    model, x, y = of(name)
    ignored = np.array(y)
    ignored[1:, ...] = -100
    expected = cross_entropy(model, x, y)[:1].mean()
    loss = model.evaluate(x, ignored, verbose=0, return_dict=True)["loss"]
    assert loss == about(expected, ADDITIONS)
    assert model.train_on_batch(x, ignored, return_dict=True)["loss"] == about(expected, ADDITIONS)


@every_model
def test_weights_of_classes_hold_for_each_label(name):
    model, x, y = of(name)
    weights = {int(y.flat[0]): 3.0, int(y.flat[-1]): 0.0}
    of_label = np.vectorize(lambda label: weights.get(int(label), 1.0))(y)
    of_row = np.array([1.0, 2.0, 0.5, 1.0], np.float32)
    losses = cross_entropy(model, x, y)
    total = of_label * (of_row if y.ndim == 1 else of_row[:, np.newaxis])
    fresh, _, _ = of(name)
    for options, used in (({}, of_label), ({"sample_weight": of_row}, total)):
        fresh.set_weights(model.get_weights())
        history = fresh.fit(x, y, batch_size=4, verbose=0, class_weight=weights, **options)
        expected = (losses * used).sum() / used.sum()
        assert history.history["loss"][0] == about(expected, ADDITIONS)
        later = cross_entropy(fresh, x, y).mean()  # and the next call is without them
        assert fresh.evaluate(x, y, verbose=0, return_dict=True)["loss"] == about(later, ADDITIONS)
        assert fresh.train_on_batch(x, y, return_dict=True)["loss"] == about(later, ADDITIONS)


def test_weights_of_classes_and_of_minus_100_with_a_loss_of_keras():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model, x, y = of("functional", loss=loss)
    weights, labels = {int(y[0, 0]): 4.0}, np.array(y)
    labels[2:] = -100
    used = np.where(labels == y[0, 0], 4.0, 1.0) * (labels >= 0)
    expected = (cross_entropy(model, x, y) * used).sum() / used.sum()
    history = model.fit(x, labels, batch_size=4, verbose=0, class_weight=weights)
    assert history.history["loss"][0] == about(expected, ADDITIONS)
    model.compile("sgd", loss="mse")
    with pytest.raises(ValueError, match="class indices"):
        model.fit(x, np.zeros((4, T, V)), verbose=0, class_weight=weights)


def test_weights_of_classes_are_refused_where_they_have_no_meaning():
    model = causal()
    model.compile("sgd")
    for wrong in ({V: 2.0}, {-1: 2.0}, {0: -1.0}, {0: float("nan")}, {"a": 1.0}, {}, [1.0, 2.0]):
        with pytest.raises(ValueError, match="class_weight must"):
            model.fit(IDS, LABELS, verbose=0, class_weight=wrong)
    masked = tfllm.MaskedLanguageModel(
        ENCODER, masking=TokenMasking(mask_token_id=1, special_token_ids=(0,))
    )
    for other in (
        tfllm.SpanClassifier(ENCODER),
        tfllm.SentenceEncoder(ENCODER),
        PreferenceTuning(causal()),
        masked,
    ):
        other.compile("sgd")
        with pytest.raises(ValueError, match=r"class_weight (is|needs)"):
            other.fit(IDS, LABELS, verbose=0, class_weight={0: 2.0})


@every_model
@pytest.mark.parametrize("wrong", [V, -1, -101])
def test_a_label_that_is_no_class_is_an_error_in_words(name, wrong):
    model, x, y = refusing(name)
    labels = np.array(y)
    labels.flat[1] = wrong
    bound = {"rows": "num_labels", "tokens": "num_labels", "functional": "the number of logits"}
    rule = rf"must be at least 0 and below {bound.get(name, 'vocab_size')}={V}; received .*{wrong}"
    for call in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=rule):
            call(x, labels, verbose=0)
    with pytest.raises(ValueError, match=rule):
        model.train_on_batch(x, labels)


@pytest.mark.parametrize("wrong", [V, 2**31 - 1, -1, 2**32 + 1])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "functional"])
def test_a_token_id_outside_the_vocabulary_is_an_error_in_words(name, wrong):
    model, x, y = refusing(name)
    ids = IDS.astype("int64")
    ids[2, 3] = wrong
    x = MODELS[name][1](ids)
    rule = f"token ids must be at least 0 and below vocab_size={V}; received "
    with pytest.raises(ValueError, match=re.escape(rule) + f".*{wrong}"):
        model(x)
    if wrong > 2**31:  # Keras' data adapters keep 64 bits
        return
    for call in (lambda: model.predict(x, verbose=0), lambda: model.evaluate(x, y, verbose=0)):
        with pytest.raises(ValueError, match=re.escape(rule)):
            call()
    with pytest.raises(ValueError, match=re.escape(rule)):
        model.fit(x, y, verbose=0)


def test_a_batch_alone_has_the_words_that_fit_has():
    model, x, y = of("causal_lm")
    x = np.where(x == x[2, 3], V, x)
    for call, given in (
        (model.train_on_batch, (x, y)),
        (model.test_on_batch, (x, y)),
        (model.predict_on_batch, (x,)),
    ):
        with pytest.raises(ValueError, match=f"^token ids must be at least 0 and below .*{V}$"):
            call(*given)


@every_model
def test_labels_that_are_no_whole_numbers_are_refused_and_not_cut(name):
    model, x, y = of(name)
    labels, whole = y.astype("float32"), np.array(y)
    labels.flat[-1] = whole.flat[-1] = -100
    assert model.test_on_batch(x, labels) == model.test_on_batch(x, whole)
    for wrong in (1.7, -99.5, float("nan"), float("inf")):
        labels.flat[1] = wrong
        with pytest.raises(ValueError, match=rf"labels must be whole numbers; received {wrong}$"):
            model.test_on_batch(x, labels)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "functional"])
def test_token_ids_that_are_no_whole_numbers_are_refused_and_not_cut(name):
    model, _, _ = of(name)
    make_inputs = MODELS[name][1]
    ids = IDS.astype("float32")
    np.testing.assert_array_equal(model(make_inputs(ids)), model(make_inputs(IDS)))
    ids[2, 3] = 1.7
    with pytest.raises(ValueError, match=r"token ids must be whole numbers; received 1\.7"):
        model(make_inputs(ids))


def test_labels_for_a_loss_of_keras_that_takes_classes_are_not_cut_either():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model, x, y = of("functional", loss=loss)
    labels = y.astype("float32")
    labels.flat[1] = 1.7
    with pytest.raises(ValueError, match=r"labels must be whole numbers; received 1\.7"):
        model.fit(x, labels, verbose=0)


def test_tokens_that_are_hidden_are_checked_before_they_are_labels():
    masking = TokenMasking(mask_token_id=1, special_token_ids=(0,))
    model = tfllm.MaskedLanguageModel(ENCODER, masking=masking)
    model.compile("sgd")
    for wrong, rule in ((1.7, "be whole numbers"), (V, "be at least 0 and below vocab_size")):
        ids = IDS.astype("float32")
        ids[2, 3] = wrong
        with pytest.raises(ValueError, match=f"token ids must {rule}"):
            model.train_on_batch(ids, np.ones_like(IDS))


def test_spans_and_token_types_that_do_not_exist_are_errors_in_words():
    model = tfllm.SpanClassifier(ENCODER)
    model.compile("sgd")
    with pytest.raises(ValueError, match="ends of spans must be at least 0 and below the number"):
        model.fit(IDS, np.full((4, 2), T), verbose=0)
    with pytest.raises(ValueError, match="below num_token_types=2; received 2"):
        model({"token_ids": IDS, "token_type_ids": np.full((4, T), 2)})
