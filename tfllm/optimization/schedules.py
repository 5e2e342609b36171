"""Learning-rate schedules: linear warm-up, then cosine, warmup-stable-decay or constant."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("tfllm")
class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Learning-rate schedule: linear warm-up from 0, then one of three kinds of decay.

    - "cosine": half a cosine from the peak to `final_fraction` of it (Loshchilov & Hutter, 2017).
    - "wsd": constant, then linear to `final_fraction` over the last `decay_fraction` of the steps
      (warmup-stable-decay; Hu et al., MiniCPM, 2024).
    - "constant": none.

    Args:
        peak: highest learning rate.
        total_steps: number of steps of the whole run.
        warmup_steps: number of steps until the peak; the first step already has peak /
            warmup_steps. Defaults to 0.
        kind: "cosine", "wsd" or "constant". Defaults to "cosine".
        decay_fraction: fraction of the steps in which "wsd" decays. Defaults to 0.2.
        final_fraction: last learning rate as a fraction of the peak. Defaults to 0.1.

    Examples:
        >>> schedule = tfllm.training.WarmupSchedule(peak=1e-3, total_steps=100, warmup_steps=10)
        >>> optimizer = tfllm.training.AdamW(schedule)
    """

    def __init__(
        self,
        peak: float,
        total_steps: int,
        warmup_steps: int = 0,
        kind: str = "cosine",
        decay_fraction: float = 0.2,
        final_fraction: float = 0.1,
    ) -> None:
        super().__init__()
        if kind not in ("cosine", "wsd", "constant"):
            raise ValueError(f"kind must be cosine, wsd or constant; received {kind!r}")
        if not 0 <= warmup_steps <= total_steps:
            raise ValueError(
                f"warmup_steps must lie in [0, total_steps={total_steps}]; received {warmup_steps}"
            )
        self.peak = peak
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.kind = kind
        self.decay_fraction = decay_fraction
        self.final_fraction = final_fraction

    def __call__(self, step: Any) -> tf.Tensor:
        """The learning rate of update number `step`, counted from 0."""
        step = tf.cast(step, tf.float32)
        total, warmup = float(self.total_steps), float(self.warmup_steps)
        factor = tf.ones_like(step)
        if self.kind == "cosine":
            done = tf.clip_by_value((step - warmup) / max(total - warmup, 1.0), 0.0, 1.0)
            cosine = 0.5 * (1 + tf.cos(3.141592653589793 * done))
            factor = self.final_fraction + (1 - self.final_fraction) * cosine
        elif self.kind == "wsd":
            decay = max(self.decay_fraction * total, 1.0)
            left = tf.clip_by_value((total - step) / decay, 0.0, 1.0)
            factor = self.final_fraction + (1 - self.final_fraction) * left
        return self.peak * tf.minimum(factor, (step + 1) / max(warmup, 1.0))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "peak": self.peak,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "kind": self.kind,
            "decay_fraction": self.decay_fraction,
            "final_fraction": self.final_fraction,
        }
