"""Ragged rows joined and cut, against TensorFlow's own ragged operations and Python's lists."""

import itertools

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfllm.tokenizers.graph.ragged_rows import (
    equal_rows,
    first_of_rows,
    flagged,
    joined_rows,
    joined_values,
    where_set,
)

ROW = st.lists(st.integers(-3, 9), max_size=4)
PARTS = st.integers(0, 5).flatmap(
    lambda num_rows: st.lists(
        st.lists(ROW, min_size=num_rows, max_size=num_rows), min_size=1, max_size=4
    )
)
quick = settings(max_examples=60, deadline=None, derandomize=True)


def ragged(rows, dtype=tf.int32):
    return tf.ragged.constant(rows, dtype, ragged_rank=1)


@quick
@given(PARTS)
def test_rows_are_joined_as_by_concat(parts):
    expected = [[*itertools.chain(*rows)] for rows in zip(*parts, strict=True)]
    made = [ragged(part) for part in parts]
    assert joined_rows(*made).to_list() == expected == tf.concat(made, 1).to_list()
    texts = [ragged([[f"{x}" for x in row] for row in part], tf.string) for part in parts]
    splits, numbers, words = joined_values(
        [part.row_splits for part in made],
        [part.values for part in made],
        [part.values for part in texts],
    )
    flat = [x for row in expected for x in row]
    assert numbers.numpy().tolist() == flat
    assert words.numpy().tolist() == [f"{x}".encode() for x in flat]
    assert splits.dtype == tf.int64 and numbers.dtype == tf.int32


@quick
@given(st.lists(st.tuples(ROW, st.integers(0, 4)), max_size=5), st.sampled_from(["int32", "int64"]))
def test_the_first_values_are_those_of_slices(rows, dtype):
    numbers = [min(number, len(row)) for row, number in rows]
    found = first_of_rows(ragged([row for row, _ in rows]), tf.constant(numbers, dtype))
    assert found.to_list() == [row[:n] for (row, _), n in zip(rows, numbers, strict=True)]


@quick
@given(st.lists(st.tuples(st.integers(), st.booleans()).map(lambda x: (x[0] % 100, x[1]))))
def test_a_row_has_the_value_whose_flag_is_set(pairs):
    values, flags = ([pair[i] for pair in pairs] for i in (0, 1))
    found = where_set(tf.constant(values, tf.int32), tf.constant(flags, tf.bool))
    assert found.to_list() == [[value] if flag else [] for value, flag in pairs]
    columns = [tf.constant(values, tf.int32), tf.constant([*map(str, values)], tf.string)]
    numbers, texts = flagged(tf.constant(flags, tf.bool), *columns)
    assert numbers.numpy().tolist() == [value for value, flag in pairs if flag]
    assert texts.numpy().tolist() == [b"%d" % value for value, flag in pairs if flag]


@pytest.mark.parametrize("values", [[], [7], [7, 8, 9]])
@pytest.mark.parametrize("num_rows", [0, 1, 3])
def test_equal_rows(values, num_rows):
    assert equal_rows(values, tf.constant(num_rows, tf.int64)).to_list() == [values] * num_rows


def test_a_graph_of_them_is_small_and_knows_the_number_of_rows():
    @tf.function(input_signature=[tf.RaggedTensorSpec([3, None], tf.int32, 1, tf.int64)] * 2)
    def join(one, other):
        return joined_rows(one, other)

    graph = join.get_concrete_function().graph
    assert len(graph.get_operations()) < 50
    assert graph.structured_outputs.shape.as_list() == [3, None]
