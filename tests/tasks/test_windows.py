"""Windows of long texts: what they cover; the graph makes the same ones as training."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfllm.tasks.encoder.windows import AT_ONCE, in_chunks, tokens_of, windows_in_graph, windows_of

CASES = [
    (length, room, overlap)
    for length, room in itertools.product([0, 1, 7, 8, 9, 20, 40, 41, 100], [1, 2, 8, 40])
    for overlap in {0, room // 4, room // 2}
]


@pytest.mark.parametrize(("length", "room", "overlap"), CASES)
def test_every_token_is_owned_once_and_has_context(length, room, overlap):
    windows = windows_of(length, room, overlap)
    owned = [token for w in windows for token in range(w.own_begin, w.own_end)]
    assert owned == list(range(length))
    for window in windows:
        assert 0 <= window.begin <= window.own_begin <= window.own_end <= window.end <= length
        assert window.end - window.begin == min(room, length)
        for edge, end in ((window.own_begin - window.begin, 0), (window.end - window.own_end, 1)):
            at_text_edge = window.end == length if end else window.begin == 0
            assert at_text_edge or edge >= overlap // 2
    for one, other in itertools.pairwise(windows):
        assert other.begin > one.begin
        assert one.end - other.begin >= overlap


def test_the_graph_makes_the_same_windows():
    lengths, rooms, overlaps = zip(*CASES, strict=True)
    found = windows_in_graph(*(tf.constant(x, tf.int32) for x in (lengths, rooms, overlaps)))
    wanted = [(row, *w) for row, case in enumerate(CASES) for w in windows_of(*case)]
    np.testing.assert_array_equal(np.stack([x.numpy() for x in found], 1), wanted)
    tokens = tf.ragged.range(tf.constant(lengths)) * 3
    shown = tokens_of(found, tokens).to_list()
    assert shown == [[3 * i for i in range(begin, end)] for _, begin, end, _, _ in wanted]


@pytest.mark.parametrize("number", [0, AT_ONCE, 2 * AT_ONCE + 3])
def test_chunks_give_what_all_at_once_gives(number):
    sizes = []

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)], autograph=False)
    def doubled(values):
        def double(some):
            tf.py_function(lambda x: sizes.append(len(x)), [some], [])
            return some * 2, tf.reduce_sum(some, 1)

        return in_chunks(
            double,
            [values],
            [tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], "int32")],
        )

    values = np.arange(number * 3, dtype=np.int32).reshape(number, 3)
    twice, sums = doubled(values)
    np.testing.assert_array_equal(twice, values * 2)
    np.testing.assert_array_equal(sums, values.sum(1))
    assert max(sizes) <= AT_ONCE
