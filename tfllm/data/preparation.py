"""The verb `prepare`: files of text or of examples to a folder of token shards."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

import tfllm
from tfllm.config import PrepareConfig
from tfllm.data.preparing.example_preparation import ExamplePreparation
from tfllm.data.preparing.output_folder import check_output, written_beside
from tfllm.data.preparing.preparation_inputs import PreparationInputs
from tfllm.data.preparing.text_preparation import TextPreparation
from tfllm.data.reading.record_kinds import kind_of_files, without_other_tables
from tfllm.data.reading.sources import LeftOut, SourceFile, find_files
from tfllm.data.shards.prepared_data import (
    FORMAT,
    FORMAT_VERSIONS,
    MANIFEST,
    PreparedData,
    open_data,
)
from tfllm.data.shards.shard_files import file_sha256, token_dtype


def prepare(
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    config: PrepareConfig | None = None,
    *,
    overwrite: bool = False,
    show_progress: bool = True,
) -> PreparedData:
    """Make a folder of token shards from text, or from examples to learn from.

    The files are read once to check and count them and once to tokenize them; memory does not grow
    with them, only with the longest document. What is written does not depend on the number of
    processes. The folder is written beside its place and renamed when it is whole.

    Text is cut and read as `tfllm.data.reading.sources` says; it is read once more to train the
    tokenizer (on about 100 MB of the train split at most; not if one is given). A text file is a
    document of its own unless it is longer than a 64th of the corpus (but 16,384 characters at
    least and 262,144 at most). Whole documents are kept for validation. Where these would be more
    than twice the fraction, since one of them is large or there is only one, that one is divided:
    some of its paragraphs in a row (lines or sentences, where paragraphs are too long), at a place
    that its hash says, are kept for validation, and the rest is trained on. Pieces of one file may
    then be in both splits, copies of a piece never. To keep documents whole, name validation files.

    Examples are the records of JSON lines, of a `.json` array, or of a table (CSV, TSV, Parquet),
    as `tfllm.data.reading.example_records` reads them: conversations, prompts with responses,
    texts; or preferences, a prompt with a chosen and a rejected reply
    (`tfllm.data.reading.preference_records`). They take the tokenizer of the model that is to learn
    from them, with its chat template. Keys that were passed over are counted in the notes.

    Args:
        inputs: files, folders and globs (see `find_files`).
        out: the folder to make.
        config: settings; default `PrepareConfig()`.
        overwrite: replace the folder if there is one (only one that `prepare` wrote).
        show_progress: a progress bar on standard error.

    Raises:
        FileExistsError: `out` is there already.
        OSError: a file cannot be read or written.
        ValueError: a file is not text, a record is none (with its file and line), there is nothing
            to learn from, or the tokenizer has no end token or no chat template.
    """
    config = config or PrepareConfig()
    out = Path(out)
    check_output(out, overwrite)
    left_out = LeftOut()
    options: dict[str, Any] = {"exclude": [out], "encoding": config.encoding, "left_out": left_out}
    files = find_files(inputs, **options)
    held_out = find_files(config.validation, **options) if config.validation else []
    files, notes = without_other_tables(_without(files, held_out), config)
    held_out, more_notes = without_other_tables(held_out, config)
    kind = kind_of_files([*files, *held_out], config)
    bar = functools.partial(
        tqdm, unit="B", unit_scale=True, disable=not show_progress, dynamic_ncols=True
    )
    given = PreparationInputs(config, files, held_out, bar)
    work = TextPreparation(given) if kind == "text" else ExamplePreparation(given, kind)
    work.survey()
    with written_beside(out, overwrite) as folder:
        tokenizer = work.tokenizer()
        tokenizer.save(folder)
        tokenizer_files = sorted(path.name for path in folder.iterdir() if path.is_file())
        dtype = token_dtype(tokenizer.vocab_size)
        splits = work.write(folder, dtype)
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSIONS[kind],
            "tfllm_version": tfllm.__version__,
            **({} if kind == "text" else {"records": kind}),
            "vocab_size": tokenizer.vocab_size,
            "dtype": dtype,
            "byte_order": "little",
            "end_token": tokenizer.end_token,
            "end_token_id": tokenizer.end_token_id,
            "splits": splits,
            "tokenizer_files": {name: file_sha256(folder / name) for name in tokenizer_files},
            "sources": work.sources(),
            **work.extra(),
            "settings": {  # the number of processes changes nothing in the folder
                key: value
                for key, value in dataclasses.asdict(config).items()
                if key != "num_processes"
            },
            "notes": [*notes, *more_notes, *work.notes, *left_out.notes()],
        }
        # In ASCII: the name of a file need not be UTF-8.
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return open_data(out)


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
