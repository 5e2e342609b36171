"""A folder of prepared text: its tokenizer, its shards, and the manifest that describes them."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfllm.data.shards import Shard, file_sha256, little_endian
from tfllm.data.token_rows import TokenRows

if TYPE_CHECKING:
    from tfllm.tokenizers import BytePairTokenizer

MANIFEST = "manifest.json"
FORMAT = "tfllm-tokens"
FORMAT_VERSION = 1
SPLITS = ("train", "validation")


class PreparedData:
    """What `prepare` wrote: `tokenizer.json`, `manifest.json`, `train-00000.bin`, ...

    A shard is a flat stream of token ids (little-endian uint16, or uint32 for vocabularies above
    65,536), each document followed by the end token.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        """See `open`."""
        self.folder = folder
        self.manifest = manifest
        self.train = self._split("train")
        self.validation = self._split("validation")

    @classmethod
    def open(cls, folder: str | Path) -> PreparedData:
        """Open a folder, and check that its files are there with the right sizes.

        Raises:
            FileNotFoundError: the folder, its manifest, or a file that the manifest lists is not
                there.
            ValueError: the manifest is damaged or of another version; a shard is cut short.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} is not a folder of prepared text: it has no {MANIFEST}; make one with "
                "`tfllm prepare TEXT... --out FOLDER`"
            )
        manifest = _read_manifest(path)
        try:
            data = cls(folder, manifest)
            files = data._files()
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{path} is damaged ({type(error).__name__}: {error}); prepare the text again"
            ) from error
        for name, (num_bytes, _) in files.items():
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder / name} is listed in {MANIFEST} but is not there; copy the folder "
                    "again, or prepare the text again"
                )
            size = (folder / name).stat().st_size
            if num_bytes is not None and size != num_bytes:
                raise ValueError(
                    f"{folder / name} must have {num_bytes} bytes and has {size}: it was cut short "
                    "or changed; copy the folder again, or prepare the text again"
                )
        return data

    def verify(self) -> None:
        """Read every file and hold it against the checksum in the manifest.

        Raises:
            ValueError: a file's bytes are not those that were written.
        """
        for name, (_, sha256) in self._files().items():
            received = file_sha256(self.folder / name)
            if received != sha256:
                raise ValueError(
                    f"{self.folder / name} was changed after it was written: its SHA-256 must be "
                    f"{sha256}; received {received}; copy the folder again, or prepare the text "
                    "again"
                )

    @functools.cached_property
    def tokenizer(self) -> BytePairTokenizer:
        """The tokenizer that made the ids."""
        from tfllm.tokenizers import BytePairTokenizer

        return BytePairTokenizer.load(self.folder)

    @property
    def vocab_size(self) -> int:
        """How many ids the tokenizer has."""
        return int(self.manifest["vocab_size"])

    @property
    def end_token_id(self) -> int:
        """The id that follows each document."""
        return int(self.manifest["end_token_id"])

    def split(self, name: str) -> TokenRows:
        """The split "train" or "validation".

        Raises:
            ValueError: another name.
        """
        if name not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}; received {name!r}")
        return self.train if name == "train" else self.validation

    def unigram_perplexity(self) -> float:
        """Perplexity per token, on the validation split, of the train split's token frequencies.

        The frequencies are smoothed by adding one to each count. It is what a model reaches that
        looks at no context: a trained model must be well below it.

        Raises:
            ValueError: there is no validation split.
        """
        if self.validation.num_tokens == 0:
            raise ValueError(
                f"{self.folder} has no validation split; prepare the text with a "
                "validation_fraction above 0 and at least two documents"
            )
        train, validation = (
            _token_counts(s, self.vocab_size) for s in (self.train, self.validation)
        )
        log_prob = np.log((train + 1) / (train.sum() + self.vocab_size))
        return math.exp(-float(validation @ log_prob) / float(validation.sum()))

    def describe(self) -> str:
        """A few lines on what the folder holds."""
        lines = [f"{self.folder}: vocabulary of {self.vocab_size:,} tokens"]
        for name in SPLITS:
            rows = self.split(name)
            per_token = rows.num_bytes / max(rows.num_tokens, 1)
            lines.append(
                f"  {name:<10} {rows.num_tokens:>13,} tokens  {rows.num_documents:>9,} documents  "
                f"{rows.num_bytes / 1e6:>9,.1f} MB  {per_token:.2f} bytes a token"
            )
        return "\n".join([*lines, *(f"  note: {note}" for note in self.manifest.get("notes", []))])

    def __repr__(self) -> str:
        return f"PreparedData({str(self.folder)!r})"

    def _split(self, name: str) -> TokenRows:
        split = self.manifest["splits"][name]
        rows = TokenRows(
            self.folder,
            name,
            [Shard(**shard) for shard in split["shards"]],
            dtype=self.manifest["dtype"],
            end_token_id=int(self.manifest["end_token_id"]),
            num_documents=int(split["num_documents"]),
            num_bytes=int(split["num_bytes"]),
        )
        if rows.num_tokens != split["num_tokens"]:
            raise ValueError(f"the shards of {name} do not add up to {split['num_tokens']} tokens")
        return rows

    def _files(self) -> dict[str, tuple[int | None, str]]:
        """File name to its size (None: not known) and checksum."""
        width = little_endian(self.manifest["dtype"]).itemsize
        files: dict[str, tuple[int | None, str]] = {
            name: (None, sha256) for name, sha256 in self.manifest["tokenizer_files"].items()
        }
        for name in SPLITS:
            for shard in self.manifest["splits"][name]["shards"]:
                files[shard["file"]] = (shard["num_tokens"] * width, shard["sha256"])
        return files


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); prepare the text again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(
            f"{path} does not describe prepared text: its format must be {FORMAT!r}; name a folder "
            "that `tfllm prepare` wrote"
        )
    if manifest.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {manifest.get('format_version')!r}, and this tfllm reads "
            f"{FORMAT_VERSION}; prepare the text again, or use the tfllm that wrote it "
            f"({manifest.get('tfllm_version')})"
        )
    return manifest


def _token_counts(rows: TokenRows, vocab_size: int) -> np.ndarray:
    counts = np.zeros(vocab_size, np.int64)
    for chunk in rows.chunks():
        counts += np.bincount(chunk, minlength=vocab_size)
    return counts
