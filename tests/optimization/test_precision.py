"""Precision follows from measured speed."""

import pytest

from tfllm.optimization import precision


@pytest.mark.parametrize(
    ("bfloat16", "chosen"), [(0.1, "float32"), (1.2, "float32"), (1.4, "bfloat16")]
)
def test_auto_is_bfloat16_only_where_it_is_clearly_faster(monkeypatch, bfloat16, chosen):
    rates = {"float32": 1e9, "bfloat16": bfloat16 * 1e9}
    monkeypatch.setattr(precision, "matmul_peak", lambda dtype, size: rates[dtype])
    assert precision.choose_precision("auto") == chosen


def test_a_precision_that_is_asked_for_is_not_measured(monkeypatch):
    monkeypatch.setattr(precision, "matmul_peak", None)
    assert precision.choose_precision("float16") == "float16"


def test_policies_keep_the_weights_in_float32():
    assert precision.dtype_policy("float32") == "float32"
    assert precision.dtype_policy("bfloat16") == "mixed_bfloat16"


def test_the_peak_is_a_rate_that_a_machine_can_have():
    assert 1e7 < precision.matmul_peak("float32", 128) < 1e16


def test_the_median_rate_ignores_one_slow_step():
    assert precision.median_rate([10, 10, 10], [1.0, 1.0, 50.0]) == 10
    assert precision.median_rate([], []) == 0
