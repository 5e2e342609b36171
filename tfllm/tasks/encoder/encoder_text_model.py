"""Base class of text models that consist of an encoder with a head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from tfllm.tasks.text_model import TextModel, sequence_length_of

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer

Self = TypeVar("Self", bound="EncoderTextModel")


class EncoderTextModel(TextModel):
    """Base class: an encoder with a head and its tokenizer, as functions of texts.

    Subclasses define `signatures`, and read in `__init__` what they need from the information.

    Args:
        model: an encoder with a head.
        tokenizer: tokenizer of the model.
        information: information of the task; its `sequence_length` is the maximum number of tokens
            in a row, which defaults to the model's context length.
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
        """A copy with another dtype, or itself if that is its dtype."""
        if dtype == self.model.dtype_policy.name:
            return self
        return type(self)(self.model.with_dtype(dtype), self.tokenizer, self.information)
