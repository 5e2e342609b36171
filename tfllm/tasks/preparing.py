"""The verb `prepare`: files of records to a folder of prepared data."""

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
    """Make a folder of token shards from text, or from examples to learn from.

    The files are read once to check and count them and once to tokenize them; memory does not grow
    with them, only with the longest document (records of a task with columns are held in memory).
    What is written does not depend on the number of processes. The folder is written beside its
    place and renamed when it is whole.

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
    from them, with its chat template. Keys that were passed over are counted in the notes. Records
    of a task with columns are read as `tfllm.data.reading.table_records` says.

    Args:
        inputs: files, folders and globs; of a task with columns also a file of lines for each.
        out: the folder to make.
        config: settings; default `PrepareConfig()`.
        task: a key of `tfllm.tasks.TASKS`. Default: `language_modeling`, `instruction` or
            `preference`, whichever the keys of the records say.
        overwrite: replace the folder if there is one (only one that `prepare` wrote).
        show_progress: a progress bar on standard error.

    Raises:
        FileExistsError: `out` is there already.
        OSError: a file cannot be read or written.
        ValueError: a file is not text, a record is none (with its file and line), there is nothing
            to learn, or the tokenizer has no end token or no chat template.
    """
    check_output(Path(out), overwrite)
    found = task_of_records(inputs, config, exclude=[out]) if task is None else task_named(task)
    config = found.prepare_config(config)
    return prepare_data(
        found, inputs, out, config, overwrite=overwrite, show_progress=show_progress
    )
