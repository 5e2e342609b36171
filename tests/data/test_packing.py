import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfllm.data.shards.packing import pack_rows

END = 0


def reference(row, length, separate):
    """One row, token by token, as the docstring has it."""
    row = [*row, *[END] * (length + 1 - len(row))]
    segments, weights = [], []
    segment = 1
    for place in range(length):
        if row[place] == END:
            segment += 1
        segments.append(segment if separate else 1)
        weights.append(1.0)
    return row[:length], segments, row[1:], weights


@given(
    st.integers(1, 12).flatmap(
        lambda length: st.tuples(
            st.just(length),
            st.lists(
                st.lists(st.integers(0, 3), min_size=length + 1, max_size=length + 1), max_size=4
            ),
        )
    ),
    st.booleans(),
)
def test_full_rows_equal_the_token_by_token_reference(case, separate):
    length, rows = case
    packed = pack_rows(
        [np.asarray(row, np.int32) for row in rows],
        length,
        end_token_id=END,
        separate_documents=separate,
    )
    expected = [reference(row, length, separate) for row in rows]
    for name, received in zip(packed._fields, packed, strict=True):
        column = packed._fields.index(name)
        assert received.shape == (len(rows), length)
        assert received.dtype == (np.float32 if name == "weights" else np.int32)
        assert received.tolist() == [row[column] for row in expected], name


def test_the_example_of_the_docstring():
    packed = pack_rows([np.asarray([7, 8, 0, 5, 6, 4, 9])], 6, end_token_id=0)
    assert packed.token_ids.tolist() == [[7, 8, 0, 5, 6, 4]]
    assert packed.segment_ids.tolist() == [[1, 1, 2, 2, 2, 2]]
    assert packed.labels.tolist() == [[8, 0, 5, 6, 4, 9]]
    assert packed.weights.tolist() == [[1, 1, 1, 1, 1, 1]]


@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_what_fills_a_short_row_weighs_nothing(separate, count):
    row = np.arange(5, 5 + count)
    packed = pack_rows([row], 4, end_token_id=0, separate_documents=separate)
    assert packed.weights.sum() == max(count - 1, 0)
    counted = packed.labels[packed.weights > 0]
    assert counted.tolist() == row[1:].tolist()


@given(st.lists(st.integers(0, 3), min_size=9, max_size=9))
def test_a_token_shares_its_segment_with_its_own_document_and_the_end_before_it(row):
    packed = pack_rows([np.asarray(row)], 8, end_token_id=END)
    begun = np.cumsum([token == END for token in row])
    for place in range(8):
        for other in range(8):
            alike = packed.segment_ids[0, place] == packed.segment_ids[0, other]
            assert alike == (begun[place] == begun[other])
