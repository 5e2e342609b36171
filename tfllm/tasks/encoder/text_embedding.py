"""Text model that maps texts to vectors."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfllm.config import ConfigError, unknown_name
from tfllm.models.heads.sentence_encoder import SentenceEncoder
from tfllm.tasks.encoder.encoder_inputs import blank_error, encoder_inputs
from tfllm.tasks.encoder.encoder_text_model import EncoderTextModel
from tfllm.tasks.text_model import MAX_OPEN_BATCH, TextModel, text_function

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer

_SIGNATURE_NAME = re.compile(r"(?!serving_default$)[A-Za-z]\w*", re.ASCII)


class TextEmbedding(EncoderTextModel):
    """Text model that maps texts to vectors.

    Signatures:
        serving_default: takes `text` string [B], and returns `vector` float32 [B, E], of length 1
            unless the model does not normalize; `truncated_tokens` int32 [B], the number of tokens
            that were cut off; `error` string [B] ("", or that the text is empty: then the vector is
            0).
        One for each prompt whose name consists of letters, digits and "_", with that name: the same
            with the prompt before each text.

    Args:
        model: model that maps a row of ids to a vector.
        tokenizer: tokenizer of the model.
        information: information of the task: `sequence_length`, the maximum number of tokens of a
            text; `prompts`, which maps names to prefixes of texts, such as "query: ";
            `default_prompt_name`, the prompt that is used if none is given.

    Raises:
        ConfigError: `default_prompt_name` is not in the prompts.
    """

    task_name = "embedding"

    def __init__(
        self, model: SentenceEncoder, tokenizer: Tokenizer, information: Mapping[str, Any]
    ) -> None:
        super().__init__(model, tokenizer, information)
        self.prompts: dict[str, str] = dict(information.get("prompts") or {})
        self.prompt_name: str | None = information.get("default_prompt_name")
        if self.prompt_name is not None:
            self._check_prompt(self.prompt_name)

    @functools.cached_property
    def signatures(self) -> dict[str, Any]:
        """`serving_default`, and one for each prompt."""
        named = {name: name for name in self.prompts if _SIGNATURE_NAME.fullmatch(name)}
        prompts = {"serving_default": self.prompt_name, **named}
        return {signature: self._with_prompt(prompt) for signature, prompt in prompts.items()}

    def _with_prompt(self, name: str | None) -> Any:
        prompt = "" if name is None else self.prompts[name]

        def embed(text: tf.Tensor) -> dict[str, tf.Tensor]:
            return self._embed(tf.fill(tf.shape(text), prompt), text)

        return text_function(embed, "text")

    def _check_prompt(self, name: str) -> None:
        if name not in self.prompts:
            raise ConfigError(unknown_name("prompt_name", name, self.prompts))

    def with_settings(self, settings: Mapping[str, Any]) -> TextEmbedding:
        """A copy with another default `prompt_name`; None: no prompt."""
        unknown = [name for name in settings if name != "prompt_name"]
        if unknown:
            raise ConfigError(unknown_name("setting", unknown[0], ("prompt_name",)))
        changed = {"default_prompt_name": settings.get("prompt_name")}
        return type(self)(self.model, self.tokenizer, {**self.information, **changed})

    def embed(
        self,
        texts: Sequence[str],
        *,
        prompt_name: str | None = None,
        batch_size: int = MAX_OPEN_BATCH,
    ) -> np.ndarray:
        """The vectors of texts, float32 [N, E]; 0 for an empty text.

        Args:
            texts: the texts.
            prompt_name: name of the prompt that is put before each text. Defaults to the model's
                `default_prompt_name`, if it has one.
            batch_size: texts per batch.

        Raises:
            ConfigError: the model has no such prompt.
        """
        task = self if prompt_name is None else self.with_settings({"prompt_name": prompt_name})
        answers = TextModel.predict(task, [{"text": t} for t in texts], batch_size=batch_size)
        return np.array([a["vector"] for a in answers], np.float32).reshape(
            -1, self.model.vector_dim
        )

    def predict(
        self, records: Sequence[Mapping[str, Any]], *, batch_size: int = MAX_OPEN_BATCH
    ) -> list[dict[str, Any]]:
        """The answer to each record, with a `positive_vector` if the record has a `positive`."""
        answers = super().predict(records, batch_size=batch_size)
        pairs = [i for i, record in enumerate(records) if record.get("positive") is not None]
        others = super().predict(
            [{"text": records[i]["positive"]} for i in pairs], batch_size=batch_size
        )
        for i, other in zip(pairs, others, strict=True):
            answers[i]["positive_vector"] = other["vector"]
        return answers

    @functools.cached_property
    def _embed(self) -> Any:
        """One function for all signatures, so that a SavedModel contains the model once."""

        def embed(prompt: tf.Tensor, text: tf.Tensor) -> dict[str, tf.Tensor]:
            whole = tf.strings.join([prompt, text])
            inputs, num_truncated = encoder_inputs(
                self.tokenizer, self._graph, whole, None, self.sequence_length
            )
            del inputs["token_type_ids"]  # all are 0
            error = blank_error(text)
            vectors = self.model(inputs, training=False)
            good = tf.cast(error == "", tf.float32)[:, tf.newaxis]
            return {"vector": vectors * good, "truncated_tokens": num_truncated, "error": error}

        specs = [tf.TensorSpec([None], tf.string)] * 2
        return tf.function(embed, input_signature=specs, autograph=False)
