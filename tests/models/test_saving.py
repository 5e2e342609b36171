"""`.keras` files: training continues after saving and loading as if uninterrupted."""

import dataclasses

import keras
import numpy as np
import pytest

from tests.optimization import reference
from tests.optimization.tiny_training import adamw
from tfllm.models.causal_lm import CausalLM, Transformer


def steps(model, batches):
    for batch in batches:
        model.train_on_batch(*batch)


@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.1},
        {"positions": "learned", "norm": "layer", "gated": False, "tied_embeddings": False},
    ],
    ids=["rotary, dropout", "learned, untied"],
)
def test_training_goes_on_as_if_not_saved(options, tiny_config, rng, tmp_path):
    config = dataclasses.replace(tiny_config, **options)
    batches = reference.make_batches(rng, num=6)
    straight = CausalLM(config, seed=2)
    straight.compile(adamw(global_clipnorm=1.0))
    steps(straight, batches)

    model = CausalLM(config, seed=2)
    model.compile(adamw(global_clipnorm=1.0))
    steps(model, batches[:3])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.config == config
    x = batches[0][0]
    np.testing.assert_array_equal(loaded(x), model(x))
    steps(loaded, batches[3:])
    assert int(loaded.optimizer.iterations) == 6
    assert reference.largest_difference(loaded, straight) == 0


def test_a_transformer_is_saved_and_configured_by_its_own_arguments(tmp_path):
    model = Transformer(30, 16, 2, 1, dropout=0.1, seed=4, rematerialize=True)
    config = model.get_config()
    assert (config["vocab_size"], config["num_layers"], config["seed"]) == (30, 1, 4)
    assert "config" not in config
    copy = Transformer.from_config(config)
    assert copy.get_config() == config
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is Transformer
    x = np.arange(8)[None]
    np.testing.assert_array_equal(loaded(x), model(x))


def test_weights_alone_round_trip(tiny_config, tmp_path):
    model, other = CausalLM(tiny_config, seed=1), CausalLM(tiny_config, seed=2)
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    for a, b in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
