import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tfllm.data.shards.example_packing import best_fit_decreasing, pack_examples


def reference(sizes, capacity):
    """Best fit decreasing as its name says it, row by row: how full each row is."""
    rows = []
    for size in sorted(sizes, reverse=True):
        fitting = [i for i, filled in enumerate(rows) if filled + size <= capacity]
        if fitting:
            rows[max(fitting, key=lambda i: rows[i])] += size
        else:
            rows.append(size)
    return sorted(rows)


@given(
    st.integers(1, 30).flatmap(
        lambda c: st.tuples(st.just(c), st.lists(st.integers(1, c), max_size=80))
    )
)
def test_rows_are_as_full_as_best_fit_decreasing_makes_them(case):
    capacity, sizes = case
    rows = best_fit_decreasing(np.asarray(sizes, np.int64), capacity)
    filled = np.bincount(rows, sizes, minlength=0).astype(int).tolist()
    assert sorted(filled) == reference(sizes, capacity)
    assert all(0 < f <= capacity for f in filled)


@given(
    st.integers(1, 40),
    st.lists(st.integers(2, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1)))),
)
def test_each_example_with_something_to_learn_has_one_place(length, examples):
    sizes = np.asarray([n for n, _ in examples], np.uint32)
    first = np.asarray([f for _, f in examples], np.uint32)
    packing = pack_examples(sizes, first, length)
    kept = [i for i in range(len(examples)) if first[i] <= length]
    assert sorted(packing.order.tolist()) == kept
    assert packing.num_left_out == len(examples) - len(kept)
    assert packing.num_truncated == sum(sizes[i] > length + 1 for i in kept)
    places = [min(int(n) - 1, length) for n in sizes]
    rows = [packing.examples(row) for row in range(packing.num_rows)]
    assert all(row and sum(places[i] for i in row) <= length for row in rows)
    assert all(row == sorted(row) for row in rows)  # in the order of the files
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert packing.num_labels == sum(places[i] for i in kept)


def test_many_short_examples_leave_hardly_a_place_free(rng):
    sizes = rng.integers(2, 400, 200_000).astype(np.uint32)
    packing = pack_examples(sizes, np.ones_like(sizes), 2048)
    assert packing.num_labels / (packing.num_rows * 2048) > 0.999
