"""Prepare examples and preferences as sequences of tokens with a mask of the learned ones."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfllm.config import ConfigError
from tfllm.data.preparing.example_tokenizing import ExampleJob, TokenizedExamples
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
from tfllm.data.reading.example import Example
from tfllm.data.reading.example_records import ExampleReader
from tfllm.data.reading.json_records import BadRecord, BadRecords, OnBad
from tfllm.data.reading.preference_records import PreferenceReader
from tfllm.data.reading.record_keys import note_of_unused
from tfllm.data.reading.record_kinds import Kind
from tfllm.data.reading.sources import SourceFile, records
from tfllm.data.shards.shard_files import ShardWriter, file_sha256, token_dtype

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer
    from tfllm.tokenizers.chat.chat_template import ChatTemplate

_PLACES = 5
"""maximum number of places that a note lists"""


class ExamplePreparation:
    """The preparation of examples or preferences.

    Args:
        inputs: settings and files.
        kind: kind of the records: "examples" or "preference".

    Raises:
        ConfigError: no tokenizer is given.
    """

    def __init__(self, inputs: PreparationInputs, kind: Kind) -> None:
        self.notes: list[str] = []
        """notes about the result"""
        self._inputs = inputs
        self._config = inputs.config
        self.layout = self._kind = kind
        self._division = Division(inputs)
        self._counts: list[int] = []
        self._bad = BadRecords(inputs.config.skip_bad_records)
        self._num_nothing = 0
        self._nothing: list[str] = []
        """places of the first examples that have nothing to learn"""
        path = inputs.config.tokenizer
        if path is None:
            raise ConfigError(
                f"{'examples' if kind == 'examples' else 'preferences'}, as in "
                f"{inputs.all_files[0].path}, need the tokenizer of the model that will be trained "
                "on them; set tokenizer to the model's folder or its GGUF file. (To train a new "
                "tokenizer and a new model, give text, or treat the records as text with --task "
                "language_modeling)"
            )
        self._tokenizer = given_tokenizer(path)
        self._template: ChatTemplate | None = None
        if self._tokenizer.settings.get("chat_template"):
            from tfllm.tokenizers.chat.chat_template import ChatTemplate

            self._template = ChatTemplate.of(self._tokenizer)
        self._reader = self._new_reader()
        """the reader, which counts the records that it leaves out"""

    def survey(self) -> None:
        """Read all records once, and decide which are held out for validation.

        Raises:
            ValueError: a record is malformed, or there are none; or there are conversations, but
                no chat template.
        """
        inputs, census = self._inputs, self._division.census
        files = inputs.all_files
        with inputs.bar(total=sum(f.num_bytes for f in files), desc="reading") as progress:
            for i, file in enumerate(files):
                before = census.num_documents
                read = self._read(file, self._reader, self._bad, on_read=progress.update)
                for example in read:
                    self._expect_template(example)
                    hashed = document_hash(example.key(), self._config.seed)
                    self._division.add(hashed, example.size(), held_out=i < len(inputs.held_out))
                self._counts.append(census.num_documents - before)
        if census.num_documents == 0:
            names = ", ".join(str(file.path) for file in files[:5])
            if self._reader.left_out:
                raise ValueError(f"there is nothing to learn from: {self._left_out_note()}")
            raise ValueError(
                f"there is no record in {names}{', ...' if len(files) > 5 else ''}"
                + (f": {self._bad.note()}" if self._bad.count else "; give files with records")
            )
        self.notes += empty_files(files, self._counts)
        self.notes += self._division.close("example")
        self.notes += [*self._warn_no_end(), *self._warn_left_out(), *self._unused_keys()]

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model to train."""
        return self._tokenizer

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the shards.

        Returns:
            The manifest's entries for them.

        Raises:
            ValueError: the chat template refuses a conversation, there is nothing to learn, or the
                files have changed since `survey`.
        """
        inputs, census = self._inputs, self._division.census
        has_template = self._template is not None
        dtype = token_dtype(self._tokenizer.vocab_size)
        job = ExampleJob(self._tokenizer, has_template, dtype, self._config.seed)
        reader = self._new_reader()
        writers = {
            name: _SplitWriter(folder, name, dtype, self._config.shard_tokens)
            for name in ("train", "validation")
        }
        num_processes = count_processes(self._config.num_processes, census.num_bytes)
        num_bad, num_read = 0, 0
        try:
            with inputs.bar(total=census.num_bytes, desc="tokenizing") as progress:
                for held_out, files in inputs.sides():
                    # The records that are malformed were counted by `survey`.
                    ignore = BadRecords(self._config.skip_bad_records)
                    examples = (e for file in files for e in self._read(file, reader, ignore))
                    with closing(tokenize(examples, job, num_processes)) as batches:
                        for batch in batches:
                            for error in batch.bad:
                                self._bad(error)
                            num_bad, num_read = num_bad + len(batch.bad), num_read + batch.num_read
                            self._num_nothing += len(batch.nothing)
                            self._nothing += batch.nothing[: _PLACES + 1 - len(self._nothing)]
                            mask = self._division.mask(batch.hashes, held_out=held_out)
                            writers["train"].write(batch, ~mask)
                            writers["validation"].write(batch, mask)
                            progress.update(batch.num_read)
            for writer in writers.values():
                writer.close()
        finally:
            for writer in writers.values():
                writer.abandon()
        kept = sum(writer.num_documents for writer in writers.values())
        expect_unchanged(census, kept + self._num_nothing + num_bad, num_read)
        if not writers["train"].num_documents:
            raise ValueError(self._why_nothing())
        self.notes += self._bad.warn()
        self.notes += self._warn_nothing()
        return {
            "records": self._kind,
            "dtype": dtype,
            **end_of(self._tokenizer),
            "splits": {name: writer.entry() for name, writer in writers.items()},
            "sources": self._sources(),
            "chat_template": self._template is not None,
            "num_bad_records": self._bad.count,
            "num_left_out": len(self._reader.left_out),
            "unused_keys": dict(self._reader.unused),
            "unused_message_keys": dict(self._reader.unused_in_messages),
        }

    def all_notes(self) -> list[str]:
        """All notes about the result."""
        return self._inputs.all_notes(self.notes)

    def _sources(self) -> list[dict[str, Any]]:
        """The manifest's entries for the files."""
        counted = zip(self._inputs.all_files, self._counts, strict=True)
        return [
            {
                **self._inputs.entry(file),
                "num_documents": count,
                "sha256": file_sha256(file.path),
            }
            for file, count in counted
        ]

    def _new_reader(self) -> ExampleReader:
        kind = PreferenceReader if self._kind == "preference" else ExampleReader
        config = self._config
        return kind(
            text_field=config.text_field,
            columns=config.column_names,
            ignored=config.ignore_keys,
            has_template=self._template is not None,
            reads=self._template.mentions if self._template is not None else bool,
        )

    def _read(
        self, file: SourceFile, reader: ExampleReader, on_bad: OnBad, **options: Any
    ) -> Iterator[Example]:
        for record in records(file, on_bad=on_bad, **options):
            try:
                example = reader(record)
            except BadRecord as error:
                on_bad(error)
                continue
            if example is not None:
                yield example

    def _expect_template(self, example: Example) -> None:
        if self._template is not None or example.plain or example.text is not None:
            return
        raise ValueError(
            f"{example.where} is a conversation, but the tokenizer {self._config.tokenizer} has no "
            "chat template to format it with; use the tokenizer of a chat model, put a "
            "chat_template.jinja next to it, or give records with prompt and response"
        )

    def _why_nothing(self) -> str:
        bad = f" {self._bad.note()}." if self._bad.count else ""
        if not self._num_nothing:
            return f"no example is left to train on.{bad}"
        lack = (
            "both replies are the same"
            if self._kind == "preference"
            else "they have no words of the assistant, no response and no text"
        )
        return (
            f"there is nothing to learn from: {self._num_nothing:,} examples were left out because "
            f"{lack} ({_listed(self._nothing)}).{bad} A model learns the contents of messages "
            "whose role is assistant, responses, and texts"
        )

    def _warn_no_end(self) -> list[str]:
        if self._template is None or self._template.writes_an_end:
            return []
        ends = [t for t, i in self._tokenizer.special_tokens.items()
                if i in self._tokenizer.end_token_ids]  # fmt: skip
        note = (
            "the chat template writes no end token after the assistant's words, so a model trained "
            "with it never stops; add one there, such as {{ eos_token }} (end tokens of this "
            f"tokenizer: {', '.join(ends)})"
        )
        warnings.warn(note, UserWarning, stacklevel=4)  # the caller of `prepare`
        return [note]

    def _warn_left_out(self) -> list[str]:
        if not self._reader.left_out:
            return []
        warnings.warn(self._left_out_note(), UserWarning, stacklevel=4)  # the caller of `prepare`
        return [self._left_out_note()]

    def _left_out_note(self) -> str:
        places = self._reader.left_out
        one = len(places) == 1
        return (
            f"{len(places):,} record{' is' if one else 's are'} marked as not to be learned (label "
            f"false or weight 0) and {'was' if one else 'were'} left out: {_listed(places)}"
        )

    def _unused_keys(self) -> list[str]:
        return [
            *note_of_unused("records", self._reader.unused),
            *note_of_unused("messages", self._reader.unused_in_messages),
        ]

    def _warn_nothing(self) -> list[str]:
        if not self._num_nothing:
            return []
        one = self._num_nothing == 1
        note = (
            f"{self._num_nothing:,} example{' has' if one else 's have'} nothing to learn from and "
            f"{'was' if one else 'were'} left out: {_listed(self._nothing)}"
        )
        warnings.warn(note, UserWarning, stacklevel=4)  # the caller of `prepare`
        return [note]


