import hashlib
import itertools
import struct
from collections import Counter

import numpy as np
import pytest

from tfllm.data.shards.order import RowOrder


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 5, 16, 17, 100, 1024, 1025, 100_003])
def test_every_row_comes_once(num_rows):
    order = RowOrder(num_rows, seed=3, epoch=1)(np.arange(num_rows))
    assert sorted(order.tolist()) == list(range(num_rows))


def test_a_place_is_found_without_the_places_before():
    order = RowOrder(10**12, 0, 0)
    places = np.asarray([0, 5, 10**12 - 1])
    together = order(places)
    assert (together < 10**12).all()
    assert [int(order(places[i : i + 1])[0]) for i in range(3)] == together.tolist()


def test_orders_differ_by_seed_and_by_epoch_and_repeat_themselves():
    orders = {
        (seed, epoch): tuple(RowOrder(50, seed, epoch)(np.arange(50)))
        for seed, epoch in itertools.product((0, 1, 11), (0, 1, 11))
    }
    assert len(set(orders.values())) == len(orders)
    assert tuple(RowOrder(50, 1, 11)(np.arange(50))) == orders[1, 11]


def test_all_orders_of_four_rows_are_about_equally_frequent():
    counts = Counter(tuple(RowOrder(4, seed, 0)(np.arange(4)).tolist()) for seed in range(4800))
    assert len(counts) == 24
    chi_squared = sum((count - 200) ** 2 / 200 for count in counts.values())
    assert chi_squared < 60  # 23 degrees of freedom: 49.7 is passed once in a thousand


def test_neighbours_are_torn_apart():
    order = RowOrder(10_000, 0, 0)(np.arange(10_000))
    assert (np.abs(np.diff(order)) == 1).mean() < 0.002
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.04
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.04


def reference_order(num_rows, seed, epoch):
    """The same permutation in plain whole numbers: it must never change, or runs resume wrongly."""
    half = max(1, ((num_rows - 1).bit_length() + 1) // 2)
    digest = hashlib.blake2b(f"{seed},{epoch}".encode(), digest_size=64).digest()
    keys = struct.unpack("<8Q", digest)

    def mix(x):
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    def row(x):
        while True:
            left, right = divmod(x, 2**half)
            for key in keys:
                left, right = right, left ^ mix(right ^ key) % 2**half
            x = left * 2**half + right
            if x < num_rows:
                return x

    return [row(place) for place in range(num_rows)]


@pytest.mark.parametrize("num_rows", [1, 2, 10, 65, 300])
def test_the_order_equals_a_reference_in_whole_numbers(num_rows):
    order = RowOrder(num_rows, 7, 2)(np.arange(num_rows))
    assert order.tolist() == reference_order(num_rows, 7, 2)


def test_the_order_never_changes_from_version_to_version():
    assert RowOrder(10, 0, 0)(np.arange(10)).tolist() == [2, 3, 0, 6, 5, 1, 7, 4, 8, 9]
