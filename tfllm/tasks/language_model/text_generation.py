"""Text generation: from prompts to texts, with the same functions locally and served."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from tfllm.config import GenerationConfig
from tfllm.config.generation import present_names
from tfllm.generation.causal_lm_decoder import CausalLMDecoder
from tfllm.generation.decoding import Decoder
from tfllm.generation.option_inputs import option_specs, option_tensors, row_tensors
from tfllm.generation.stop_strings import StopHold
from tfllm.models.causal_lm import CausalLM
from tfllm.tasks.graph_method import graph_method, text_input
from tfllm.tasks.language_model.beam_generation import BeamGeneration
from tfllm.tasks.language_model.folder_parts import folder_parts
from tfllm.tasks.language_model.keras_hub_generation import keras_hub_parts
from tfllm.tasks.language_model.request_rows import (
    OF_TASK,
    SampledRows,
    check_not_searched,
    checked,
    row_options,
    stream_options,
    texts_of,
)
from tfllm.tasks.language_model.scoring import scores_of, token_scores
from tfllm.tasks.language_model.text_decoding import TextDecoding, padded_token_bytes
from tfllm.tasks.text_model import TextModel
from tfllm.tokenizers.base import Tokenizer
from tfllm.tokenizers.begin_token import begin_token_ids

if TYPE_CHECKING:
    from tfllm.tokenizers.graph.tokenizer_graph import TokenizerGraph


class TextGeneration(TextModel):
    """A causal language model and its tokenizer as functions from text to text.

    `generate` and `stream` are for Python; `signatures` are the same functions for a SavedModel.
    A bad row (a prompt longer than the context, an option out of range) does not affect the other
    rows of its batch: its `error` gives the reason, and its text is empty.

    Args:
        model: a causal language model, or the decoder of another model. If the weights of a
            `CausalLM` are stored in another dtype than that of the computation (a mixed-precision
            policy), a converted copy is used, since otherwise each token would convert all weights
            again.
        tokenizer: tokenizer of the model.
        generation: generation options that are used if none are given. Defaults to
            `GenerationConfig()`.

    Raises:
        ValueError: the tokenizer has ids outside the model's vocabulary.

    Examples:
        >>> import tfllm
        >>> tokenizer = tfllm.BytePairTokenizer.train(["To be, or not to be."], vocab_size=300)
        >>> config = tfllm.ModelConfig(vocab_size=300, embedding_dim=16, num_layers=1, num_heads=2)
        >>> model = tfllm.TextGeneration(tfllm.CausalLM(config, seed=0), tokenizer)
        >>> texts = model.generate(["To be", "or not"], max_new_tokens=5, temperature=1.0)
        >>> len(texts)
        2
        >>> model.score("To be, or not")["num_tokens"]
        5
    """

    def __init__(
        self,
        model: CausalLM | Decoder,
        tokenizer: Tokenizer,
        generation: GenerationConfig | None = None,
        *,
        name: str = "text_generation",
    ) -> None:
        super().__init__(name=name)
        decoder = CausalLMDecoder(model) if isinstance(model, CausalLM) else model
        if tokenizer.vocab_size > decoder.vocab_size:
            raise ValueError(
                "the tokenizer's ids must all be in the model's vocabulary; the tokenizer has "
                f"{tokenizer.vocab_size}, the model {decoder.vocab_size}. Use the tokenizer "
                "that the model was trained with."
            )
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.generation = generation or GenerationConfig()
        self._graph: TokenizerGraph = tokenizer.graph()
        self._end_token_ids = tf.constant(tokenizer.end_token_ids, tf.int32)
        unused = decoder.vocab_size - tokenizer.vocab_size
        self.token_bytes = padded_token_bytes(self._graph.token_bytes, unused)

    @property
    def model(self) -> Any:
        """The Keras model."""
        return self.decoder.model

    def with_dtype(self, dtype: str) -> TextGeneration:
        """A copy with weights and products of another dtype, or itself if that is its dtype.

        Args:
            dtype: "float32", "bfloat16" or "int8".
        """
        if dtype == self.decoder.dtype:
            return self
        return type(self)(self.decoder.with_dtype(dtype), self.tokenizer, self.generation)

    def with_generation(self, generation: GenerationConfig) -> TextGeneration:
        """A copy with other default options."""
        return type(self)(self.decoder, self.tokenizer, generation)

    def with_settings(self, settings: Mapping[str, Any]) -> TextGeneration:
        """A copy with some of the default options changed."""
        return self.with_generation(self.generation.with_options(settings))

    @classmethod
    def load(
        cls, folder: str | Path, *, dtype: str = "float32", adapter: str | Path | None = None
    ) -> TextGeneration:
        """Load the model, tokenizer and generation settings of a model folder or a run.

        Args:
            folder: a model folder, the run folder that holds one, or a preset folder of KerasHub.
            dtype: dtype of weights and matrix products: "float32", "bfloat16", or "int8" for
                weights in int8 and products in the faster of the two. Defaults to "float32".
            adapter: folder of an adapter for the model, in PEFT's layout, to be merged.

        Raises:
            FileNotFoundError: there is no model or adapter, or it has no tokenizer.
            ValueError: the model or the adapter cannot be read, or do not belong together.
        """
        return cls(*folder_parts(folder, dtype=dtype, adapter=adapter))

    @classmethod
    def of_keras_hub(
        cls,
        model: Any,
        *,
        tokenizer: Tokenizer | None = None,
        generation: GenerationConfig | None = None,
        max_sequence_length: int | None = None,
        dtype: str | None = None,
    ) -> TextGeneration:
        """A `CausalLM` of KerasHub (KerasNLP), of any architecture: it is run as it is.

        Args:
            model: the model, or a preset folder that `model.save_to_preset` wrote. Where a copy of
                it is run, later training is not followed: that is so with a mixed-precision
                policy, and with LoRA, whose weights are merged.
            tokenizer: instead of the one of the model's preprocessor, whose ids are KerasHub's own
                outside of a graph. KerasHub splits text there as Llama 3 does, for every model;
                the tokenizer.json of the model's first publication may split it otherwise.
            generation: the options where none are given.
            max_sequence_length: the most tokens of a text; default: what the model's positions
                allow, or the preprocessor's `sequence_length`.
            dtype: of weights and products, "float32" or "bfloat16"; default: as they are.

        Raises:
            FileNotFoundError: there is no such preset.
            ValueError: the model cannot be decoded from text alone; the error says what it lacks.
        """
        decoder, tokenizer = keras_hub_parts(
            model, tokenizer=tokenizer, max_sequence_length=max_sequence_length, dtype=dtype
        )
        return cls(decoder, tokenizer, generation)

    # ------------------------------------------------------------------ for Python

    def generate(self, prompts: str | Sequence[str], **options: Any) -> Any:
        """Continue each prompt.

        Args:
            prompts: one text or several.
            options: fields of `GenerationConfig`; each is one value, or a list with one value per
                prompt. Several stop strings for all prompts are a list of strings, different ones
                for each prompt a list of lists.

        Returns:
            The continuation of a single prompt, or a list of continuations; if any num_samples is
            above 1, each is a list of samples.

        Raises:
            ValueError: an option is unknown or out of range, or a prompt is too long.
        """
        task, options = self._with_fixed(options)
        if task is not self:
            return task.generate(prompts, **options)
        rows = texts_of(prompts, "prompts")
        given = row_options(self.generation, len(rows), options)
        if not rows:
            return []
        if any(g.searches for g in given):
            texts = self._decoding.beams.best_texts(self._graph.tokenize, rows, given)
        else:
            samples = SampledRows(given)
            result = self._generate(prompt=samples.repeated(rows), **samples.options())
            texts = samples.texts(result)
        return texts[0] if isinstance(prompts, str) else texts

    def generate_from_ids(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[Any]:
        """Continue prompts that are given as token ids, such as the end of a longer text.

        Args:
            prompts: ids of each prompt.
            options: as in `generate`, without beam search.

        Returns:
            As `generate` for several prompts.

        Raises:
            ValueError: as in `generate`.
        """
        ids = tf.ragged.constant([list(row) for row in prompts], tf.int32, ragged_rank=1)
        given = row_options(self.generation, len(prompts), options)
        check_not_searched(given)
        if not given:
            return []
        samples = SampledRows(given)
        numbers = samples.repeated(range(len(prompts)))
        return samples.texts(self._decoding.continued(tf.gather(ids, numbers), samples.options()))

    def n_best(self, prompts: str | Sequence[str], **options: Any) -> Any:
        """The best continuations of each prompt that beam search finds, best first.

        Args:
            prompts: one text or several.
            options: as in `generate`; `num_beams`, which must be the same for all prompts, is their
                number.

        Returns:
            A list of dictionaries for a single prompt, or a list of such lists: `text`; `score`,
            the log-probability divided by the number of tokens to the power `length_penalty`;
            `log_prob`; `generated_tokens`; `finish_reason`.

        Raises:
            ValueError: as in `generate`.
        """
        task, options = self._with_fixed(options)
        if task is not self:
            return task.n_best(prompts, **options)
        rows = texts_of(prompts, "prompts")
        given = row_options(self.generation, len(rows), options)
        found = self._decoding.beams.found(self._graph.tokenize, rows, given, all_beams=True)
        return found[0] if isinstance(prompts, str) else found

    def stream(self, prompt: str, **options: Any) -> Iterator[str]:
        """Continue one prompt piece by piece; joined, the pieces are the text of `generate`.

        Args:
            prompt: the text to continue.
            options: fields of `GenerationConfig`; only one sample is supported.

        Raises:
            ValueError: as in `generate`; raised before the first piece.
        """
        task, options = self._with_fixed(options)
        if task is not self:
            return task.stream(prompt, **options)
        rows = texts_of(prompt, "prompt")
        if not isinstance(prompt, str):
            raise ValueError("stream continues one prompt; received several. Use generate.")
        given = stream_options(self.generation, options)
        state = self.stream_begin(prompt=tf.constant(rows), **row_tensors([given]))
        return self._pieces(checked(state), StopHold(given.stop))

    def _pieces(self, state: dict[str, tf.Tensor], held: StopHold) -> Iterator[str]:
        while True:
            done = bool(state["done"].numpy()[0])
            piece = held.piece(state["text"].numpy()[0].decode(), done)
            if piece:
                yield piece
            if done:
                return
            state = self.stream_next(state)

    def score(self, texts: str | Sequence[str]) -> Any:
        """Score texts by their log-probability.

        Args:
            texts: one text or several.

        Returns:
            A dictionary for a single text, or a list of them: `num_tokens`, `log_prob` (in nats,
            summed over the tokens), `perplexity` (per token) and `token_log_probs`. A begin or end
            token that the tokenizer puts around a text does not count as one of its tokens. Without
            a begin token, the first token cannot be predicted: it is not scored, its
            log-probability is 0, and the perplexity is that of the others.

        Raises:
            ValueError: a text is longer than the context.
        """
        rows = texts_of(texts, "texts")
        if not rows:
            return []
        scores = scores_of(checked(self._score(text=tf.constant(rows))))
        return scores[0] if isinstance(texts, str) else scores

    def _with_fixed(self, options: dict[str, Any]) -> tuple[TextGeneration, dict[str, Any]]:
        """The model with those options set that are fixed for a task, and the other options."""
        options = present_names(options)
        fixed = {name: value for name, value in options.items() if name in OF_TASK}
        if not fixed:
            return self, options
        rest = {name: value for name, value in options.items() if name not in fixed}
        task = self.with_settings(fixed)
        return (self if task.generation == self.generation else task), rest

    # ------------------------------------------------------------------ in the graph

    @property
    def signatures(self) -> dict[str, Any]:
        """`tf.function`s by name: `serving_default`, `generate` and `score`; and `beam` if the
        default options are those of beam search."""
        functions = {
            "serving_default": self._serving_default,
            "generate": self._generate,
            "score": self._score,
        }
        if self.generation.searches:
            functions["beam"] = self._own_beams.signature
        return functions

    @functools.cached_property
    def _decoding(self) -> TextDecoding:
        return TextDecoding(
            self.decoder,
            self.generation,
            end_token_ids=self._end_token_ids,
            token_bytes=self.token_bytes,
        )

    @property
    def _own_beams(self) -> BeamGeneration:
        """The beam search with the default options."""
        return self._decoding.beams.of_settings(self._graph.tokenize)

    @property
    def served_state(self) -> dict[str, Any]:
        """The weights, the tokenizer, and the functions of a stream."""
        return {
            "weights": self.decoder.weights,
            "tokenizer": self._graph,
            "token_bytes": self.token_bytes,
            # Not signatures, because Serving has no streaming call: for servers that load the
            # object.
            "stream_begin": self.stream_begin,
            "stream_next": self.stream_next,
        }

    def input_defaults(self, signature: str) -> dict[str, Any]:
        """The default options of a signature, as tensors."""
        if signature in ("serving_default", "score"):
            return {}
        if signature == "beam":
            return self._own_beams.input_defaults()
        return option_tensors(self.generation, 1)

    def check_exportable(self) -> None:
        """Refuse settings of the model's folder that are not supported."""
        self.generation.check_supported()

    def warmup_requests(self, texts: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
        """Warm-up requests for each signature."""
        prompts = tf.constant(list(texts))
        requests = [
            ("generate", {"prompt": prompts, **self._warmup_options(len(texts))}),
            ("score", {"text": prompts}),
            ("serving_default", {"prompt": prompts[:1]}),
        ]
        if "beam" in self.signatures:
            inputs = self._own_beams.input_defaults(len(texts), max_new_tokens=2)
            requests.append(("beam", {"prompt": prompts, **inputs}))
        return requests

    def _warmup_options(self, num_rows: int) -> dict[str, tf.Tensor]:
        return option_tensors(dataclasses.replace(self.generation, max_new_tokens=2), num_rows)

    @graph_method(text_input("prompt"))
    def _serving_default(self, prompt: tf.Tensor) -> dict[str, tf.Tensor]:
        batch = tf.shape(prompt)[0]
        if self.generation.searches:
            return self._own_beams.best(prompt, **self._own_beams.input_defaults(batch))
        return self._generate(prompt=prompt, **option_tensors(self.generation, batch))

    @graph_method(text_input("prompt"), *option_specs())
    def _generate(self, prompt: tf.Tensor, **options: tf.Tensor) -> dict[str, tf.Tensor]:
        ids = self._graph.tokenize(prompt)
        return self._decoding.continued(ids, options)

    @graph_method(text_input("text"))
    def _score(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        ids = self._graph.tokenize(text, add_special=False)
        return token_scores(self.decoder, ids, begin_token_ids(self.tokenizer))

    # ------------------------------------------------------------------ token by token

    @graph_method(text_input("prompt", 1), *option_specs(batch=1))
    def stream_begin(self, prompt: tf.Tensor, **options: tf.Tensor) -> dict[str, tf.Tensor]:
        """`tf.function` from a prompt and its options, each `[1]`, to the state after one token."""
        ids = self._graph.tokenize(prompt)
        return self._decoding.first_token(ids, options)

    @functools.cached_property
    def stream_next(self) -> Any:
        """`tf.function` from a state to the state after the next token."""
        outputs = self.stream_begin.get_concrete_function().structured_outputs
        spec = {name: tf.TensorSpec(t.shape, t.dtype, name) for name, t in outputs.items()}
        return tf.function(self._decoding.next_token, input_signature=[spec], autograph=False)
