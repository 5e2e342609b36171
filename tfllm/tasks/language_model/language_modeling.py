"""Language modeling: documents, of which every next token is learned; and code, with gaps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tfllm.config import PrepareConfig
from tfllm.data.preparing.text_preparation import TextPreparation
from tfllm.tasks.language_model.language_task import LanguageTask


class LanguageModeling(LanguageTask):
    """Predict the next token of documents, which fill their rows end to end."""

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
        """Documents to a stream of tokens, with a tokenizer that is given or trained on them."""
        return TextPreparation(self._inputs(source, config, exclude, bar))


class Code(LanguageModeling):
    """Continue code and fill in its gaps (Bavarian et al., 2022): half of the texts have some."""

    name = "code"
    prepare_defaults: ClassVar[Mapping[str, Any]] = {
        **LanguageModeling.prepare_defaults,
        "fill_in_the_middle": 0.5,
    }
