"""Language modeling: predict the next token of documents; and code, with infilling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tfllm.config import PrepareConfig
from tfllm.data.preparing.text_preparation import TextPreparation
from tfllm.tasks.language_model.language_task import LanguageTask


class LanguageModeling(LanguageTask):
    """Predict the next token of documents, which are concatenated and cut into rows."""

    name = "language_modeling"
    kind = "text"

    def preparation(
        self,
        source: Any,
        config: PrepareConfig,
        *,
        exclude: Sequence[str | Path],
        bar: Callable[..., Any],
    ) -> TextPreparation:
        """The preparation of documents as a stream of tokens."""
        return TextPreparation(self._inputs(source, config, exclude, bar))


class Code(LanguageModeling):
    """Continue code and fill in gaps (Bavarian et al., 2022); half of the text has gaps."""

    name = "code"
    prepare_defaults: ClassVar[Mapping[str, Any]] = {
        **LanguageModeling.prepare_defaults,
        "fill_in_the_middle": 0.5,
    }
