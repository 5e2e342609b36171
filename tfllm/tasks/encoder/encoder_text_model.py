"""What the functions of texts of every encoder with a head have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from tfllm.tasks.text_model import TextModel, sequence_length_of

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer

Self = TypeVar("Self", bound="EncoderTextModel")


class EncoderTextModel(TextModel):
    """An encoder with a head, and its tokenizer, as functions of texts.

    A class says `signatures`, and in its `__init__` what it needs of the information.

    Args:
        model: an encoder with a head.
        tokenizer: of the model.
        information: of the task; its `sequence_length` is the most tokens of a row, which is
            otherwise the model's context.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer, information: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.information = dict(information)
        self.sequence_length = sequence_length_of(information, model.config.max_sequence_length)
        self._graph = tokenizer.graph()

    @property
    def served_state(self) -> dict[str, Any]:
        """The weights and the tokenizer."""
        return {"weights": self.model.weights, "tokenizer": self._graph}

    def with_dtype(self: Self, dtype: str) -> Self:
        """The same with another dtype, or itself."""
        if dtype == self.model.dtype_policy.name:
            return self
        return type(self)(self.model.with_dtype(dtype), self.tokenizer, self.information)
