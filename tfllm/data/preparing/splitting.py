"""Choose the documents that are held out for validation, and those that train the tokenizer.

Both are decided by a hash of the document's text, so the choice does not depend on the order of the
files or the number of processes, and all copies of a document are in the same split. A document
that is too large to be held out whole is divided, and all its copies in the same way.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

import numpy as np

_BUCKET_BITS = 16
_ENDS = (r"\n[ \t]*\n\s*", r"\n\s*", r"[.!?…]['\"”’)]*\s+|[。！？]")
"""patterns of the ends of paragraphs, lines and sentences"""


def document_hash(text: str, seed: int) -> int:
    """Hash of a document, an integer in [0, 2^64); runs of white space count as one space.

    Args:
        text: the document.
        seed: seed of the hash; different seeds give independent hashes.
    """
    words = " ".join(text.split())
    salt = (seed % 2**64).to_bytes(8, "little")
    digest = hashlib.blake2b(words.encode(), digest_size=8, salt=salt).digest()
    return int.from_bytes(digest, "little")


@dataclass(frozen=True)
class Boundary:
    """The documents that are divided: those of one bucket of hashes, usually a single one."""

    below: int
    """documents whose hash is at most this are held out whole"""
    last: int
    """documents whose hash is above `below` and at most this are divided"""
    share: float
    """fraction of such a document that is held out"""

    def divides(self, hashed: int) -> bool:
        """Whether the document with this hash is divided."""
        return self.below < hashed <= self.last


def divided(text: str, share: float, hashed: int) -> tuple[str, str, str] | None:
    """Divide a document into the text before, in and after the part that is held out.

    The part consists of consecutive paragraphs, or of lines or sentences if no run of paragraphs
    has between half and twice the wanted length.

    Args:
        text: the document.
        share: fraction of the document to hold out.
        hashed: hash of the document, which chooses the position of the part.

    Returns:
        Three strings that add up to the text, of which one of the outer two may be empty; None if
        not even sentences give a part of about the wanted length.
    """
    wanted = share * len(text)
    for mark in _ENDS:
        ends = [match.end() for match in re.finditer(mark, text)]
        starts = np.array([0, *(end for end in ends if end < len(text)), len(text)])
        # For each start, find the end that gives the size nearest to the wanted one; then keep the
        # starts whose size is near enough.
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
    """Statistics of a corpus from one reading: its size, and a histogram of bytes by hash.

    It takes 512 KiB of memory, whatever the size of the corpus.
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
        """The hash up to which (inclusive) documents are held out; -1 if none are.

        The fewest documents with at least `fraction` of all bytes are held out, but at least one
        and never all: with a fraction above 0 and two different documents, both splits have one.
        (The resolution of the limit is that of the 2^16 buckets of the histogram.)
        """
        if fraction == 0 or self.lowest_hash >= self.highest_hash:
            return -1
        cumulative = np.cumsum(self._bytes_by_hash)
        bucket = int(np.searchsorted(cumulative, fraction * self.num_bytes, side="left"))
        bucket_end = ((bucket + 1) << (64 - _BUCKET_BITS)) - 1
        return max(self.lowest_hash, min(bucket_end, self.highest_hash - 1))

    def boundary(self, fraction: float) -> Boundary | None:
        """The documents to divide in order to come near `fraction`.

        Returns:
            The boundary; None if whole documents up to `validation_limit` have at most twice the
            fraction, so that none need to be divided.
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
        """Whether a document belongs to a random sample of about `sample_bytes` of the corpus.

        The low bits of the hash decide this, which are independent of the split.
        """
        return (hashed & 0xFFFFFFFF) * self.num_bytes < sample_bytes << 32
