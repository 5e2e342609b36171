"""Which documents are kept for validation, and which the tokenizer is trained on.

Both are decided by a hash of the document's own text, so the answer does not depend on the order of
the files or the number of processes, and copies of a document stand on the same side. A document
that is too large to be kept out whole is divided in the same way wherever a copy of it stands.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

import numpy as np

_BUCKET_BITS = 16
_ENDS = (r"\n[ \t]*\n\s*", r"\n\s*", r"[.!?…]['\"”’)]*\s+|[。！？]")
"""of paragraphs, lines and sentences"""


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


@dataclass(frozen=True)
class Boundary:
    """Which documents are divided: those of one bucket of hashes, usually a single one."""

    below: int
    """documents whose hash is at most this are kept for validation whole"""
    last: int
    """those behind it whose hash is at most this are divided"""
    share: float
    """of such a document that is kept out"""

    def divides(self, hashed: int) -> bool:
        """Whether a document is divided."""
        return self.below < hashed <= self.last


def divided(text: str, share: float, hashed: int) -> tuple[str, str, str] | None:
    """What stands before, in and behind the part of a document that is kept for validation.

    The part is some paragraphs in a row; lines, or sentences, where paragraphs are more than twice
    as long as it should be. Joined, the three are the text; one of the outer two may be empty.

    Args:
        text: the document.
        share: of it that is wanted.
        hashed: of the document: says where the part stands.

    Returns:
        None where not even sentences come near the share.
    """
    wanted = share * len(text)
    for mark in _ENDS:
        ends = [match.end() for match in re.finditer(mark, text)]
        starts = np.array([0, *(end for end in ends if end < len(text)), len(text)])
        # The end nearest to the wanted size for each start, of which those that come near count.
        at = np.searchsorted(starts, starts[:-1] + wanted)
        at = np.clip(at, np.arange(len(at)) + 1, len(starts) - 1)
        before = np.maximum(at - 1, np.arange(len(at)) + 1)
        sizes = np.stack([starts[before], starts[at]]) - starts[:-1]
        nearest = np.where(np.abs(sizes[0] - wanted) <= np.abs(sizes[1] - wanted), before, at)
        size = starts[nearest] - starts[:-1]
        fitting = np.flatnonzero((size >= wanted / 2) & (size <= 2 * wanted) & (size < len(text)))
        for i in np.roll(fitting, -int(hashed % max(len(fitting), 1)))[:100]:
            begin, end = int(starts[i]), int(starts[nearest[i]])
            parts = text[:begin], text[begin:end], text[end:]
            outside = [part for part in (parts[0], parts[2]) if part]
            if not parts[1].isspace() and not any(part.isspace() for part in outside):
                return parts
    return None


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

    def boundary(self, fraction: float) -> Boundary | None:
        """How to come near `fraction` where whole documents do not.

        Returns:
            None where the documents up to `validation_limit` have at most twice the fraction.
        """
        target = fraction * self.num_bytes
        cumulative = np.cumsum(self._bytes_by_hash)
        bucket = int(np.searchsorted(cumulative, target, side="left"))
        if not 0 < target < self.num_bytes or cumulative[bucket] <= 2 * target:
            return None
        below = int(cumulative[bucket - 1]) if bucket else 0
        share = (target - below) / int(cumulative[bucket] - below)
        first = bucket << (64 - _BUCKET_BITS)
        return Boundary(first - 1, first + (1 << (64 - _BUCKET_BITS)) - 1, share)

    def is_sampled(self, hashed: int, sample_bytes: int) -> bool:
        """Whether a document belongs to a sample of about `sample_bytes` of the corpus.

        It is decided by the low bits of the hash, which say nothing about the side of the split.
        """
        return (hashed & 0xFFFFFFFF) * self.num_bytes < sample_bytes << 32
