"""The steps from records to shards, which differ between kinds of records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tfllm.data.reading.sources import SourceFile

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer


class Preparation(Protocol):
    """Records on their way to shards; `tfllm.data.preparation.prepare` takes the steps in order."""

    @property
    def layout(self) -> str:
        """How the shards are laid out, a key of `FORMAT_VERSIONS`."""

    def survey(self) -> None:
        """Read everything once, and decide what is kept for validation.

        Raises:
            ValueError: a record is broken, or there is none.
        """

    def tokenizer(self) -> Tokenizer:
        """The one that is given, or a new one, trained on the records to train on."""

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the shards; what the manifest says of them: "splits", "dtype", "sources", ...

        Raises:
            ValueError: there is nothing to learn, or the files are not what `survey` read.
        """

    def all_notes(self) -> list[str]:
        """What there is to say about the result."""


class PreparedTask(Protocol):
    """What preparation asks of a task; `tfllm.tasks.task.Task` has it."""

    @property
    def name(self) -> str:
        """As the manifest calls it."""

    def files(self, source: Any, config: Any, *, exclude: Any = ()) -> list[SourceFile]:
        """All files that a preparation reads, those of validation among them."""

    def preparation(self, source: Any, config: Any, *, exclude: Any, bar: Any) -> Preparation:
        """The steps of its records."""
