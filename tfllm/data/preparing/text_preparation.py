"""Prepare text as a stream of tokens, with a given tokenizer or one trained on the text."""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfllm.config.rules import require
from tfllm.data.preparing.document_tokenizing import Document, DocumentJob, TokenizedBatch
from tfllm.data.preparing.middle_filling import MiddleFilling
from tfllm.data.preparing.preparation_inputs import (
    Division,
    PreparationInputs,
    empty_files,
    end_of,
    expect_unchanged,
    given_tokenizer,
)
from tfllm.data.preparing.splitting import document_hash
from tfllm.data.preparing.tokenizing import count_processes, tokenize
from tfllm.data.reading.json_records import BadRecords, OnBad
from tfllm.data.reading.record_keys import note_of_unused
from tfllm.data.reading.sources import SourceFile, check_text, documents, pieces
from tfllm.data.shards.shard_files import ShardWriter, token_dtype
from tfllm.tokenizers.fill_in_the_middle import (
    END,
    SENTINELS,
    SUFFIX_FIRST,
    require_middle_tokens,
)

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer

SAMPLE_BYTES = 100_000_000
"""approximate maximum amount of text that the tokenizer is trained on"""


class TextPreparation:
    """The preparation of text.

    Args:
        inputs: settings and files.

    Raises:
        ConfigError: `vocab_size` is too small for a new tokenizer.
        ValueError: the given tokenizer cannot be used.
    """

    layout = "text"

    def __init__(self, inputs: PreparationInputs) -> None:
        self.notes: list[str] = []
        """notes about the result"""
        self._inputs = inputs
        self._config = inputs.config
        self._division = Division(inputs)
        self._counts: list[int] = []
        self._skipped: dict[Path, str] = {}
        """text files that are left out, and the reasons"""
        self._num_notes = 0
        self._num_divided = 0
        self._more_parts = 0
        """number of parts of divided documents minus the number of these documents"""
        total = sum(file.num_bytes for file in inputs.all_files)
        self._max_document_chars = min(max(total // 64, 1 << 14), 1 << 18)
        path = inputs.config.tokenizer
        self._tokenizer = None if path is None else given_tokenizer(path)
        if self._tokenizer is not None:
            self._middle_filling()  # refuses an unsuitable tokenizer before the text is read
        else:
            require(
                self._config.vocab_size >= 257,
                "vocab_size must be at least 257 (256 bytes and the end token)",
                self._config.vocab_size,
            )

    def survey(self) -> None:
        """Read all documents once, and decide which are held out for validation.

        Raises:
            ValueError: a file is not text, or there is no text at all.
        """
        inputs, census = self._inputs, self._division.census
        bad, unused = BadRecords(self._config.skip_bad_records), Counter[str]()
        files = inputs.all_files
        if self._config.skip_bad_records:
            self._pass_over(files)
        with inputs.bar(total=sum(f.num_bytes for f in files), desc="reading") as progress:
            for i, file in enumerate(files):
                before = census.num_documents
                for text in self._read(file, on_read=progress.update, on_bad=bad, unused=unused):
                    hashed = document_hash(text, self._config.seed)
                    self._division.add(
                        hashed, len(text.encode()), held_out=i < len(inputs.held_out)
                    )
                self._counts.append(census.num_documents - before)
        if census.num_documents == 0:
            names = ", ".join(str(file.path) for file in files[:5])
            raise ValueError(
                f"there is no text: {len(files)} file{'s are' if len(files) > 1 else ' is'} empty "
                f"or white space only ({names}{', ...' if len(files) > 5 else ''}); give files "
                + ". ".join(["with text", *self.notes, *([bad.note()] if bad.count else [])])
            )
        skipped = [file.path in self._skipped for file in files]
        counted = [c or int(s) for c, s in zip(self._counts, skipped, strict=True)]
        self.notes += empty_files(files, counted)
        self.notes += [*bad.warn(), *note_of_unused("records", unused)]
        self.notes += self._division.close("document", divides=True)
        self._num_notes = len(self.notes)

    def _pass_over(self, files: list[SourceFile]) -> None:
        """Find the text files that are in another encoding, binary or damaged.

        A file with an invalid byte anywhere is left out as a whole, so each file is checked to its
        end before any of it is used.
        """
        for file in files:
            if file.format == "text":
                try:
                    check_text(file)
                except ValueError as error:
                    self._skipped[file.path] = str(error)
        if self._skipped:
            names = [str(path) for path in self._skipped]
            files_were = "file was" if len(names) == 1 else "files were"
            first = next(iter(self._skipped.values()))
            note = (
                f"{len(names):,} {files_were} skipped ({', '.join(names[:5])}"
                f"{', ...' if len(names) > 5 else ''}). The first: {first}"
            )
            warnings.warn(note, UserWarning, stacklevel=4)  # the caller of `prepare`
            self.notes.append(note)

    def tokenizer(self) -> Tokenizer:
        """The given tokenizer, or a new one.

        A new one is trained only on the train split, so that no validation text leaks into it.
        """
        if self._tokenizer is None:
            from tfllm.tokenizers import BytePairTokenizer

            with self._bar("training the tokenizer") as progress:
                vocab_size = self._config.vocab_size
                special = (END, *SENTINELS) if self._config.fill_in_the_middle else (END,)
                self._tokenizer = BytePairTokenizer.train(
                    self._sample(progress),
                    vocab_size,
                    special_tokens=special,
                    split=self._config.split,
                )
            if self._tokenizer.vocab_size < vocab_size:
                self.notes.append(
                    f"the text has too few different words for {vocab_size} tokens: the tokenizer "
                    f"has {self._tokenizer.vocab_size}"
                )
        config = self._config
        share = config.fill_suffix_first if config.fill_in_the_middle else 0.0
        # If both forms are equally frequent, a new model learns this one sooner, but a pretrained
        # one knows the other.
        if share > 0.5 or (share == 0.5 and config.tokenizer is None):
            self._tokenizer.settings[SUFFIX_FIRST] = True
        return self._tokenizer

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the shards.

        Returns:
            The manifest's entries for them.

        Raises:
            ValueError: the text has changed since `survey`.
        """
        inputs, census = self._inputs, self._division.census
        tokenizer = self.tokenizer()
        dtype = token_dtype(tokenizer.vocab_size)
        filling = self._middle_filling()
        writers = {
            name: ShardWriter(folder, name, dtype, self._config.shard_tokens)
            for name in ("train", "validation")
        }
        num_processes = count_processes(self._config.num_processes, census.num_bytes)
        try:
            with self._bar("tokenizing") as progress:
                for held_out, files in inputs.sides():
                    items = (item for file in files for item in self._items(file, held_out))
                    job = DocumentJob(
                        tokenizer, dtype, self._config.seed,
                        None if held_out else filling, self._division.limit,
                    )  # fmt: skip
                    with closing(tokenize(items, job, num_processes)) as batches:
                        for batch in batches:
                            self._write_batch(batch, writers, held_out)
                            progress.update(int(batch.num_bytes.sum()))
            for writer in writers.values():
                writer.close()
        finally:
            for writer in writers.values():
                writer.abandon()
        expect_unchanged(
            census,
            sum(writer.num_documents for writer in writers.values()) - self._more_parts,
            sum(writer.num_bytes for writer in writers.values()),
        )
        if self._division.boundary is not None:
            self.notes.insert(self._num_notes, self._about_division())
        return {
            "dtype": dtype,
            **end_of(tokenizer),
            "splits": {name: _split_entry(writer) for name, writer in writers.items()},
            "sources": self._sources(),
            "max_document_chars": self._max_document_chars,
        }

    def all_notes(self) -> list[str]:
        """All notes about the result."""
        return self._inputs.all_notes(self.notes)

    def _about_division(self) -> str:
        if self._num_divided:
            documents = "document was" if self._num_divided == 1 else "documents were"
            return (
                f"{self._num_divided} {documents} divided, since whole documents would be more "
                "than twice the validation_fraction: some paragraphs are held out for validation, "
                "the rest is training text; give validation files to keep documents whole"
            )
        if self._division.census.lowest_hash == self._division.census.highest_hash:
            return (
                "there is no validation split: the text is a single document (or copies of one) "
                "that cannot be divided at the end of a paragraph, line or sentence"
            )
        return (
            "the validation split is more than twice the validation_fraction: it is a document "
            "that cannot be divided at the end of a paragraph, line or sentence"
        )

    def _items(self, file: SourceFile, held_out: bool) -> Iterator[Document]:
        """The documents of a file; a document that is divided is replaced by its parts."""
        divides = self._division.boundary is not None and not held_out
        for text in self._read(file):
            if not divides:
                yield Document(text)
                continue
            parts = self._division.parts_of(text, document_hash(text, self._config.seed))
            self._num_divided += len(parts) > 1
            self._more_parts += len(parts) - 1
            yield from (Document(*part) for part in parts)

    def _middle_filling(self) -> MiddleFilling | None:
        config = self._config
        if not config.fill_in_the_middle:
            return None
        tokens = require_middle_tokens(self.tokenizer())
        return MiddleFilling(
            tokens, config.fill_in_the_middle, config.fill_suffix_first, config.fill_chars
        )

    def _sources(self) -> list[dict[str, Any]]:
        """The manifest's entries for the files."""
        counted = zip(self._inputs.all_files, self._counts, strict=True)
        return [{**self._inputs.entry(file), "num_documents": count} for file, count in counted]

    def _read(self, file: SourceFile, on_bad: OnBad | None = None, **options: Any) -> Iterator[str]:
        if file.path in self._skipped:
            return iter(())
        return documents(
            file,
            text_field=self._config.text_field,
            max_document_chars=self._max_document_chars,
            on_bad=on_bad or BadRecords(self._config.skip_bad_records),
            **options,
        )

    def _bar(self, what: str) -> Any:
        return self._inputs.bar(total=self._division.census.num_bytes, desc=what)

    def _sample(self, progress: Any) -> Iterator[str]:
        """The text that the tokenizer is trained on."""
        for file in self._inputs.files:
            for text in self._read(file):
                hashed = document_hash(text, self._config.seed)
                for part, side in self._division.parts_of(text, hashed):
                    sampled = self._division.census.is_sampled(hashed, SAMPLE_BYTES)
                    if sampled and not self._division.is_held_out(side):
                        # In pieces, since the trainer holds 256 strings at a time.
                        yield from pieces([part], 1 << 14)
                progress.update(len(text.encode()))

    def _write_batch(
        self, batch: TokenizedBatch, writers: dict[str, ShardWriter], held_out: bool
    ) -> None:
        kept_out = self._division.mask(batch.hashes, held_out=held_out)
        of_token = np.repeat(kept_out, batch.num_tokens)
        for name, mask in (("train", ~kept_out), ("validation", kept_out)):
            writer = writers[name]
            writer.write(batch.tokens[of_token == (name == "validation")])
            writer.num_documents += int(mask.sum())
            writer.num_bytes += int(batch.num_bytes[mask].sum())


def _split_entry(writer: ShardWriter) -> dict[str, Any]:
    return {
        "num_tokens": writer.num_tokens,
        "num_documents": writer.num_documents,
        "num_bytes": writer.num_bytes,
        "shards": [dataclasses.asdict(shard) for shard in writer.shards],
    }
