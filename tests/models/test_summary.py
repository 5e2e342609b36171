"""`summary()` shows each layer's output, and `compute_output_shape` a model's."""

import numpy as np
import pytest

import tfllm
from tests.optimization.labelled_models import ENCODER, IDS, MODELS, V
from tfllm.models.preference_tuning import PreferenceTuning

MORE = {
    "learned_positions": lambda: tfllm.Transformer(V, 8, 2, 1, positions="learned", norm="layer"),
    "t5": lambda: tfllm.EncoderDecoder(
        tfllm.EncoderDecoderConfig(
            vocab_size=V, embedding_dim=8, num_heads=2, num_layers=1, feed_forward_dim=16,
            positions="relative", norm="rms", norm_first=True,
        )
    ),
    "spans": lambda: tfllm.SpanClassifier(ENCODER),
    "sentences": lambda: tfllm.SentenceEncoder(ENCODER),
    "preferences": lambda: PreferenceTuning(MODELS["causal_lm"][0]()),
    "int8": lambda: tfllm.Transformer(V, 8, 2, 1, dtype="int8_float32"),
}  # fmt: skip


@pytest.mark.parametrize("name", [*MODELS, *MORE])
def test_a_summary_shows_the_shape_of_each_layer(name):
    model = MORE[name]() if name in MORE else MODELS[name][0]()
    lines: list[str] = []
    model.summary(print_fn=lines.append, expand_nested=True, line_length=120)
    text = "\n".join(lines)
    assert "?" not in text and "unbuilt" not in text, text
    assert "8)" in text


@pytest.mark.parametrize("name", [*MODELS, "spans", "sentences", "t5"])
def test_the_computed_shape_is_that_of_a_call(name):
    model = MORE[name]() if name in MORE else MODELS[name][0]()
    inputs = {"source_ids": IDS, "token_ids": IDS} if name == "t5" else IDS
    if name in MODELS:
        inputs = MODELS[name][1](IDS)
    shapes = {k: v.shape for k, v in inputs.items()} if isinstance(inputs, dict) else inputs.shape
    assert tuple(model.compute_output_shape(shapes)) == np.shape(model(inputs))
