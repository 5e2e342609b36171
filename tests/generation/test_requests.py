import numpy as np
import tensorflow as tf

from tests.rounding import about
from tfllm.generation.options import MOST_STOP_BYTES
from tfllm.generation.requests import read_request

GOOD = {
    "max_new_tokens": 5,
    "temperature": 0.5,
    "top_k": 3,
    "top_p": 0.9,
    "min_p": 0.1,
    "repetition_penalty": 1.2,
    "seed": 4,
    "stop": "x",
    "prompt_lookup_tokens": 8,
}
NUMBERS = ("temperature", "top_p", "min_p", "repetition_penalty")
BAD = [
    ("max_new_tokens", 0),
    ("max_new_tokens", -(2**31)),
    ("temperature", -0.1),
    ("top_k", -1),
    ("top_p", 0.0),
    ("top_p", 1.0001),
    ("min_p", -0.1),
    ("min_p", 1.0),
    ("repetition_penalty", 0.0),
    ("repetition_penalty", -1.0),
    ("seed", -1),
    ("prompt_lookup_tokens", -1),
    ("prompt_lookup_tokens", 17),
    ("stop", "x" * (MOST_STOP_BYTES + 1)),
    *((name, value) for name in NUMBERS for value in (np.nan, np.inf, -np.inf)),
]


def read(prompts, rows, context=8, refused=None):
    options = {
        name: tf.constant(
            [row[name] for row in rows],
            tf.string if name == "stop" else tf.float32 if name in NUMBERS else tf.int32,
        )
        for name in GOOD
    }
    ids = tf.ragged.constant(prompts, tf.int32, ragged_rank=1)
    return read_request(ids, options, context=context, start_id=tf.constant(99), refused=refused)


def test_a_row_that_is_refused_beforehand_is_disarmed_like_a_bad_one():
    refused = tf.constant(["", "no", "no", ""])
    rows = [GOOD, GOOD, {**GOOD, "seed": -1}, {**GOOD, "seed": -1}]
    request = read([[1, 2]] * 4, rows, refused=refused)
    *errors, last = [error.decode() for error in request.error.numpy()]
    assert errors == ["", "no", "no"] and last.startswith("seed")
    assert request.limits.numpy().tolist() == [5, 0, 0, 0]
    assert [len(ids) for ids in request.prompts.to_list()] == [2, 1, 1, 1]


def test_every_bad_option_is_an_error_of_its_row_alone():
    rows = [GOOD, *({**GOOD, name: value} for name, value in BAD), GOOD]
    request = read([[1, 2]] * len(rows), rows)
    errors = [e.decode() for e in request.error.numpy()]
    assert errors[0] == errors[-1] == ""
    for (name, value), error in zip(BAD, errors[1:-1], strict=True):
        assert error.startswith(name) and ("received" in error or "it has" in error), (name, value)
    bad = np.array([bool(e) for e in errors])
    assert request.limits.numpy()[bad].tolist() == [0] * bad.sum()
    for name, values in request.options._asdict().items():
        assert np.isfinite(values.numpy()).all()
        assert values.numpy()[0] == about(GOOD[name], 1)  # float32


def test_a_prompt_must_leave_room_for_a_token():
    request = read([[1] * 7, [1] * 8, [1] * 5000, [2]], [GOOD] * 4)
    errors = [e.decode() for e in request.error.numpy()]
    assert errors[0] == errors[3] == ""
    assert "shorter than the model's context of 8 tokens; it has 8" in errors[1]
    assert errors[2].endswith("it has 5000")
    assert request.prompt_tokens.numpy().tolist() == [7, 8, 5000, 1]
    # Nor do the others pay for its length.
    assert request.prompts.to_list() == [[1] * 7, [1], [1], [2]]


def test_an_empty_prompt_begins_with_the_start_token():
    request = read([[], [5, 6], []], [GOOD] * 3)
    assert request.prompts.to_list() == [[99], [5, 6], [99]]
    assert request.prompt_tokens.numpy().tolist() == [1, 2, 1]
