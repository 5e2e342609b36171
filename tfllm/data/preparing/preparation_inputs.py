"""The files that a preparation of documents or conversations reads, and how they are divided."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfllm.config import PrepareConfig
from tfllm.data.preparing.splitting import Boundary, CorpusCensus, divided
from tfllm.data.reading.record_kinds import Kind, check_kind, without_other_tables
from tfllm.data.reading.sources import LeftOut, SourceFile, find_files

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer


_HELD_OUT, _TRAIN = 0, 2**64 - 1
"""in place of a hash: the sides that the parts of a divided document are on"""


@dataclass
class PreparationInputs:
    """Settings and files."""

    config: PrepareConfig
    files: list[SourceFile]
    """to train on, or to divide"""
    held_out: list[SourceFile]
    """the validation set; empty: a share of `files` is kept out"""
    bar: Callable[..., Any]
    """makes a progress bar"""
    notes: list[str]
    """on files that were left out"""
    left_out: LeftOut
    """files of folders that hold no records"""

    @classmethod
    def find(
        cls,
        source: str | Path | Sequence[str | Path],
        config: PrepareConfig,
        kind: Kind,
        *,
        exclude: Sequence[str | Path] = (),
        bar: Callable[..., Any],
        tell: bool = True,
    ) -> PreparationInputs:
        """The files that are there.

        Args:
            source: files, folders and globs.
            config: settings.
            kind: of their records.
            exclude: folders that are not searched.
            bar: makes a progress bar.
            tell: warn of tables that are left out.

        Raises:
            FileNotFoundError: there are no such files.
            ConfigError: a file cannot hold records of that kind.
            ValueError: nothing is left to train on, or a table has no column that is known.
        """
        left_out = LeftOut()
        options: dict[str, Any] = {
            "exclude": exclude,
            "encoding": config.encoding,
            "left_out": left_out,
        }
        files = find_files(source, **options)
        held_out = find_files(config.validation, **options) if config.validation else []
        files, notes = without_other_tables(_without(files, held_out), config, kind)
        held_out, more_notes = without_other_tables(held_out, config, kind)
        for note in notes + more_notes if tell else ():
            warnings.warn(note, UserWarning, stacklevel=6)  # the caller of `prepare`
        check_kind([*files, *held_out], kind)
        return cls(config, files, held_out, bar, notes + more_notes, left_out)

    def all_notes(self, notes: list[str]) -> list[str]:
        """What a preparation has to say, together with what is to be told of the files."""
        return [*self.notes, *notes, *self.left_out.notes()]

    @property
    def all_files(self) -> list[SourceFile]:
        """Those of validation first, so that copies of what they hold are known."""
        return [*self.held_out, *self.files]

    def sides(self) -> Iterator[tuple[bool, list[SourceFile]]]:
        """(whether they are the validation set, files)."""
        yield False, self.files
        if self.held_out:
            yield True, self.held_out

    def entry(self, file: SourceFile) -> dict[str, Any]:
        """What the manifest says of a file."""
        entry = {"path": file.path.as_posix(), "num_bytes": file.num_bytes}
        return {**entry, "split": "validation"} if file in self.held_out else entry


class Division:
    """Which documents are kept for validation, as one reading of all of them finds."""

    def __init__(self, inputs: PreparationInputs) -> None:
        self.census = CorpusCensus()
        self.copies = 0
        """documents of the files to train on that the validation files hold, too"""
        self._explicit = bool(inputs.held_out)
        fraction = inputs.config.validation_fraction
        assert fraction is not None
        self._fraction = fraction
        self._held_out: set[int] = set()
        self._limit = -1
        self.boundary: Boundary | None = None
        """which documents are divided"""

    def add(self, hashed: int, num_bytes: int, *, held_out: bool) -> None:
        """Count a document."""
        self.census.add(hashed, num_bytes)
        if held_out:
            self._held_out.add(hashed)
        elif hashed in self._held_out:
            self.copies += 1

    def close(self, noun: str, *, divides: bool = False) -> list[str]:
        """Decide, now that all are known; what there is to say about it.

        Args:
            noun: what is counted.
            divides: one that is too large to be kept out whole may be divided.
        """
        if self._explicit:
            if not self.copies:
                return []
            are = "is" if self.copies == 1 else "are"
            note = f"{self.copies:,} of the {noun}s to train on {are} in the validation files, too"
            warnings.warn(note, UserWarning, stacklevel=4)  # the caller of `prepare`
            return [note]
        self._limit = self.census.validation_limit(self._fraction)
        self.boundary = self.census.boundary(self._fraction) if divides else None
        if self.boundary is not None:
            self._limit = max(self._limit, _HELD_OUT)
            return []
        if self._fraction > 0 and self._limit < 0:
            return [
                f"there is no validation split: the text is a single {noun} (or copies of one), "
                f"and {'an' if noun[0] in 'aeiou' else 'a'} {noun} is never split"
            ]
        return []

    def parts_of(self, text: str, hashed: int) -> list[tuple[str, int]]:
        """A document, or the parts of one that is divided, each with the hash of its side.

        Where a document of the boundary cannot be divided, it is kept out or not as a whole.
        """
        boundary = self.boundary
        if boundary is None or not boundary.divides(hashed):
            return [(text, hashed)]
        parts = divided(text, boundary.share, hashed)
        if parts is None:
            return [(text, hashed)]
        sides = (_TRAIN, _HELD_OUT, _TRAIN)
        return [(part, side) for part, side in zip(parts, sides, strict=True) if part]

    @property
    def limit(self) -> int:
        """Documents whose hash is at most this are kept for validation; -1 for validation files."""
        return -1 if self._explicit else self._limit

    def is_held_out(self, hashed: int) -> bool:
        """Whether the hash keeps a document out of training; not for validation files."""
        return not self._explicit and hashed <= self._limit

    def mask(self, hashes: np.ndarray, *, held_out: bool) -> np.ndarray:
        """bool [documents]: which belong to validation.

        Args:
            hashes: uint64 [documents].
            held_out: whether they come from the validation files.
        """
        if self._explicit or self._limit < 0:
            return np.full(hashes.shape, held_out)
        return hashes <= np.uint64(self._limit)


def _without(files: list[SourceFile], others: list[SourceFile]) -> list[SourceFile]:
    """The files that are not among `others`, such as those of a folder but for its validation."""
    taken = {os.path.realpath(file.path) for file in others}
    left = [file for file in files if os.path.realpath(file.path) not in taken]
    if not left:
        raise ValueError(
            "there is nothing left to train on: all files are those of validation "
            f"({', '.join(str(file.path) for file in others[:5])}); name others"
        )
    return left


def given_tokenizer(path: str) -> Tokenizer:
    """The tokenizer of a model folder or file, or of a tokenizer.json.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or has no end token.
    """
    place = Path(path)
    tokenizer: Tokenizer
    if place.suffix in (".json", ".model") and not place.is_dir():
        from tfllm.tokenizers.reading import read_tokenizer

        tokenizer = read_tokenizer(place)
    else:
        from tfllm.pretrained import load_tokenizer

        tokenizer = load_tokenizer(path)
    try:
        end = tokenizer.end_token_id
    except ValueError as error:
        raise ValueError(
            f"the tokenizer {path} must have an end token, which stands between documents: {error}"
        ) from None
    assert 0 <= end < tokenizer.vocab_size
    return tokenizer


def end_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """What the manifest says of the token that follows each document."""
    return {"end_token": tokenizer.end_token, "end_token_id": tokenizer.end_token_id}


def empty_files(files: list[SourceFile], counts: list[int]) -> list[str]:
    """A note, and a warning, on files that held nothing."""
    empty = [str(file.path) for file, count in zip(files, counts, strict=True) if count == 0]
    if not empty:
        return []
    names = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
    note = f"{len(empty)} of {len(files)} files held no text and were passed over: {names}"
    warnings.warn(note, UserWarning, stacklevel=4)  # the caller of `prepare`
    return [note]


def expect_unchanged(census: CorpusCensus, num_documents: int, num_bytes: int) -> None:
    """Refuse text that is not what the first reading found.

    Raises:
        ValueError: it has another size.
    """
    if (num_documents, num_bytes) != (census.num_documents, census.num_bytes):
        raise ValueError(
            "the text must not change while it is prepared: at first it had "
            f"{census.num_documents} documents and {census.num_bytes} bytes, later "
            f"{num_documents} and {num_bytes}; prepare it again when nobody writes to it"
        )
