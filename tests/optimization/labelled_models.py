"""A tiny model of each kind that learns from labels, with its inputs and labels."""

import keras
import numpy as np

import tfllm
from tfllm.config import ModelConfig
from tfllm.models.causal_lm import CausalLM
from tfllm.optimization.training_step import TrainingStep

V, T = 20, 6
ENCODER = tfllm.EncoderConfig(
    vocab_size=V,
    embedding_dim=8,
    num_heads=2,
    num_layers=1,
    feed_forward_dim=16,
    max_sequence_length=T,
    dropout=0.0,
)
SIZES = {"vocab_size": V, "embedding_dim": 8, "num_heads": 2, "num_layers": 1}
random = np.random.default_rng(0)
IDS = random.integers(0, V, (4, T)).astype("int32")
LABELS = random.integers(0, V, (4, T)).astype("int32")


def causal():
    return CausalLM(ModelConfig(**SIZES, max_sequence_length=T), seed=1)


def encoder_decoder():
    sizes = {**SIZES, "feed_forward_dim": 16, "max_sequence_length": T, "dropout": 0.0}
    return tfllm.EncoderDecoder(tfllm.EncoderDecoderConfig(**sizes), seed=1)


def functional():
    ids = keras.Input((T,), dtype="int32")
    x = keras.layers.Embedding(V, 8)(ids)
    x = tfllm.layers.TransformerBlock(2, 16, causal=True)(x)
    return TrainingStep(inputs=ids, outputs=keras.layers.Dense(V)(x))


def sources(ids):
    return {"source_ids": IDS, "token_ids": ids}


def plain(ids):
    return ids


MODELS = {
    "causal_lm": (causal, plain, LABELS),
    "encoder_decoder": (encoder_decoder, sources, LABELS),
    "masked": (lambda: tfllm.MaskedLanguageModel(ENCODER), plain, LABELS),
    "tokens": (lambda: tfllm.TokenClassifier(ENCODER, num_labels=V), plain, LABELS),
    "rows": (lambda: tfllm.SequenceClassifier(ENCODER, num_labels=V), plain, LABELS[:, 0]),
    "functional": (functional, plain, LABELS),
}


def of(name, **options):
    make, inputs, labels = MODELS[name]
    model = make()
    model.compile("sgd", **options)
    return model, inputs(IDS), labels
