"""Rows of packed documents as model inputs, labels and weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class PackedRows(NamedTuple):
    """Inputs of a training step, each [batch, sequence_length]."""

    token_ids: np.ndarray
    """int32: the inputs"""
    segment_ids: np.ndarray
    """int32: number of the document in the row that a token belongs to, from 1"""
    labels: np.ndarray
    """int32: the token that follows each input"""
    weights: np.ndarray
    """float32: 1 where the label counts, else 0"""


def pack_rows(
    rows: Sequence[np.ndarray],
    sequence_length: int,
    *,
    end_token_id: int,
    separate_documents: bool = True,
) -> PackedRows:
    """Convert rows of tokens to inputs, segments, labels and weights.

    With the end token 0 and `sequence_length` 6, the row `[7, 8, 0, 5, 6, 4, 9]` becomes

        token_ids    7 8 0 5 6 4
        segment_ids  1 1 2 2 2 2
        labels       8 0 5 6 4 9
        weights      1 1 1 1 1 1

    An end token is predicted by the document that it ends, and is an input of the next document:
    there it means "a document begins", so that a model learns to begin one. A row shorter than
    `sequence_length + 1` is padded with end tokens of weight 0.

    Args:
        rows: rows of up to `sequence_length + 1` tokens each.
        sequence_length: tokens in a row of the result.
        end_token_id: id of the token that ends a document.
        separate_documents: whether each document has its own segment; False concatenates the
            documents in one segment. Defaults to True.

    Examples:
        >>> import numpy as np
        >>> row = np.array([7, 8, 0, 5, 6, 4, 9])
        >>> pack_rows([row], 6, end_token_id=0).segment_ids
        array([[1, 1, 2, 2, 2, 2]], dtype=int32)
    """
    shape = (len(rows), sequence_length + 1)
    tokens = np.full(shape, end_token_id, np.int32)
    counts = np.asarray([len(row) for row in rows], np.int64)
    for target, row in zip(tokens, rows, strict=True):
        target[: len(row)] = row
    token_ids, labels = tokens[:, :-1], tokens[:, 1:]
    counted = np.arange(1, sequence_length + 1) < counts[:, None]
    if separate_documents:
        segment_ids = 1 + np.cumsum(token_ids == end_token_id, axis=1, dtype=np.int32)
    else:
        segment_ids = np.ones_like(token_ids)
    return PackedRows(
        np.ascontiguousarray(token_ids),
        segment_ids.astype(np.int32, copy=False),
        np.ascontiguousarray(labels),
        counted.astype(np.float32),
    )
