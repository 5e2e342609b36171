"""The verb `prepare`: prepare files of records as a folder of data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfllm.config import PrepareConfig
from tfllm.data import PreparedData
from tfllm.data.preparation import prepare_data
from tfllm.data.preparing.output_folder import check_output
from tfllm.tasks.choosing import task_of_records
from tfllm.tasks.registry import task_named


def prepare(
    inputs: Any,
    out: str | Path,
    config: PrepareConfig | None = None,
    *,
    task: str | None = None,
    overwrite: bool = False,
    show_progress: bool = True,
) -> PreparedData:
    """Prepare text, training examples or records as a folder of token shards.

    The files are read once to check and count them, and once to tokenize them. Memory only grows
    with the longest document (but records of a task with columns are held in memory). The result
    does not depend on the number of processes. The folder is written under a temporary name, and
    renamed once it is complete.

    `tfllm.data.reading.sources` describes the formats of text. Unless a tokenizer is given, the
    text is read once more to train one (on at most about 100 MB of the train split). A text file is
    one document unless it is longer than a 64th of the corpus (but at least 16,384 and at most
    262,144 characters). Whole documents are held out for validation. If these would be more than
    twice the fraction, since one of them is large or is the only one, that document is divided:
    some consecutive paragraphs (or lines or sentences, if paragraphs are too long) are held out, at
    a position that its hash determines, and the rest is training text. Pieces of one file may then
    be in both splits, but never copies of a piece. Give validation files to keep documents whole.

    Examples are records of JSON lines, of a `.json` array, or of a table (CSV, TSV, Parquet):
    conversations, prompts with responses, or texts (`tfllm.data.reading.example_records`); or
    preferences, a prompt with a chosen and a rejected reply
    (`tfllm.data.reading.preference_records`). They need the tokenizer of the model to train, with
    its chat template. Ignored keys are counted in the notes. `tfllm.data.reading.table_records`
    describes the records of tasks with columns.

    Args:
        inputs: files, folders and globs; for a task with columns, also a mapping of columns to
            files of lines.
        out: folder to create.
        config: settings. Defaults to `PrepareConfig()`.
        task: a key of `tfllm.tasks.TASKS`. By default, the keys of the records decide between
            `language_modeling`, `instruction` and `preference`.
        overwrite: whether to replace an existing folder, which must have been written by `prepare`.
            Defaults to False.
        show_progress: whether to show a progress bar on standard error. Defaults to True.

    Returns:
        The prepared data.

    Raises:
        FileExistsError: `out` exists already.
        OSError: a file cannot be read or written.
        ValueError: a file is not text, a record is malformed (the error gives file and line), there
            is nothing to learn, or the tokenizer has no end token or no chat template.
    """
    check_output(Path(out), overwrite)
    found = task_of_records(inputs, config, exclude=[out]) if task is None else task_named(task)
    config = found.prepare_config(config)
    return prepare_data(
        found, inputs, out, config, overwrite=overwrite, show_progress=show_progress
    )
