"""The interface of a split of any kind of data: a number of rows, and batches of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from tfllm.data.shards.shard_reader import ShardReader

NO_ROW = -1
"""in place of the index of a row: a row of weight 0"""


class RowBatch(NamedTuple):
    """A batch of rows, as a training step takes it.

    Examples:
        >>> import numpy as np
        >>> ids = np.array([[7, 8, 0]], np.int32)
        >>> batch = RowBatch(
        ...     {"token_ids": ids, "segment_ids": np.ones_like(ids)},
        ...     labels=np.array([[8, 0, 5]], np.int32),
        ...     weights=np.ones([1, 3], np.float32),
        ... )
        >>> inputs, labels, weights = batch
        >>> labels.shape
        (1, 3)
    """

    inputs: dict[str, np.ndarray]
    """int32 "token_ids" and "segment_ids", and further inputs of the kind of data; [rows, ...]"""
    labels: np.ndarray
    """int32, of the shape of the token ids: the token that follows each"""
    weights: np.ndarray
    """float32, of the same shape: 1 where the label is learned, else 0"""


class Stream(Protocol):
    """A stream of a split's files."""

    readers: list[ShardReader]

    @property
    def error(self) -> Exception | None:
        """The error of a failed read, or None."""


class Split(ABC):
    """The split "train" or "validation" of prepared data.

    A file that is changed while it is in use causes an error that names it. Several threads, forked
    processes and pickled copies may read at the same time.

    Args:
        folder: folder of the files.
        split: "train" or "validation".
        manifest: content of the folder's manifest.
        streams: streams of the split's files.

    Raises:
        KeyError, TypeError, AttributeError, ValueError: the manifest is damaged.

    Examples:
        >>> from pathlib import Path
        >>> import tfllm
        >>> _ = Path("text.txt").write_text("To be, or not to be: that is the question.\\n" * 50)
        >>> config = tfllm.PrepareConfig(vocab_size=280)
        >>> data = tfllm.prepare("text.txt", "data", config, show_progress=False)
        >>> split = data.split("train")
        >>> split.split, len(split.batch([0, 1, 2], 16).labels)
        ('train', 3)
    """

    def __init__(
        self, folder: Path, split: str, manifest: dict[str, Any], *streams: Stream
    ) -> None:
        entry = manifest["splits"][split]
        self.split = split
        """name of the split"""
        self.num_tokens = int(entry["num_tokens"])
        """number of all tokens"""
        self.num_documents = int(entry["num_documents"])
        """number of documents, examples, pairs or records"""
        self.num_bytes = int(entry["num_bytes"])
        """UTF-8 bytes of the learned text"""
        self._folder = folder
        self._streams = streams
        self.readers = [reader for stream in streams for reader in stream.readers]
        """readers of all files, in order"""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.split!r}, {self._size}, {self._folder})"

    @property
    @abstractmethod
    def _size(self) -> str:
        """The size of the split in two words, such as "737 tokens"."""

    @property
    def error(self) -> Exception | None:
        """The error of a failed read, of which TensorFlow passes on only the text; or None."""
        return next((s.error for s in self._streams if s.error is not None), None)

    @property
    def bytes_per_token(self) -> float:
        """Average number of UTF-8 bytes per learned token."""
        return self.num_bytes / max(self.num_tokens, 1)

    @abstractmethod
    def num_rows(self, sequence_length: int) -> int:
        """Number of rows of `sequence_length` labels in an epoch."""

    @abstractmethod
    def why_no_rows(self, sequence_length: int) -> str:
        """The error message for a `sequence_length` for which `num_rows` is 0."""

    @abstractmethod
    def batch(
        self, rows: Sequence[int], sequence_length: int, *, separate_documents: bool = True
    ) -> RowBatch:
        """The rows with the given indices; `NO_ROW` is a row of weight 0.

        Raises:
            ValueError: a shard was changed.
            OSError: a shard cannot be read.
        """

    @abstractmethod
    def read(self, start: int, stop: int) -> np.ndarray:
        """The tokens `start` to `stop` in the order of the files (fewer at the end), int32."""

    @abstractmethod
    def token_counts(self, vocab_size: int) -> np.ndarray:
        """Number of times that each token is learned, int64 [vocab_size]."""

    @abstractmethod
    def describe(self) -> str:
        """Describe the content of the split in one line."""

    def describe_rows(self, sequence_length: int) -> str | None:
        """Describe the rows of `sequence_length` in one line; None if there is nothing to note."""
        return None
