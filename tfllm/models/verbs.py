"""Verbs of model objects that users of KerasHub know: `from_preset`, `generate`, `enable_lora`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tfllm import model_verbs
from tfllm.layers.shapes import ShapeShown
from tfllm.models.quantizing import QuantizeMethods

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer

_MARK = "unlike_dropouts"
"""of a model's configuration: what `mark_unlike_dropouts` was given"""


class ModelVerbs(QuantizeMethods, ShapeShown):
    """Mixin of every model: loading, and the tokenizer. It precedes `keras.Model` in the bases."""

    unlike_dropouts: Mapping[str, float] = MappingProxyType({})
    """see `mark_unlike_dropouts`"""

    @classmethod
    def from_preset(cls, preset: str | Path, **options: Any) -> Any:
        """A model of this class by the name of a size, or from a pretrained one.

        Args:
            preset: a size, such as "llama-4m" (see `tfllm sizes`), whose weights are new; or what
                `tfllm.load` takes: a model folder, a run's folder, a .gguf file, or
                `hf://ORGANISATION/NAME`. A head takes the encoder of a BERT with another head.
            options: of a size: fields of its configuration, such as `vocab_size`, and arguments of
                the class; of a pretrained model those of `tfllm.load`, such as `dtype`; of a new
                head also its own, such as `num_labels`.

        Returns:
            the model; its `tokenizer` is that of the pretrained one, or None.

        Raises:
            ValueError: the model is of another class; or as `tfllm.load`.
            OSError: as `tfllm.load`.
        """
        return model_verbs.call("from_preset", cls, preset, **options)

    @classmethod
    def from_pretrained(cls, path: str | Path, **options: Any) -> Any:
        """As `from_preset`, but for names of sizes, which have no weights."""
        return model_verbs.call("from_preset", cls, path, may_be_size=False, **options)

    def attach(self, tokenizer: Tokenizer | None, generation: Any = None) -> None:
        """Attach a tokenizer, so that `generate` accepts texts.

        Args:
            tokenizer: tokenizer of the model, or None.
            generation: a `GenerationConfig` with defaults for the options of `generate`.
        """
        # Not set as attributes, since Keras would take them for parts of the model.
        vars(self)["_text"] = (tokenizer, generation)

    def mark_unlike_dropouts(self, rates: Mapping[str, float], why: str) -> None:
        """Prevent training, because the model's folder has dropouts that tfllm does not support.

        Args:
            rates: their keys in the folder's config.json, which `tfllm.save` writes again, to
                rates.
            why: the error message of training.
        """
        vars(self)["unlike_dropouts"] = dict(rates)
        vars(self)["untrainable"] = why

    def get_config(self: Any) -> dict[str, Any]:
        """The constructor's arguments, and the reason if the model cannot be trained."""
        keras_model: Any = super()
        config = keras_model.get_config()
        if self.unlike_dropouts:
            config[_MARK] = {"rates": dict(self.unlike_dropouts), "why": self.untrainable}
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """A new model with the configuration that `get_config` returned."""
        arguments = {name: value for name, value in config.items() if name != _MARK}
        model = super().from_config(arguments, custom_objects)  # type: ignore[misc]
        if _MARK in config:
            model.mark_unlike_dropouts(**config[_MARK])
        return model

    def copied_to(self: Any, copy: Any) -> Any:
        """Give a copy what this model has besides its weights, and return it.

        These are the tokenizer, the settings of generation, and what `mark_unlike_dropouts` was
        given.
        """
        if "_text" in vars(self):
            copy.attach(*vars(self)["_text"])
        if self.unlike_dropouts:
            copy.mark_unlike_dropouts(self.unlike_dropouts, self.untrainable)
        return copy

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer that came with the weights, or was attached; else None."""
        return vars(self).get("_text", (None, None))[0]

    def enable_lora(self, *arguments: Any, **options: Any) -> None:
        """Raise an error: only a `CausalLM` can have low-rank adapters.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"low-rank adapters (LoRA) are for a CausalLM; {type(self).__name__} is trained whole"
        )


class GenerateVerb(ModelVerbs):
    """Mixin of models that generate."""

    def generate(self, inputs: Any, *, tokenizer: Tokenizer | None = None, **options: Any) -> Any:
        """Continue prompts; an encoder-decoder generates the texts for sources.

        Args:
            inputs: a text or a list of texts; or token ids, int `[T]`, `[B, T]` or a list of rows
                of any lengths.
            tokenizer: tokenizer for texts. Defaults to the model's `tokenizer`.
            options: fields of `GenerationConfig`, such as `max_new_tokens`; for an encoder-decoder
                those of its search, such as `num_beams`. For token ids also `end_token_ids`, one or
                several ids at which a row ends, by default the tokenizer's, if there is one.

        Returns:
            only the new part, without the prompt: a text or a list of texts; for token ids an int32
            NumPy array, or a list of arrays.

        Raises:
            ValueError: there is no tokenizer for texts; a prompt is too long, or has an id that is
                out of range; an option is unknown or out of range.
        """
        return model_verbs.call("generate", self, inputs, tokenizer=tokenizer, **options)
