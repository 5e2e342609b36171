import random

import numpy as np
import pytest

from tfllm.data.preparing.splitting import CorpusCensus, document_hash


def census_of(pairs):
    census = CorpusCensus()
    for hashed, num_bytes in pairs:
        census.add(hashed, num_bytes)
    return census


def test_copies_hash_alike_whatever_their_white_space():
    assert document_hash("a  b\n", 3) == document_hash("a b", 3)
    assert document_hash("a b", 3) != document_hash("ab", 3)
    assert document_hash("a b", 3) != document_hash("a b", 4)


def test_hashes_are_spread_evenly():
    hashes = np.asarray([document_hash(str(i), 0) for i in range(20_000)], np.float64) / 2.0**64
    counts, _ = np.histogram(hashes, 20, (0, 1))
    assert (abs(counts - 1000) < 5 * 1000**0.5).all()


@pytest.mark.parametrize("fraction", [0.001, 0.02, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("count", [2, 3, 50, 2000])
def test_validation_is_the_fewest_documents_in_hash_order_that_have_the_fraction(fraction, count):
    draw = random.Random(count)
    pairs = [(draw.getrandbits(64), draw.randint(1, 1000)) for _ in range(count)]
    limit = census_of(pairs).validation_limit(fraction)
    kept = sorted(pair for pair in pairs if pair[0] <= limit)
    expected, held = [], 0
    for pair in sorted(pairs):  # the definition, one by one
        if expected and held >= fraction * sum(b for _, b in pairs):
            break
        expected.append(pair)
        held += pair[1]
    if len(expected) == count:
        expected.pop()
    # Documents whose first 16 bits agree stand together, one bucket at most.
    assert kept[: len(expected)] == expected
    assert len(kept) - len(expected) <= 2
    assert 1 <= len(kept) < count


def test_both_sides_have_a_document_even_if_the_hashes_are_neighbours():
    for low, high in [(5, 6), (2**64 - 2, 2**64 - 1), (0, 2**64 - 1), (0, 1)]:
        limit = census_of([(low, 10), (high, 10)]).validation_limit(0.02)
        assert low <= limit < high


def test_one_document_or_copies_of_one_or_no_fraction_give_no_validation():
    assert census_of([(7, 10)]).validation_limit(0.5) == -1
    assert census_of([(7, 10), (7, 10)]).validation_limit(0.5) == -1
    assert census_of([(7, 10), (8, 10)]).validation_limit(0) == -1


def test_the_sample_has_about_its_size_and_is_everything_when_that_fits():
    census = CorpusCensus()
    hashes = [document_hash(str(i), 0) for i in range(10_000)]
    for hashed in hashes:
        census.add(hashed, 100)
    assert all(census.is_sampled(h, 1_000_000) for h in hashes)
    sampled = sum(census.is_sampled(h, 100_000) for h in hashes) * 100
    assert 90_000 < sampled < 110_000
