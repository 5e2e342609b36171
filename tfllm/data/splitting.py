"""Which documents are kept for validation, and which the tokenizer is trained on.

Both are decided by a hash of the document's own text, so the answer does not depend on the order of
the files or the number of processes, and copies of a document stand on the same side.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

_BUCKET_BITS = 16


def document_hash(text: str, seed: int) -> int:
    """A number in [0, 2^64) for a document; runs of white space count as one space.

    Args:
        text: the document.
        seed: another seed gives numbers that have nothing to do with those of this one.
    """
    words = " ".join(text.split())
    salt = (seed % 2**64).to_bytes(8, "little")
    digest = hashlib.blake2b(words.encode(), digest_size=8, salt=salt).digest()
    return int.from_bytes(digest, "little")


@dataclass
class CorpusCensus:
    """What one reading of the corpus finds: its size, and how its bytes lie along the hash.

    It needs 512 KiB, whatever the size of the corpus.
    """

    num_documents: int = 0
    num_bytes: int = 0
    """UTF-8 bytes of all documents"""
    lowest_hash: int = 2**64 - 1
    highest_hash: int = 0
    _bytes_by_hash: np.ndarray = field(
        default_factory=lambda: np.zeros(2**_BUCKET_BITS, np.int64), repr=False
    )

    def add(self, hashed: int, num_bytes: int) -> None:
        """Count a document of `num_bytes` bytes with the hash `hashed`."""
        self.num_documents += 1
        self.num_bytes += num_bytes
        self.lowest_hash = min(self.lowest_hash, hashed)
        self.highest_hash = max(self.highest_hash, hashed)
        self._bytes_by_hash[hashed >> (64 - _BUCKET_BITS)] += num_bytes

    def validation_limit(self, fraction: float) -> int:
        """The hash up to which (inclusive) documents are kept for validation; -1: none are.

        They are as few as have `fraction` of all bytes, one at least, and never all: with a
        fraction above 0 and two documents that differ, both sides have one. (Above 2^16 documents
        the limit is as fine as the 2^16 buckets that the hash's first bits make.)
        """
        if fraction == 0 or self.lowest_hash >= self.highest_hash:
            return -1
        cumulative = np.cumsum(self._bytes_by_hash)
        bucket = int(np.searchsorted(cumulative, fraction * self.num_bytes, side="left"))
        bucket_end = ((bucket + 1) << (64 - _BUCKET_BITS)) - 1
        return max(self.lowest_hash, min(bucket_end, self.highest_hash - 1))

    def is_sampled(self, hashed: int, sample_bytes: int) -> bool:
        """Whether a document belongs to a sample of about `sample_bytes` of the corpus.

        It is decided by the low bits of the hash, which say nothing about the side of the split.
        """
        return (hashed & 0xFFFFFFFF) * self.num_bytes < sample_bytes << 32
