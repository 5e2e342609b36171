"""A folder of prepared data: its tokenizer, its shards, and the manifest that describes them."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from tfllm.data.reading.table_records import Record
from tfllm.data.shards.example_rows import ExampleRows
from tfllm.data.shards.preference_rows import PreferenceRows
from tfllm.data.shards.shard_files import file_sha256
from tfllm.data.shards.splits import Split
from tfllm.data.shards.task_rows import Collate, TaskRows
from tfllm.data.shards.token_rows import TokenRows
from tfllm.files import read_json
from tfllm.path_kinds import instead_of

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer

MANIFEST = "manifest.json"
FORMAT = "tfllm-tokens"
FORMAT_VERSIONS = {"text": 1, "examples": 2, "preference": 2, "task": 3}
"""by the kind of records: the manifest's "records", which is missing for text"""
TASK_OF_LAYOUT = {
    "text": "language_modeling",
    "examples": "instruction",
    "preference": "preference",
}
"""task of older folders, whose manifest does not name it"""
SPLITS = ("train", "validation")
SHARD_LISTS = ("shards", "learned", "index")
"""lists of shards of a split in the manifest"""

_SPLIT_TYPES: dict[str, Callable[[Path, str, dict[str, Any]], Split]] = {
    "text": TokenRows,
    "examples": ExampleRows,
    "preference": PreferenceRows,
    "task": TaskRows,
}


