"""The layers' equations in NumPy float64, written from the papers and not from the layers."""

from __future__ import annotations

import math

import numpy as np


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def frequencies(dim, theta, scaling=None):
    """Of each pair of a head, one after the other; `scaling` as in a config.json."""
    return np.array([_scaled(1 / theta ** (2 * i / dim), scaling) for i in range(dim // 2)])


def _scaled(frequency, scaling):
    if scaling is None:
        return frequency
    slow = frequency / scaling["factor"]
    if scaling["rope_type"] == "linear":
        return slow
    context = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    wave = 2 * math.pi / frequency
    if wave < context / high:
        return frequency
    if wave > context / low:
        return slow
    smooth = (context / wave - low) / (high - low)
    return (1 - smooth) * slow + smooth * frequency


def rotate(x, positions, theta, scaling=None):
    """x [heads, T, D]: the pair (i, i + D/2) turned by position / theta^(2i/D)."""
    half = x.shape[-1] // 2
    angle = positions[:, None] * frequencies(x.shape[-1], theta, scaling)
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], -1)


def attention_row(
    query,
    key,
    value,
    *,
    allowed,
    num_heads,
    num_kv_heads,
    rope_theta=None,
    rope_scaling=None,
    query_scale=None,
    key_scale=None,
    output,
    output_bias=0,
):
    """One row of a batch, one head after the other.

    query [T, N*D], key and value [S, K*D], allowed bool [T, S] -> [T, E], weights [N, T, S].
    With query_scale and key_scale [D] each head's query and key is normalised first.
    """
    dim = query.shape[-1] // num_heads
    group = num_heads // num_kv_heads
    mixed, all_weights = [], []
    for head in range(num_heads):
        shared = head // group
        q = query[:, head * dim : (head + 1) * dim]
        k = key[:, shared * dim : (shared + 1) * dim]
        v = value[:, shared * dim : (shared + 1) * dim]
        if query_scale is not None:
            q, k = rms_norm(q, query_scale, 1e-5), rms_norm(k, key_scale, 1e-5)
        if rope_theta is not None:
            q = rotate(q[None], np.arange(len(q)), rope_theta, rope_scaling)[0]
            k = rotate(k[None], np.arange(len(k)), rope_theta, rope_scaling)[0]
        scores = np.where(allowed, q @ k.T / math.sqrt(dim), -np.inf)
        weights = softmax(scores)
        all_weights.append(weights)
        mixed.append(weights @ v)
    return np.concatenate(mixed, -1) @ output.T + output_bias, np.stack(all_weights)


def rms_norm(x, scale, epsilon):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * scale


def layer_norm(x, scale, bias, epsilon):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + epsilon) * scale + bias


def activation(name, x):
    if name == "relu":
        return np.maximum(x, 0)
    if name == "silu":
        return x / (1 + np.exp(-x))
    if name == "gelu":
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    assert name == "gelu_tanh"
    return x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
