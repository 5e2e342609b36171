"""The files that a preparation reads, and the division of their documents into splits."""

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
"""used instead of a hash for the parts of a divided document: held out, or for training"""


@dataclass
class PreparationInputs:
    """Settings and files of a preparation."""

    config: PrepareConfig
    files: list[SourceFile]
    """training files, from which validation data may be held out"""
    held_out: list[SourceFile]
    """validation files; empty: a fraction of `files` is held out"""
    bar: Callable[..., Any]
    """creates a progress bar"""
    notes: list[str]
    """notes on files that were left out"""
    left_out: LeftOut
    """files in folders that contain no records"""

    @classmethod
    def find(
        cls,
        source: str | Path | Sequence[str | Path],
        config: PrepareConfig,
        kind: Kind,
        *,
        exclude: Sequence[str | Path] = (),
        bar: Callable[..., Any],
        warn: bool = True,
    ) -> PreparationInputs:
        """Find the files of a preparation.

        Args:
            source: files, folders and globs.
            config: settings of the preparation.
            kind: kind of the records.
            exclude: folders that are not searched.
            bar: creates a progress bar.
            warn: whether to warn of tables that are left out.

        Raises:
            FileNotFoundError: there are no such files.
            ConfigError: a file cannot contain records of that kind.
            ValueError: nothing is left to train on, or a table has no known column.
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
        for note in notes + more_notes if warn else ():
            warnings.warn(note, UserWarning, stacklevel=6)  # the caller of `prepare`
        check_kind([*files, *held_out], kind)
        return cls(config, files, held_out, bar, notes + more_notes, left_out)

    def all_notes(self, notes: list[str]) -> list[str]:
        """The notes of a preparation together with those on the files."""
        return [*self.notes, *notes, *self.left_out.notes()]

    @property
    def all_files(self) -> list[SourceFile]:
        """All files, those of validation first, so that copies of their records are recognised."""
        return [*self.held_out, *self.files]

    def sides(self) -> Iterator[tuple[bool, list[SourceFile]]]:
        """Yields pairs: whether they are the validation files, and the files."""
        yield False, self.files
        if self.held_out:
            yield True, self.held_out

    def entry(self, file: SourceFile) -> dict[str, Any]:
        """The manifest's entry for a file."""
        entry = {"path": file.path.as_posix(), "num_bytes": file.num_bytes}
        return {**entry, "split": "validation"} if file in self.held_out else entry


class Division:
    """Decides which documents are held out for validation, after reading all of them once."""

    def __init__(self, inputs: PreparationInputs) -> None:
        self.census = CorpusCensus()
        self.copies = 0
        """number of documents in the training files that are also in the validation files"""
        self._explicit = bool(inputs.held_out)
        fraction = inputs.config.validation_fraction
        assert fraction is not None
        self._fraction = fraction
        self._held_out: set[int] = set()
        self._limit = -1
        self.boundary: Boundary | None = None
        """the documents that are divided; None: none are"""

    def add(self, hashed: int, num_bytes: int, *, held_out: bool) -> None:
        """Count a document."""
        self.census.add(hashed, num_bytes)
        if held_out:
            self._held_out.add(hashed)
        elif hashed in self._held_out:
            self.copies += 1

    def close(self, noun: str, *, divides: bool = False) -> list[str]:
        """Decide, after all documents were added; returns notes.

        Args:
            noun: noun for a document in the notes.
            divides: whether a document that is too large to be held out whole may be divided.
        """
        if self._explicit:
            if not self.copies:
                return []
            are = "is" if self.copies == 1 else "are"
            note = f"{self.copies:,} of the training {noun}s {are} also in the validation files"
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
        """A document, or the parts of one that is divided, each with the hash of its split.

        A document of the boundary that cannot be divided is held out, or not, as a whole.
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
        """Documents whose hash is at most this are held out; -1 if there are validation files."""
        return -1 if self._explicit else self._limit

    def is_held_out(self, hashed: int) -> bool:
        """Whether a document is held out by its hash; false if there are validation files."""
        return not self._explicit and hashed <= self._limit

    def mask(self, hashes: np.ndarray, *, held_out: bool) -> np.ndarray:
        """Mask of the validation documents, bool [documents].

        Args:
            hashes: hashes of the documents, uint64 [documents].
            held_out: whether the documents come from the validation files.
        """
        if self._explicit or self._limit < 0:
            return np.full(hashes.shape, held_out)
        return hashes <= np.uint64(self._limit)


def _without(files: list[SourceFile], others: list[SourceFile]) -> list[SourceFile]:
    """The files that are not in `others`, such as a folder's files without the validation files."""
    taken = {os.path.realpath(file.path) for file in others}
    left = [file for file in files if os.path.realpath(file.path) not in taken]
    if not left:
        raise ValueError(
            "there is nothing left to train on: all files are validation files "
            f"({', '.join(str(file.path) for file in others[:5])}); give others"
        )
    return left


def given_tokenizer(path: str) -> Tokenizer:
    """Load the tokenizer of a model folder or file, or of a tokenizer.json.

    Raises:
        FileNotFoundError: there is no tokenizer.
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
            f"the tokenizer {path} must have an end token, to separate documents: {error}"
        ) from None
    assert 0 <= end < tokenizer.vocab_size
    return tokenizer


def end_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """The manifest's entries for the token that follows each document."""
    return {"end_token": tokenizer.end_token, "end_token_id": tokenizer.end_token_id}


def empty_files(files: list[SourceFile], counts: list[int]) -> list[str]:
    """Warn of files without content; returns the notes."""
    empty = [str(file.path) for file, count in zip(files, counts, strict=True) if count == 0]
    if not empty:
        return []
    names = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
    note = f"{len(empty)} of {len(files)} files contain no text and were skipped: {names}"
    warnings.warn(note, UserWarning, stacklevel=4)  # the caller of `prepare`
    return [note]


def expect_unchanged(census: CorpusCensus, num_documents: int, num_bytes: int) -> None:
    """Check that the text has not changed since it was first read.

    Raises:
        ValueError: it has another size.
    """
    if (num_documents, num_bytes) != (census.num_documents, census.num_bytes):
        raise ValueError(
            "the text must not change while it is prepared: at first it had "
            f"{census.num_documents} documents and {census.num_bytes} bytes, later "
            f"{num_documents} and {num_bytes}; prepare it again when nothing writes to it"
        )