class PreparedData:
    """A folder that `prepare` wrote: the tokenizer, `manifest.json`, `train-00000.bin`, ...

    A shard is a flat stream of token ids (little-endian uint16, or uint32 for vocabularies above
    65,536). Text is stored document after document, each followed by the end token. Examples and
    the replies of preferences are stored one after the other, with two further streams:
    `train-learned-00000.bin` has a byte per token, 1 where it is learned, and
    `train-index-00000.bin` two uint32 per sequence: its number of tokens, and the index of the
    first learned one. `TaskRows` describes the examples of other tasks.

    Examples:
        >>> from pathlib import Path
        >>> import tfllm
        >>> _ = Path("text.txt").write_text("To be, or not to be: that is the question.\\n" * 50)
        >>> config = tfllm.PrepareConfig(vocab_size=280)
        >>> data = tfllm.prepare("text.txt", "data", config, show_progress=False)
        >>> data, data.vocab_size, data.task
        (PreparedData('data'), 280, 'language_modeling')
        >>> data.train.batch([0], 16).labels.shape
        (1, 16)
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        """See `open`."""
        self.folder = folder
        self.manifest = manifest
        self.train = self._split("train")
        self.validation = self._split("validation")

    @classmethod
    def open(cls, folder: str | Path) -> PreparedData:
        """Open a folder of prepared data, and check that its files exist with the right sizes.

        Returns:
            The data: `PreferenceData` for preferences, `TaskData` for records with columns,
            otherwise `PreparedData`.

        Raises:
            FileNotFoundError: the folder, its manifest, or a file that the manifest lists does not
                exist.
            ValueError: the manifest is damaged or of another version; a shard is truncated.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        manifest = _read_manifest(folder)
        kind = _KINDS.get(kind_of_manifest(manifest), PreparedData)
        try:
            data = kind(folder, manifest)
            files = data._files()
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{path} is damaged ({type(error).__name__}: {error}); prepare the text again"
            ) from error
        for name in files:
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder / name} is listed in {MANIFEST} but is not there; copy the folder "
                    "again, or prepare the text again"
                )
        for split in (data.train, data.validation):
            for reader in split.readers:
                reader.check_file()
        return data

    def verify(self, part: tuple[int, int] = (0, 1), *, show_progress: bool = False) -> None:
        """Read every file and compare it with the checksum in the manifest.

        A shard that is changed later is detected when it is read.

        Args:
            part: (index, count): verify only part `index` of `count` equal parts of the files.
            show_progress: whether to show a progress bar.

        Raises:
            FileNotFoundError: a file does not exist any more.
            ValueError: the content of a file has changed; or `part` is out of range.
        """
        index, count = part
        if not 0 <= index < count:
            raise ValueError(
                f"part must be (index, count) with 0 <= index < count; received {part}"
            )
        readers = {r.path.name: r for s in (self.train, self.validation) for r in s.readers}
        # Sizes come from the manifest, so that all workers compute the same parts.
        sizes = {name: readers[name].num_bytes if name in readers else 0 for name in self._files()}
        share = sorted(sizes, key=lambda name: (-sizes[name], name))[index::count]

        def check(name: str) -> int:
            if name in readers:
                readers[name].verify()
            else:
                self._verify_other_file(name)
            return sizes[name]

        bar = tqdm(
            total=sum(sizes[name] for name in share),
            desc="checking the data",
            unit="B",
            unit_scale=True,
            disable=not show_progress,
        )
        pool = ThreadPoolExecutor(os.cpu_count())  # hashing releases the interpreter lock
        with bar:
            try:
                for num_bytes in pool.map(check, share):
                    bar.update(num_bytes)
            finally:
                pool.shutdown(cancel_futures=True)

    def raise_read_error(self) -> None:
        """Raise the error of a failed read of a shard, if there was one.

        TensorFlow turns an error in a dataset into an error of its own with the same text.
        """
        for split in (self.train, self.validation):
            if split.error is not None:
                raise split.error

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that produced the ids."""
        from tfllm.pretrained import load_tokenizer

        return load_tokenizer(self.folder)

    @property
    def records(self) -> str:
        """The kind of records: "text", "examples", "preference" or "task"."""
        return kind_of_manifest(self.manifest)

    @property
    def task(self) -> str:
        """The name of the task that the folder was prepared for."""
        named = self.manifest.get("task")
        return TASK_OF_LAYOUT[self.records] if named is None else str(named["name"])

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest: equal for the same text, tokenizer and settings."""
        text = json.dumps(self.manifest, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def vocab_size(self) -> int:
        """Vocabulary size of the tokenizer."""
        return int(self.manifest["vocab_size"])

    @property
    def end_token_id(self) -> int:
        """The id that follows each document."""
        return int(self.manifest["end_token_id"])

    def split(self, name: str) -> Split:
        """The split "train" or "validation".

        Raises:
            ValueError: `name` is neither of them.
        """
        if name not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}; received {name!r}")
        return self.train if name == "train" else self.validation

    def unigram_perplexity(self) -> float:
        """Perplexity per token, on the validation split, of the train split's token frequencies.

        The frequencies are smoothed by adding one to each count. This baseline uses no context: the
        perplexity of a trained model must be well below it.

        Raises:
            ValueError: there is no validation split.
        """
        if self.validation.num_tokens == 0:
            raise ValueError(
                f"{self.folder} has no validation split; prepare the text with a "
                "validation_fraction above 0 and at least two documents"
            )
        train = self.train.token_counts(self.vocab_size)
        validation = self.validation.token_counts(self.vocab_size)
        log_prob = np.log((train + 1) / (train.sum() + self.vocab_size))
        return math.exp(-float(validation @ log_prob) / float(validation.sum()))

    def describe(self, sequence_length: int | None = None) -> str:
        """Describe the content of the folder in a few lines.

        Args:
            sequence_length: if given, also describe the rows of so many tokens.
        """
        lines = [f"{self.folder}: vocabulary of {self.vocab_size:,} tokens"]
        for name in SPLITS:
            lines.append(f"  {self.split(name).describe()}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes(sequence_length))])

    def notes(self, sequence_length: int | None = None) -> list[str]:
        """Notes from the preparation, such as the number of bad records.

        Args:
            sequence_length: if given, also note what rows of so many tokens truncate and leave out.
        """
        notes: list[str | None] = list(self.manifest.get("notes", []))
        if sequence_length is not None:
            notes += [self.split(name).describe_rows(sequence_length) for name in SPLITS]
        return [note for note in notes if note]

    def __repr__(self) -> str:
        return f"PreparedData({str(self.folder)!r})"

    def _split(self, name: str) -> Split:
        return _SPLIT_TYPES[self.records](self.folder, name, self.manifest)

    def _files(self) -> dict[str, str]:
        """Maps every file except for the manifest to its checksum."""
        files = {shard["file"]: shard["sha256"] for shard in shards_of(self.manifest)}
        return {
            **self.manifest["tokenizer_files"],
            **self.manifest.get("record_files", {}),
            **files,
        }

    def _verify_other_file(self, name: str) -> None:
        received, sha256 = file_sha256(self.folder / name), self._files()[name]
        if received != sha256:
            raise ValueError(
                f"{self.folder / name} was changed after it was written: its SHA-256 must be "
                f"{sha256}; received {received}; copy the folder again, or prepare the text again"
            )


class PreferenceData(PreparedData):
    """Prepared preferences, to which log-probabilities of a reference model can be attached.

    Examples:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> import tfllm
        >>> tfllm.BytePairTokenizer.train(["2 + 2 = 4"], vocab_size=300).save("tokenizer")
        >>> line = '{"prompt": "2 + %d = ", "chosen": "%d", "rejected": "?"}'
        >>> _ = Path("sums.jsonl").write_text("\\n".join(line % (i, 2 + i) for i in range(20)))
        >>> config = tfllm.PrepareConfig(tokenizer="tokenizer")
        >>> data = tfllm.prepare("sums.jsonl", "data", config, show_progress=False)
        >>> log_probs = np.full([data.train.num_documents, 2], -1.5)
        >>> data.with_reference(log_probs).train.batch([0], 32).inputs["reference"]
        array([[-1.5, -1.5]], dtype=float32)
    """

    def with_reference(
        self, train: np.ndarray, validation: np.ndarray | None = None
    ) -> PreferenceData:
        """The same data with log-probabilities as the input "reference" of its rows (0 without).

        Args:
            train: summed log-probabilities of the chosen and of the rejected reply, float
                [training pairs, 2]. Pair `i` is row `i` of `rows_dataset(..., shuffle=False)`.
            validation: the same for the validation split.

        Raises:
            ValueError: an array has another shape.
        """
        data = PreferenceData(self.folder, self.manifest)
        for split, reference in ((data.train, train), (data.validation, validation)):
            if reference is None:
                continue
            assert isinstance(split, PreferenceRows)
            reference = np.asarray(reference, np.float32)
            if reference.shape != (split.num_documents, 2):
                raise ValueError(
                    f"the reference of {split.split} must have the shape "
                    f"{(split.num_documents, 2)}; received {reference.shape}"
                )
            split.reference = reference
        return data


class TaskData(PreparedData):
    """Prepared examples of a task with columns, and its validation records.

    Examples:
        >>> from pathlib import Path
        >>> import tfllm
        >>> line = '{"text": "%s plot no. %d", "label": "%s"}'
        >>> pairs = [("good", "positive"), ("bad", "negative")]
        >>> lines = [line % (word, i, label) for word, label in pairs for i in range(10)]
        >>> _ = Path("reviews.jsonl").write_text("\\n".join(lines))
        >>> data = tfllm.prepare(
        ...     "reviews.jsonl", "data", task="classification", show_progress=False
        ... )
        >>> data.information["labels"], data.sequence_length
        (['negative', 'positive'], 128)
        >>> len(data.validation_records()), data.train
        (2, TaskRows('train', 18 examples, data))
    """

    @property
    def information(self) -> dict[str, Any]:
        """Information from the training records that the model needs, such as the labels."""
        return dict(self.manifest["task"]["information"])

    @property
    def sequence_length(self) -> int:
        """Maximum number of tokens in an example."""
        return int(self.manifest["task"]["sequence_length"])

    def validation_records(self) -> list[Record]:
        """Read the validation records.

        Raises:
            OSError: they cannot be read.
        """
        if not self.manifest["record_files"]:
            return []
        (name,) = self.manifest["record_files"]
        with open(self.folder / name, encoding="utf-8") as file:
            return [Record(json.loads(line), f"{name}, line {i}") for i, line in enumerate(file, 1)]

    def collated(self, collate: Collate) -> TaskData:
        """The same data, batched by the task (`RecordTask.batch`)."""
        data = TaskData(self.folder, self.manifest)
        for split in (data.train, data.validation):
            assert isinstance(split, TaskRows)
            split.collate = collate
        return data


_KINDS: dict[str, type[PreparedData]] = {"preference": PreferenceData, "task": TaskData}


def open_data(folder: str | Path) -> PreparedData:
    """Open a folder of any kind; see `PreparedData.open`."""
    return PreparedData.open(folder)


def kind_of_manifest(manifest: dict[str, Any]) -> str:
    """The kind of records in a folder: "text", "examples", "preference" or "task"."""
    return manifest.get("records", "text")


def shards_of(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The manifest's entries of all shards."""
    for name in SPLITS:
        for kind in SHARD_LISTS:
            yield from manifest["splits"][name].get(kind, ())


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if message := instead_of(folder, "data"):
        raise ValueError(message)
    if not path.is_file():
        why = f"it has no {MANIFEST}" if folder.exists() else "it does not exist"
        raise FileNotFoundError(
            f"{folder} is not a folder of prepared text: {why}; create one with "
            "`tfllm prepare TEXT... --out FOLDER`"
        )
    manifest = read_json(path, "prepare the text again")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(
            f"{path} does not describe prepared text: its format must be {FORMAT!r}; give a folder "
            "that `tfllm prepare` wrote"
        )
    kind = kind_of_manifest(manifest)
    expected = FORMAT_VERSIONS.get(kind) if isinstance(kind, str) else None
    if manifest.get("format_version") != expected:
        reads = expected or max(FORMAT_VERSIONS.values())
        raise ValueError(
            f"{path} has format version {manifest.get('format_version')!r}, but this version of "
            f"tfllm reads {reads}; prepare the text again, or use the version that wrote it "
            f"({manifest.get('tfllm_version')})"
        )
    return manifest
