"""The verb `prepare`: text files to a folder of token shards."""

from __future__ import annotations

import dataclasses
import functools
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

import tfllm
from tfllm.config import PrepareConfig
from tfllm.data.output_folder import check_output, written_beside
from tfllm.data.prepared import FORMAT, FORMAT_VERSION, MANIFEST, PreparedData
from tfllm.data.shards import ShardWriter, file_sha256, token_dtype
from tfllm.data.sources import SourceFile, documents, find_files, pieces
from tfllm.data.splitting import CorpusCensus, document_hash
from tfllm.data.tokenizing import (
    TokenizedBatch,
    TokenizeSettings,
    count_processes,
    tokenize,
)

if TYPE_CHECKING:
    from tfllm.tokenizers import BytePairTokenizer

SAMPLE_BYTES = 100_000_000
"""The tokenizer is trained on about so much text at most."""

Reader = Callable[..., Iterator[str]]


def prepare(
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    config: PrepareConfig | None = None,
    *,
    overwrite: bool = False,
    show_progress: bool = True,
) -> PreparedData:
    """Make a folder of token shards from text.

    The text is read once to check and count it, once to train the tokenizer (on about 100 MB of the
    train split at most; not if one is given), and once to tokenize it; memory does not grow with
    the corpus, only with its longest document. What is written does not depend on the number of
    processes. The folder is written beside its place and renamed when it is whole.

    Documents are cut and read as `tfllm.data.sources` says; a text file is a document of its own
    unless it is longer than a 64th of the corpus (but 16,384 characters at least and 262,144 at
    most), so that a split by document comes near its fraction of the bytes even for one long file.
    (Pieces of one file may then stand on both sides, copies of a piece never. To keep files whole,
    make them JSON lines.)

    Args:
        inputs: files, folders and globs (see `find_files`).
        out: the folder to make.
        config: settings; default `PrepareConfig()`.
        overwrite: replace the folder if there is one (only one that `prepare` wrote).
        show_progress: a progress bar on standard error.

    Raises:
        FileExistsError: `out` is there already.
        OSError: a file cannot be read or written.
        ValueError: a file is not text, there is no text at all, or the tokenizer has no end token.
    """
    config = config or PrepareConfig()
    out = Path(out)
    check_output(out, overwrite)
    files = find_files(inputs, exclude=[out])
    limit = min(max(sum(f.num_bytes for f in files) // 64, 1 << 14), 1 << 18)
    read = functools.partial(documents, text_field=config.text_field, max_document_chars=limit)
    bar = functools.partial(
        tqdm, unit="B", unit_scale=True, disable=not show_progress, dynamic_ncols=True
    )
    tokenizer = _given_tokenizer(config)
    census, counts = _take_census(files, read, config.seed, bar)
    notes = _notes(files, counts)
    validation_limit = census.validation_limit(config.validation_fraction)
    if config.validation_fraction > 0 and validation_limit < 0:
        notes.append(
            "there is no validation split: the text is a single document (or copies of one), and "
            "a document is never split"
        )
    with written_beside(out, overwrite) as folder:
        if tokenizer is None:
            tokenizer = _train_tokenizer(files, read, config, census, validation_limit, bar)
            if tokenizer.vocab_size < config.vocab_size:
                notes.append(
                    f"the text has too few different words for {config.vocab_size} tokens: the "
                    f"tokenizer has {tokenizer.vocab_size}"
                )
        tokenizer.save(folder)
        tokenizer_files = sorted(path.name for path in folder.iterdir())
        dtype = token_dtype(tokenizer.vocab_size)
        batches = tokenize(
            (text for file in files for text in read(file)),
            TokenizeSettings(str(folder), dtype, config.seed),
            count_processes(config.num_processes, census.num_bytes),
        )
        with bar(total=census.num_bytes, desc="tokenizing") as progress, closing(batches):
            writers = _write(batches, folder, dtype, config, validation_limit, progress.update)
        _expect_unchanged(census, list(writers.values()))
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "tfllm_version": tfllm.__version__,
            "vocab_size": tokenizer.vocab_size,
            "dtype": dtype,
            "byte_order": "little",
            "end_token": tokenizer.end_token,
            "end_token_id": tokenizer.end_token_id,
            "splits": {name: _split_entry(writer) for name, writer in writers.items()},
            "tokenizer_files": {name: file_sha256(folder / name) for name in tokenizer_files},
            "sources": [
                {
                    "path": file.path.as_posix(),
                    "num_bytes": file.num_bytes,
                    "num_documents": count,
                }
                for file, count in zip(files, counts, strict=True)
            ],
            "max_document_chars": limit,
            "settings": {  # the number of processes changes nothing in the folder
                key: value
                for key, value in dataclasses.asdict(config).items()
                if key != "num_processes"
            },
            "notes": notes,
        }
        (folder / MANIFEST).write_text(
            json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return PreparedData.open(out)


def _given_tokenizer(config: PrepareConfig) -> BytePairTokenizer | None:
    if config.tokenizer is None:
        return None
    from tfllm.tokenizers import BytePairTokenizer

    tokenizer = BytePairTokenizer.load(config.tokenizer)
    try:
        end = tokenizer.end_token_id
    except ValueError as error:
        raise ValueError(
            f"the tokenizer {config.tokenizer} must have an end token, which stands between "
            f"documents: {error}"
        ) from None
    assert 0 <= end < tokenizer.vocab_size
    return tokenizer


def _take_census(
    files: list[SourceFile], read: Reader, seed: int, bar: Callable[..., Any]
) -> tuple[CorpusCensus, list[int]]:
    """The corpus in figures, and the number of documents of each file."""
    census = CorpusCensus()
    counts = []
    with bar(total=sum(f.num_bytes for f in files), desc="reading") as progress:
        for file in files:
            before = census.num_documents
            for text in read(file, on_read=progress.update):
                census.add(document_hash(text, seed), len(text.encode()))
            counts.append(census.num_documents - before)
    if census.num_documents == 0:
        names = ", ".join(str(file.path) for file in files[:5])
        raise ValueError(
            f"there is no text: {len(files)} file{'s are' if len(files) > 1 else ' is'} empty or "
            f"white space only ({names}{', ...' if len(files) > 5 else ''}); name files with text"
        )
    return census, counts


def _notes(files: list[SourceFile], counts: list[int]) -> list[str]:
    empty = [str(file.path) for file, count in zip(files, counts, strict=True) if count == 0]
    if not empty:
        return []
    names = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
    note = f"{len(empty)} of {len(files)} files held no text and were passed over: {names}"
    warnings.warn(note, UserWarning, stacklevel=3)
    return [note]


def _train_tokenizer(
    files: list[SourceFile],
    read: Reader,
    config: PrepareConfig,
    census: CorpusCensus,
    validation_limit: int,
    bar: Callable[..., Any],
) -> BytePairTokenizer:
    """Trained on the train split alone, so that nothing of validation leaks into the merges."""
    from tfllm.tokenizers import BytePairTokenizer

    def sample(progress: Any) -> Iterator[str]:
        for file in files:
            for text in read(file):
                hashed = document_hash(text, config.seed)
                if hashed > validation_limit and census.is_sampled(hashed, SAMPLE_BYTES):
                    # In pieces: the trainer holds 256 of what it is given at a time.
                    yield from pieces([text], 1 << 14)
                progress.update(len(text.encode()))

    with bar(total=census.num_bytes, desc="training the tokenizer") as progress:
        return BytePairTokenizer.train(sample(progress), config.vocab_size)


def _write(
    batches: Iterator[TokenizedBatch],
    folder: Path,
    dtype: str,
    config: PrepareConfig,
    validation_limit: int,
    advance: Callable[[int], object],
) -> dict[str, ShardWriter]:
    writers = {
        name: ShardWriter(folder, name, dtype, config.shard_tokens)
        for name in ("train", "validation")
    }
    try:
        for batch in batches:
            kept_out = batch.hashes <= np.uint64(max(validation_limit, 0))
            if validation_limit < 0:
                kept_out[:] = False
            of_token = np.repeat(kept_out, batch.num_tokens)
            for name, mask in (("train", ~kept_out), ("validation", kept_out)):
                writer = writers[name]
                writer.write(batch.tokens[of_token == (name == "validation")])
                writer.num_documents += int(mask.sum())
                writer.num_bytes += int(batch.num_bytes[mask].sum())
            advance(int(batch.num_bytes.sum()))
        for writer in writers.values():
            writer.close()
    finally:
        for writer in writers.values():
            writer.abandon()
    return writers


def _expect_unchanged(census: CorpusCensus, writers: list[ShardWriter]) -> None:
    received = tuple(
        sum(getattr(writer, name) for writer in writers) for name in ("num_documents", "num_bytes")
    )
    if received != (census.num_documents, census.num_bytes):
        raise ValueError(
            "the text must not change while it is prepared: at first it had "
            f"{census.num_documents} documents and {census.num_bytes} bytes, later {received[0]} "
            f"and {received[1]}; prepare it again when nobody writes to it"
        )


def _split_entry(writer: ShardWriter) -> dict[str, Any]:
    return {
        "num_tokens": writer.num_tokens,
        "num_documents": writer.num_documents,
        "num_bytes": writer.num_bytes,
        "shards": [dataclasses.asdict(shard) for shard in writer.shards],
    }
