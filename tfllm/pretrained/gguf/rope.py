"""Recover Llama 3's scaling of the rotary frequencies from the factors in a GGUF file.

A Hugging Face folder has four numbers; a GGUF file has the divisor of each frequency. With the wave
length w of a frequency, the original context L and the bounds l < h, the factor is 1 if L/w > h,
F if L/w < l, and 1 / ((1 - s) / F + s) between, with s = (L/w - l) / (h - l) (Grattafiori et al.,
2024). Only L/l and L/h matter, so many sets of numbers give the same factors; the one with l = 1 is
returned, as in Llama 3.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_USUAL_RATIO = 4.0  # h / l in every Llama 3
_USUAL_CONTEXT = 8192
_TOLERANCE = 1e-4


def llama3_scaling(factors: np.ndarray, theta: float) -> dict[str, Any]:
    """Find the four numbers, named as in `rope_parameters`.

    Args:
        factors: float `[head size / 2]`, beginning with the fastest frequency.
        theta: Base of the frequencies.

    Raises:
        ValueError: If no four numbers give these factors.
    """
    factors = np.asarray(factors, np.float64).reshape(-1)
    wave_lengths = 2 * math.pi * theta ** (np.arange(factors.size) / factors.size)
    factor = float(f"{factors.max():.6g}")
    if np.all(np.isfinite(factors)) and factors.min() > 0 and factor > 1:
        for ratio in (_USUAL_RATIO, None):
            numbers = _fitted(factors, wave_lengths, factor, ratio)
            if numbers is not None:
                return numbers
    raise ValueError(
        "must hold factors of Llama 3's scaling; received others. They would rotate by other "
        "angles, so the model is not loaded"
    )


def _fitted(
    factors: np.ndarray, wave_lengths: np.ndarray, factor: float, ratio: float | None
) -> dict[str, Any] | None:
    """Numbers with h / l = ratio (None for any ratio) that give the factors, if there are any."""
    between = (factors > 1 + _TOLERANCE) & (factors < factor * (1 - _TOLERANCE))
    share = (1 / factors - 1 / factor) / (1 - 1 / factor)  # s
    if ratio is None:
        if between.sum() < 2:
            return None
        # s = a / w + b is a line in 1 / w, with a = L / (h - l) and b = -l / (h - l).
        slope, offset = np.polyfit(1 / wave_lengths[between], share[between], 1)
        ratio, context = 1 - 1 / offset, -slope / offset
    elif between.any():
        contexts = wave_lengths[between] * (share[between] * (ratio - 1) + 1)
        context = float(np.median(contexts))
    else:
        context = _between_neighbours(factors, wave_lengths, ratio)
    if not (math.isfinite(context) and math.isfinite(ratio) and ratio > 1 and context > 0.5):
        return None
    numbers = {
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": float(f"{ratio:.5g}"),
        "original_max_position_embeddings": round(context),
    }
    return numbers if np.allclose(_factors(numbers, wave_lengths), factors, _TOLERANCE, 0) else None


def _between_neighbours(factors: np.ndarray, wave_lengths: np.ndarray, ratio: float) -> float:
    """A context that cuts where the factors change, if no frequency is between the bounds."""
    kept = wave_lengths[factors < 1 + _TOLERANCE]
    lowered = wave_lengths[factors >= 1 + _TOLERANCE]
    least = ratio * kept.max(initial=0.0)
    most = lowered.min(initial=math.inf)
    return _USUAL_CONTEXT if least < _USUAL_CONTEXT < most else (least + most) / 2


def _factors(numbers: dict[str, Any], wave_lengths: np.ndarray) -> np.ndarray:
    """The divisor of each frequency for these numbers."""
    low, high = numbers["low_freq_factor"], numbers["high_freq_factor"]
    share = (numbers["original_max_position_embeddings"] / wave_lengths - low) / (high - low)
    share = np.clip(share, 0, 1)
    return 1 / ((1 - share) / numbers["factor"] + share)
