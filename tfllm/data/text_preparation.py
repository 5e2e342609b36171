"""Text to a stream of tokens, with a tokenizer that is given or trained on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfllm.data.document_tokenizing import DocumentJob, TokenizedBatch
from tfllm.data.json_records import BadRecords, OnBad
from tfllm.data.middle_filling import MiddleFilling
from tfllm.data.preparation_inputs import (
    Division,
    PreparationInputs,
    empty_files,
    expect_unchanged,
    given_tokenizer,
)
from tfllm.data.shards import ShardWriter
from tfllm.data.sources import SourceFile, documents, pieces
from tfllm.data.splitting import document_hash
from tfllm.data.tokenizing import count_processes, tokenize
from tfllm.tokenizers.fill_in_the_middle import (
    END,
    SENTINELS,
    SUFFIX_FIRST,
    require_middle_tokens,
)

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer

SAMPLE_BYTES = 100_000_000
"""The tokenizer is trained on about so much text at most."""


class TextPreparation:
    """Text on its way to shards."""

    def __init__(self, inputs: PreparationInputs) -> None:
        self.notes: list[str] = []
        """what there is to say about the result"""
        self._inputs = inputs
        self._config = inputs.config
        self._division = Division(inputs)
        self._counts: list[int] = []
        total = sum(file.num_bytes for file in inputs.all_files)
        self._max_document_chars = min(max(total // 64, 1 << 14), 1 << 18)
        path = inputs.config.tokenizer
        self._tokenizer = None if path is None else given_tokenizer(path)
        if self._tokenizer is not None:
            self._middle_filling()  # refuses a tokenizer before all is read

    def survey(self) -> None:
        """Read everything once, and decide what is kept for validation.

        Raises:
            ValueError: a file is not text, or there is none at all.
        """
        inputs, census = self._inputs, self._division.census
        bad = BadRecords(self._config.skip_bad_records)
        files = inputs.all_files
        with inputs.bar(total=sum(f.num_bytes for f in files), desc="reading") as progress:
            for i, file in enumerate(files):
                before = census.num_documents
                for text in self._read(file, on_read=progress.update, on_bad=bad):
                    hashed = document_hash(text, self._config.seed)
                    self._division.add(
                        hashed, len(text.encode()), held_out=i < len(inputs.held_out)
                    )
                self._counts.append(census.num_documents - before)
        if census.num_documents == 0:
            names = ", ".join(str(file.path) for file in files[:5])
            raise ValueError(
                f"there is no text: {len(files)} file{'s are' if len(files) > 1 else ' is'} empty "
                f"or white space only ({names}{', ...' if len(files) > 5 else ''}); name files "
                "with text" + (f". {bad.note()}" if bad.count else "")
            )
        self.notes += empty_files(files, self._counts)
        self.notes += bad.warn()
        self.notes += self._division.close("document")

    def tokenizer(self) -> Tokenizer:
        """The one that is given, or one trained on the train split alone, so that nothing of
        validation leaks into the merges."""
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
        # Of both forms alike a new model learns this one sooner; a pretrained one knows the other.
        if share > 0.5 or (share == 0.5 and config.tokenizer is None):
            self._tokenizer.settings[SUFFIX_FIRST] = True
        return self._tokenizer

    def write(self, folder: Path, dtype: str) -> dict[str, Any]:
        """Write the shards; the splits' entries in the manifest.

        Raises:
            ValueError: the text is not what `survey` read.
        """
        inputs, census = self._inputs, self._division.census
        filling = self._middle_filling()
        writers = {
            name: ShardWriter(folder, name, dtype, self._config.shard_tokens)
            for name in ("train", "validation")
        }
        num_processes = count_processes(self._config.num_processes, census.num_bytes)
        try:
            with self._bar("tokenizing") as progress:
                for held_out, files in inputs.sides():
                    texts = (text for file in files for text in self._read(file))
                    job = DocumentJob(
                        self.tokenizer(), dtype, self._config.seed,
                        None if held_out else filling, self._division.limit,
                    )  # fmt: skip
                    with closing(tokenize(texts, job, num_processes)) as batches:
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
            sum(writer.num_documents for writer in writers.values()),
            sum(writer.num_bytes for writer in writers.values()),
        )
        return {name: _split_entry(writer) for name, writer in writers.items()}

    def _middle_filling(self) -> MiddleFilling | None:
        config = self._config
        if not config.fill_in_the_middle:
            return None
        tokens = require_middle_tokens(self.tokenizer())
        return MiddleFilling(
            tokens, config.fill_in_the_middle, config.fill_suffix_first, config.fill_chars
        )

    def sources(self) -> list[dict[str, Any]]:
        """The files' entries in the manifest."""
        counted = zip(self._inputs.all_files, self._counts, strict=True)
        return [{**self._inputs.entry(file), "num_documents": count} for file, count in counted]

    def extra(self) -> dict[str, Any]:
        """What the manifest says of text alone."""
        return {"max_document_chars": self._max_document_chars}

    def _read(self, file: SourceFile, on_bad: OnBad | None = None, **options: Any) -> Iterator[str]:
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
        """Text to train the tokenizer on."""
        for file in self._inputs.files:
            for text in self._read(file):
                hashed = document_hash(text, self._config.seed)
                sampled = self._division.census.is_sampled(hashed, SAMPLE_BYTES)
                if sampled and not self._division.is_held_out(hashed):
                    # In pieces: the trainer holds 256 of what it is given at a time.
                    yield from pieces([text], 1 << 14)
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
