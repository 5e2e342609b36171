import math

import keras
import numpy as np
import pytest

from tests.rounding import about, assert_rounded
from tfllm.optimization.schedules import WarmupSchedule

PEAK = 0.01
OPERATIONS = 10
"""one after the other, in float32, from a step's number to its rate"""


def rate(step, **options):
    return float(WarmupSchedule(PEAK, 1000, **options)(step))


@pytest.mark.parametrize("kind", ["cosine", "wsd", "constant"])
def test_warm_up_is_linear_and_the_first_step_is_not_zero(kind):
    for step in (0, 1, 50, 98):
        assert rate(step, warmup_steps=100, kind=kind) == about(PEAK * (step + 1) / 100, OPERATIONS)
    assert rate(99, warmup_steps=100, kind=kind) == about(PEAK, OPERATIONS)
    assert rate(0, kind=kind) == about(PEAK, OPERATIONS)


def test_cosine_is_half_a_cosine():
    for step in (100, 250, 550, 999, 1000):
        half = 0.5 * (1 + math.cos(math.pi * (step - 100) / 900))
        expected = PEAK * (0.1 + 0.9 * half)
        assert rate(step, warmup_steps=100) == about(expected, OPERATIONS)
    assert rate(550, warmup_steps=100) == about(PEAK * 0.55, OPERATIONS)
    assert rate(1000) == rate(5000) == about(PEAK / 10, OPERATIONS)


def test_warmup_stable_decay_is_constant_and_then_linear():
    options = dict(kind="wsd", warmup_steps=100, decay_fraction=0.25, final_fraction=0.0)
    for step in (100, 500, 750):
        assert rate(step, **options) == about(PEAK, OPERATIONS)
    for step in (800, 875, 999):
        assert rate(step, **options) == about(PEAK * (1000 - step) / 250, OPERATIONS)
    assert rate(1000, **options) == rate(2000, **options) == 0


def test_constant_is_constant():
    assert rate(100, kind="constant") == rate(999, kind="constant") == about(PEAK, OPERATIONS)


def test_it_takes_many_steps_at_once_and_round_trips():
    schedule = WarmupSchedule(PEAK, 100, 10, "wsd", 0.5, 0.2)
    copy = WarmupSchedule.from_config(schedule.get_config())
    assert copy.get_config() == schedule.get_config()
    steps = np.arange(120)
    assert_rounded(schedule(steps), [float(copy(s)) for s in steps], OPERATIONS)
    optimizer = keras.optimizers.SGD(schedule)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.get_config() == optimizer.get_config()


def test_impossible_schedules_are_refused():
    with pytest.raises(ValueError, match="cosine, wsd or constant; received 'linear'"):
        WarmupSchedule(PEAK, 10, kind="linear")
    with pytest.raises(ValueError, match=r"warmup_steps must lie in \[0, total_steps=10\].*11"):
        WarmupSchedule(PEAK, 10, 11)
