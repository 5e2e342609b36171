r"""The characters in a class such as ``\p{L}``, probed from the regex engine that tokenizes.

Regex engines have different versions of Unicode, so "a letter" is not the same set in each. The
sets here are probed from the `tokenizers` library itself; code points that no set distinguishes are
then combined into *atoms*, and a split pattern sees only a few dozen atoms.
"""

from __future__ import annotations

import functools

import numpy as np

NUM_CODE_POINTS = 0x110000
_PAGE_BITS = 7

# Planes 4 to 13 have no characters, and 15 and 16 only private ones: the first code point of each
# represents the plane, unless the pattern itself names something in there.
_UNIFORM = (range(0x40000, 0xE0000), range(0xE1000, 0xF0000), range(0xF0000, 0x110000))


class CharacterSet:
    """A set of code points, stored as ascending bounds: even ones begin a run, odd ones end it
    (exclusive)."""

    def __init__(self, bounds: np.ndarray) -> None:
        self.bounds = np.asarray(bounds, np.int64)
        assert len(self.bounds) % 2 == 0 and (np.diff(self.bounds) > 0).all()

    @classmethod
    def of(cls, characters: str) -> CharacterSet:
        """The set of the given characters."""
        mask = np.zeros(NUM_CODE_POINTS, bool)
        mask[[ord(c) for c in characters]] = True
        return cls.from_mask(mask)

    @classmethod
    def from_mask(cls, mask: np.ndarray) -> CharacterSet:
        """The set of the code points whose entry in the bool mask [1114112] is true."""
        return cls(np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]))))

    def contains(self, code_points: np.ndarray) -> np.ndarray:
        """Whether each code point is in the set, as a bool array."""
        return np.searchsorted(self.bounds, code_points, side="right") % 2 == 1


@functools.lru_cache(maxsize=256)
def probe(source: str, *, below: int = NUM_CODE_POINTS) -> CharacterSet:
    """The code points that a one-character pattern matches in the `tokenizers` library.

    Args:
        source: Pattern that matches exactly one character, such as ``\\p{L}`` or ``[^\\s]``.
        below: Upper bound of the code points in the set, which saves time. Defaults to none.

    Raises:
        ValueError: If the library's regex engine refuses the pattern.
    """
    from tokenizers import Regex, pre_tokenizers

    try:
        splitter = pre_tokenizers.Split(Regex(f"(?:{source})+"), "removed")
    except Exception as error:  # the library raises a bare Exception
        raise ValueError(f"tokenizers refuses the pattern {source!r}: {error}") from None
    mask = np.zeros(NUM_CODE_POINTS, bool)
    everywhere = _names_high_characters(source)
    for start, end in _runs(everywhere):
        end = min(end, below)
        if start < end:
            mask[start:end] = True
            for _, (low, high) in splitter.pre_tokenize_str(_text(start, end)):
                mask[start + low : start + high] = False
    if not everywhere:
        for plane in _UNIFORM:
            mask[plane.start : plane.stop] = mask[plane.start]
    mask[0xD800:0xE000] = mask[0xE000]  # surrogates are not characters: do not distinguish them
    return CharacterSet.from_mask(mask)


@functools.lru_cache(maxsize=1)
def probe_digits() -> CharacterSet:
    """The code points that the library's Digits pre-tokenizer treats as digits."""
    from tokenizers import pre_tokenizers

    mask = np.zeros(NUM_CODE_POINTS, bool)
    splitter = pre_tokenizers.Digits(individual_digits=False)  # runs of digits, runs of others
    for start, end in _runs(everywhere=False):
        for piece, (low, high) in splitter.pre_tokenize_str(_text(start, end)):
            mask[start + low : start + high] = _is_digit(piece[0])
    return CharacterSet.from_mask(mask)


def _is_digit(character: str) -> bool:
    """Whether Digits cuts between two of this character."""
    from tokenizers import pre_tokenizers

    pieces = pre_tokenizers.Digits(individual_digits=True).pre_tokenize_str(character * 2)
    return len(pieces) == 2


def _names_high_characters(source: str) -> bool:
    return any(ord(c) >= 0x40000 for c in source) or "\\x{" in source


def _runs(everywhere: bool) -> list[tuple[int, int]]:
    if everywhere:
        return [(0, 0xD800), (0xE000, NUM_CODE_POINTS)]
    runs = [(0, 0xD800), (0xE000, 0x40000), (0xE0000, 0xE1000)]
    return runs + [(plane.start, plane.start + 1) for plane in _UNIFORM]


@functools.lru_cache(maxsize=8)
def _text(start: int, end: int) -> str:
    return "".join(map(chr, range(start, end)))


class Atoms:
    """Code points, grouped so that no set distinguishes those of a group.

    Attributes:
        count: Number of atoms.
        page_of: int32 [8704], the page of each run of 128 code points.
        atom_of: int32 [pages * 128], the atom of each code point of each page.
        members: Atoms in each of the given sets.
    """

    def __init__(self, sets: list[CharacterSet]) -> None:
        bounds = np.unique(np.concatenate([[0], *(s.bounds for s in sets)]))
        bounds = bounds[bounds < NUM_CODE_POINTS].astype(np.int64)
        membership = np.stack([s.contains(bounds) for s in sets] or [np.zeros(len(bounds), bool)])
        signatures, atom = np.unique(membership, axis=1, return_inverse=True)
        atom = atom.reshape(-1)
        self.count = signatures.shape[1]
        self.members = [frozenset(np.flatnonzero(row).tolist()) for row in signatures[: len(sets)]]
        self._bounds, self._atom = bounds, atom
        lengths = np.diff(np.append(bounds, NUM_CODE_POINTS))
        pages = np.repeat(atom, lengths).astype(np.int32).reshape(-1, 1 << _PAGE_BITS)
        self.page_of, unique = distinct_pages(pages)
        self.atom_of = unique.reshape(-1)

    page_bits = _PAGE_BITS


def distinct_pages(pages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Remove duplicate pages, in the order of first occurrence.

    Nothing is sorted, unlike in `np.unique`, which took most of the time to build a tokenizer's
    graph.

    Args:
        pages: [pages, values].

    Returns:
        int32 [pages], the index of each among the distinct pages; [distinct, values].
    """
    numbers: dict[bytes, int] = {}
    page_of = np.array([numbers.setdefault(page.tobytes(), len(numbers)) for page in pages])
    _, first = np.unique(page_of, return_index=True)
    return page_of.astype(np.int32), pages[first]
