"""A tiny model compiled for `fit`, and what the independent loop of `reference` makes of it."""

import numpy as np

from tests.optimization import reference
from tfllm.models.causal_lm import CausalLM
from tfllm.optimization.adamw import AdamW

LEARNING_RATE = 3e-3


def adamw(learning_rate=LEARNING_RATE, **options):
    return AdamW(learning_rate, 0.1, beta_2=0.95, epsilon=1e-8, **options)


def compiled(config, accumulation=1, *, learning_rate=LEARNING_RATE, clip_norm=0.5, **options):
    model = CausalLM(config, seed=3)
    model.gradient_accumulation = accumulation
    model.compile(adamw(learning_rate, global_clipnorm=clip_norm), **options)
    return model


def expected(config, batches, *, learning_rate=LEARNING_RATE, **options):
    """What the independent loop gives."""
    model = CausalLM(config, seed=3)
    optimizer = reference.NumpyAdamW(learning_rate)
    return reference.train(model, batches, optimizer, clip_norm=0.5, **options)


def token_mean(losses, batches):
    return np.average(losses, weights=[w.sum() for _, _, w in batches])
