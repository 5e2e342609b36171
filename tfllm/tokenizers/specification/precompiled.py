"""The normalizer Precompiled of tokenizer.json: a SentencePiece table as `tokenizers` applies it.

SentencePiece replaces the longest matching entry of its table at each position. The library goes
from one grapheme (one character on the screen) to the next. If the grapheme is shorter than six
bytes and begins with an entry, the shortest of these entries replaces all of it; otherwise each
code point is looked up separately. So the accent of a ligature with an accent is lost. This module
does not use TensorFlow.
"""

from __future__ import annotations

import base64
import functools
import json
import struct
import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfllm.tokenizers.specification.character_classes import NUM_CODE_POINTS, distinct_pages

SHORT = 6
"""Number of bytes from which the code points of a grapheme are looked up one by one."""
OTHER, JOINS, CONTROL, PREPEND, LEADING, VOWEL, TRAILING = range(7)
"""Classes that decide where a grapheme ends. JOINS belongs to the character before it, PREPEND to
the one after it, and CONTROL to neither; the others are the three kinds of parts of Hangul
syllables. A whole syllable counts as VOWEL, or as TRAILING if it ends in a consonant; each of them
may also begin a grapheme."""
_PAGE_BITS = 7
_PACKED = 21
"""Number of bits of a code point in a key of several."""
# Unicode's Grapheme_Cluster_Break=Prepend below U+10000: the others are too long to matter.
_PREPENDED = (*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0xD4E)
_HANGUL = {
    LEADING: ((0x1100, 0x1160), (0xA960, 0xA97D)),
    VOWEL: ((0x1160, 0x11A8), (0xD7B0, 0xD7C7)),
    TRAILING: ((0x11A8, 0x1200), (0xD7CB, 0xD7FC)),
}
SYLLABLES = (0xAC00, 0xD7A4)
_TRAILERS = 28
"""Distance between Hangul syllables without a final consonant."""
# Control characters; a table leaves at least one of them unchanged.
_BETWEEN = ("\ufff9", "\ufffa", "\ufffb", *map(chr, range(1, 9)))


@dataclass(frozen=True)
class PrecompiledTable:
    """The replacements of characters.

    Attributes:
        page_of: int32 [8704], the page of each run of 128 code points.
            entry_of: int32 [pages * 128], the entry of each code point of each page; -1 for no
                change.
            keys: int64 [...], two or three code points that an entry replaces together; see
                `packed`.
            key_entries: int32 [...], the entries of these keys.
            splits: int32 [entries + 1], where each entry's characters begin and end.
            values: int32 [...], the characters of all entries.
    """

    page_of: np.ndarray
    entry_of: np.ndarray
    keys: np.ndarray
    key_entries: np.ndarray
    splits: np.ndarray
    values: np.ndarray

    page_bits = _PAGE_BITS


@functools.lru_cache(maxsize=4)
def precompiled_table(charsmap: bytes) -> PrecompiledTable:
    """Read the table of a `precompiled_charsmap`.

    Raises:
        ValueError: If it changes every character that could separate two others.
    """
    normalize = _normalizer(charsmap).normalize_str
    between = next((c for c in _BETWEEN if normalize(f"a{c}a") == f"a{c}a"), None)
    if between is None:
        raise ValueError("a precompiled_charsmap that changes all control characters")
    entries: dict[str, int] = {}
    entry_of = np.full(NUM_CODE_POINTS, -1, np.int32)
    for low, high in ((0, 0xD800), (0xE000, 0x30000), (0xE0000, 0xE1000)):
        points = [p for p in range(low, high) if chr(p) != between]
        forms = normalize(between.join(map(chr, points))).split(between)
        for point, form in zip(points, forms, strict=True):
            if form != chr(point):
                entry_of[point] = entries.setdefault(form, len(entries))
    keys, key_entries = [], []
    for key, form in _long_keys(charsmap, entry_of):
        keys.append(packed(key))
        key_entries.append(entries.setdefault(form, len(entries)))
    page_of, pages = distinct_pages(entry_of.reshape(-1, 1 << _PAGE_BITS))
    lengths = [len(form) for form in entries]
    return PrecompiledTable(
        page_of=page_of,
        entry_of=pages.reshape(-1),
        keys=np.array(keys, np.int64),
        key_entries=np.array(key_entries, np.int32),
        splits=np.cumsum([0, *lengths]).astype(np.int32),
        values=np.array([ord(c) for form in entries for c in form], np.int32),
    )


def packed(characters: str) -> int:
    """Pack up to three code points into one number."""
    points = [*map(ord, characters), 0, 0][:3]
    return points[0] << 2 * _PACKED | points[1] << _PACKED | points[2]


