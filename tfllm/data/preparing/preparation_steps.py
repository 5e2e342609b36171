"""The interface of a preparation: steps from records to shards for each kind of record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tfllm.data.reading.sources import SourceFile

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer


class Preparation(Protocol):
    """The preparation of records; `tfllm.data.preparation.prepare_data` runs the steps in order."""

    @property
    def layout(self) -> str:
        """Layout of the shards, a key of `FORMAT_VERSIONS`."""

    def survey(self) -> None:
        """Read all records once, and decide which are held out for validation.

        Raises:
            ValueError: a record is malformed, or there are none.
        """

    def tokenizer(self) -> Tokenizer:
        """The given tokenizer, or a new one that is trained on the training records."""

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the shards.

        Returns:
            The manifest's entries for them: "splits", "dtype", "sources", ...

        Raises:
            ValueError: there is nothing to learn, or the files have changed since `survey`.
        """

    def all_notes(self) -> list[str]:
        """All notes about the result."""


class PreparedTask(Protocol):
    """The part of `tfllm.tasks.task.Task` that preparation uses."""

    @property
    def name(self) -> str:
        """Name of the task in the manifest."""

    def files(self, source: Any, config: Any, *, exclude: Any = ()) -> list[SourceFile]:
        """All files that a preparation reads, including validation files."""

    def preparation(self, source: Any, config: Any, *, exclude: Any, bar: Any) -> Preparation:
        """The preparation of the task's records."""