class _SplitWriter:
    """Writes the three streams of a split: ids, the mask of learned tokens, and the index."""

    def __init__(self, folder: Path, split: str, dtype: str, shard_tokens: int) -> None:
        self.num_documents = 0
        self._num_bytes = 0
        self._num_learned = 0
        self._tokens = ShardWriter(folder, split, dtype, shard_tokens)
        self._learned = ShardWriter(folder, f"{split}-learned", "uint8", shard_tokens)
        self._index = ShardWriter(folder, f"{split}-index", "uint32", shard_tokens)

    def write(self, batch: TokenizedExamples, mask: np.ndarray) -> None:
        """Append the examples for which `mask` (bool [examples]) is true."""
        if not mask.any():
            return
        of_sequence = np.repeat(mask, len(batch.index) // len(mask))
        of_token = np.repeat(of_sequence, batch.index[:, 0].astype(np.int64))
        learned = batch.learned[of_token]
        self._tokens.write(batch.tokens[of_token])
        self._learned.write(learned)
        self._index.write(batch.index[of_sequence].reshape(-1))
        self.num_documents += int(mask.sum())
        self._num_bytes += int(batch.num_bytes[mask].sum())
        self._num_learned += int(learned.sum())

    def close(self) -> None:
        for writer in (self._tokens, self._learned, self._index):
            writer.close()

    def abandon(self) -> None:
        for writer in (self._tokens, self._learned, self._index):
            writer.abandon()

    def entry(self) -> dict[str, Any]:
        """The manifest's entry for the split."""
        streams = {"shards": self._tokens, "learned": self._learned, "index": self._index}
        return {
            "num_tokens": self._tokens.num_tokens,
            "num_learned": self._num_learned,
            "num_documents": self.num_documents,
            "num_bytes": self._num_bytes,
            **{
                name: [dataclasses.asdict(shard) for shard in writer.shards]
                for name, writer in streams.items()
            },
        }


def _listed(places: list[str]) -> str:
    return "; ".join(places[:_PLACES]) + ("; ..." if len(places) > _PLACES else "")