def _long_keys(charsmap: bytes, entry_of: np.ndarray) -> list[tuple[str, str]]:
    """The entries of two or three code points that can match, and their replacements: those that
    are short enough and do not begin with a shorter entry."""
    found = dict(_entries(charsmap))
    long = []
    for key, form in found.items():
        shorter = entry_of[ord(key[0])] >= 0 or (len(key) == 3 and key[:2] in found)
        if 1 < len(key) <= 3 and not shorter:
            long.append((key, form))
    return long


def _entries(charsmap: bytes) -> list[tuple[str, str]]:
    """The entries of a table that are shorter than six bytes: a double array (Aoe, 1989)."""
    (size,) = struct.unpack_from("<I", charsmap)
    units = np.frombuffer(charsmap, "<u4", size // 4, 4).astype(np.int64)
    blob = charsmap[4 + size :]

    def offsets(of: np.ndarray) -> np.ndarray:
        return (of >> 10) << ((of & (1 << 9)) >> 6)

    entries = []
    nodes = np.array([0], np.int64) ^ offsets(units[:1])
    keys = np.zeros((1, 0), np.uint8)
    every = np.arange(1, 256, dtype=np.int64)
    for _ in range(SHORT - 1):
        children = nodes[:, np.newaxis] ^ every
        inside = children < len(units)
        child_units = units[np.where(inside, children, 0)]
        labels = child_units & ((1 << 31) | 0xFF)
        parent, byte = np.nonzero(inside & (labels == every))
        keys = np.concatenate([keys[parent], (byte + 1)[:, np.newaxis].astype(np.uint8)], 1)
        reached = child_units[parent, byte]
        nodes = children[parent, byte] ^ offsets(reached)
        for i in np.flatnonzero((reached >> 8) & 1):
            start = int(units[nodes[i]] & ((1 << 31) - 1))
            form = blob[start : blob.index(b"\0", start)]
            try:
                entries.append((keys[i].tobytes().decode(), form.decode()))
            except UnicodeDecodeError:  # the library compares whole characters
                continue
    return entries


@functools.lru_cache(maxsize=1)
def grapheme_classes() -> tuple[np.ndarray, np.ndarray]:
    """The class of each code point in two steps: int32 [8704], the page of each run of 128, and
    int32 [pages * 128], the class of each code point on it."""
    classes = np.full(NUM_CODE_POINTS, OTHER, np.int32)
    for point in (*range(0xD800), *range(0xE000, 0x30000), *range(0xE0000, 0xE1000)):
        if unicodedata.category(chr(point)) in ("Cc", "Cf", "Zl", "Zp"):
            classes[point] = CONTROL
    classes[0xE0000:0xE1000] = CONTROL
    classes[list(_joining())] = JOINS
    classes[list(_PREPENDED)] = PREPEND
    for kind, ranges in _HANGUL.items():
        for low, high in ranges:
            classes[low:high] = kind
    syllables = np.arange(*SYLLABLES)
    open_ = (syllables - SYLLABLES[0]) % _TRAILERS == 0
    classes[syllables] = np.where(open_, VOWEL, TRAILING)
    page_of, pages = distinct_pages(classes.reshape(-1, 1 << _PAGE_BITS))
    return page_of, pages.reshape(-1)


def _joining() -> list[int]:
    """The code points that belong to the character before them, probed from the library: with a
    table whose only entry is "a", it drops them after an "a"."""
    normalize = _normalizer(_table_of_a()).normalize_str
    points = [p for p in (*range(2, 0xD800), *range(0xE000, 0x30000)) if p != ord("a")]
    points += range(0xE0000, 0xE1000)
    forms = normalize("".join(f"\1a{chr(point)}" for point in points)).split("\1")[1:]
    return [point for point, form in zip(points, forms, strict=True) if form == "x"]


def _table_of_a() -> bytes:
    units = np.zeros(512, np.uint32)
    units[0] = 256 << 10
    node = 256 ^ ord("a")
    units[node] = 1 << 10 | 1 << 8 | ord("a")
    units[node ^ 1] = 1 << 31
    return struct.pack("<I", units.nbytes) + units.astype("<u4").tobytes() + b"x\0"


def _normalizer(charsmap: bytes) -> Any:
    from tokenizers import Tokenizer, models

    settings = {
        "type": "Precompiled",
        "precompiled_charsmap": base64.b64encode(charsmap).decode("ascii"),
    }
    content = {**json.loads(Tokenizer(models.BPE()).to_str()), "normalizer": settings}
    return Tokenizer.from_str(json.dumps(content)).normalizer
