"""Text generation: prompts in, text out, the same function locally and served."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfllm.config import ConfigError, GenerationConfig, build, to_dict
from tfllm.generation.decoding import advance, begin, decode
from tfllm.generation.options import OPTION_TYPES, option_values
from tfllm.generation.requests import Request, read_request
from tfllm.generation.stop_strings import StopHold
from tfllm.generation.stream_state import counts, packed, unpacked, valid_text
from tfllm.models.causal_lm import CausalLM
from tfllm.pretrained import load
from tfllm.pretrained.model_folder import model_folder
from tfllm.tasks.scoring import token_scores
from tfllm.tokenizers.base import Tokenizer

OPTION_DTYPES = {n: tf.as_dtype(t) for n, t in OPTION_TYPES.items()}
"""The options of the `generate` signature, each of shape [batch]."""


class TextGeneration(tf.Module):
    """A causal language model and its tokenizer as functions from text to text.

    `generate` and `stream` are for Python; `signatures` are the same functions for a SavedModel.
    One bad row (a prompt longer than the context, an option out of range) does not fail the rows
    that were batched with it: its `error` says what is wrong, and its text is empty.

    Args:
        model: a causal language model. Where its weights are stored in another type than they are
            used in (a mixed-precision policy), a copy in the type of use is made, because each
            token would convert all weights anew.
        tokenizer: of the model.
        generation: the options where none are given.

    Raises:
        ValueError: the tokenizer has ids that the model does not know.
    """

    def __init__(
        self,
        model: CausalLM,
        tokenizer: Tokenizer,
        generation: GenerationConfig | None = None,
        *,
        name: str = "text_generation",
    ) -> None:
        super().__init__(name=name)
        if tokenizer.vocab_size > model.config.vocab_size:
            raise ValueError(
                "the tokenizer's ids must all be in the model's vocabulary; the tokenizer has "
                f"{tokenizer.vocab_size}, the model {model.config.vocab_size}. Use the tokenizer "
                "that the model was trained with."
            )
        if model.compute_dtype != model.variable_dtype:
            model = model.with_dtype(model.compute_dtype)
        self.model = model
        self.tokenizer = tokenizer
        self.generation = generation or GenerationConfig()
        self._graph = tokenizer.graph()
        self._end_token_ids = tf.constant([tokenizer.end_token_id], tf.int32)
        self.token_bytes = self._graph.token_bytes
        unused = model.config.vocab_size - tokenizer.vocab_size
        if unused:  # an embedding padded to a round number: ids that stand for nothing
            with tf.device("/CPU:0"):
                padded = tf.concat([tf.convert_to_tensor(self.token_bytes), [""] * unused], 0)
                self.token_bytes = tf.Variable(padded, trainable=False, name="token_bytes")
        self._functions: dict[str, Any] = {}

    @classmethod
    def load(cls, folder: str | Path, *, dtype: str = "float32") -> TextGeneration:
        """The model, tokenizer and generation settings of a model folder (or a run's).

        Args:
            folder: a model folder, or the run folder that holds one.
            dtype: of the weights and products: "float32" or "bfloat16".

        Raises:
            FileNotFoundError: there is no model, or it has no tokenizer.
        """
        folder = model_folder(folder)
        model, tokenizer, generation = load(folder, dtype=dtype)
        if tokenizer is None:
            raise FileNotFoundError(f"{folder} has no tokenizer.json; text needs one")
        return cls(model, tokenizer, generation)

    # ------------------------------------------------------------------ for Python

    def generate(self, prompts: str | Sequence[str], **options: Any) -> Any:
        """Continue each prompt.

        Args:
            prompts: one text or several.
            options: fields of `GenerationConfig`; each is one value, or a list with one a prompt.
                Several stop strings for all prompts are a list of strings, and those of each
                prompt a list of lists.

        Returns:
            the continuation of a single prompt, or a list of them; with any num_samples above 1,
            a list of samples in the place of each.

        Raises:
            ValueError: an option is unknown or out of range, or a prompt is too long.
        """
        single, rows = _texts("prompts", prompts)
        given = self._row_options(len(rows), options)
        if not rows:
            return []
        several = any(g.num_samples > 1 for g in given)
        inputs = [row for row, g in zip(rows, given, strict=True) for _ in range(g.num_samples)]
        configs = [
            dataclasses.replace(g, seed=(g.seed + i) % 2**31)
            for g in given
            for i in range(g.num_samples)
        ]
        result = _checked(
            self.signatures["generate"](tf.constant(inputs), **_tensors(configs)),
            [i + 1 for i, g in enumerate(given) for _ in range(g.num_samples)],
        )
        answers = iter([text.decode() for text in result["text"].numpy()])
        texts: list[Any] = [list(itertools.islice(answers, g.num_samples)) for g in given]
        if not several:
            texts = [text for (text,) in texts]
        return texts[0] if single else texts

    def stream(self, prompt: str, **options: Any) -> Iterator[str]:
        """Continue one prompt, piece by piece; the pieces joined are `generate`'s text.

        Args:
            prompt: the text to continue.
            options: fields of `GenerationConfig`; there is one sample.

        Raises:
            ValueError: as `generate`; at once, not with the first piece.
        """
        single, rows = _texts("prompt", prompt)
        if not single:
            raise ValueError("stream continues one prompt; received several. Use generate.")
        (given,) = self._row_options(1, options)
        if given.num_samples > 1 and "num_samples" in options:
            raise ConfigError(
                f"num_samples must be 1 for a stream; received {given.num_samples}. Start a "
                "stream for each, with another seed."
            )
        state = _checked(self.stream_begin(tf.constant(rows), **_tensors([given])))
        return self._pieces(state, StopHold(given.stop))

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
        """How likely the model finds each text.

        Args:
            texts: one text or several.

        Returns:
            a dictionary for a single text, or a list of them: `num_tokens`, `log_prob` (natural
            logarithm, of the whole text), `perplexity` (a token) and `token_log_probs`.

        Raises:
            ValueError: a text is longer than the context.
        """
        single, rows = _texts("texts", texts)
        if not rows:
            return []
        result = _checked(self.signatures["score"](tf.constant(rows)))
        scores = [
            {
                "num_tokens": int(num),
                "log_prob": float(log_prob),
                "perplexity": float(perplexity),
                "token_log_probs": row[:num].tolist(),
            }
            for num, log_prob, perplexity, row in zip(
                *(
                    result[name].numpy()
                    for name in ("num_tokens", "log_prob", "perplexity", "token_log_probs")
                ),
                strict=True,
            )
        ]
        return scores[0] if single else scores

    def _row_options(self, num_rows: int, options: dict[str, Any]) -> list[GenerationConfig]:
        """Each row's configuration; a list in the place of a value has one for each row."""
        unknown = set(options) - set(to_dict(self.generation))
        if unknown:
            build(GenerationConfig, {name: None for name in unknown})  # raises, with the nearest
        per_row = {
            name
            for name, value in options.items()
            if isinstance(value, list | tuple)
            and (name != "stop" or any(isinstance(v, list | tuple) for v in value))
        }
        for name in per_row:
            if len(options[name]) != num_rows:
                raise ConfigError(
                    f"{name} must be one value or one a prompt ({num_rows}); received "
                    f"{len(options[name])} values"
                )
        configs = []
        for i in range(num_rows):
            values = {n: v[i] if n in per_row else v for n, v in options.items()}
            configs.append(build(GenerationConfig, {**to_dict(self.generation), **values}))
        return configs

    # ------------------------------------------------------------------ in the graph

    @property
    def signatures(self) -> dict[str, Any]:
        """Name to `tf.function`: `serving_default`, `generate` and `score`."""
        if not self._functions:
            prompt = tf.TensorSpec([None], tf.string, "prompt")
            options = {n: tf.TensorSpec([None], t, n) for n, t in OPTION_DTYPES.items()}
            text = tf.TensorSpec([None], tf.string, "text")
            self._functions = {
                "serving_default": tf.function(
                    self._serving_default, input_signature=[prompt], autograph=False
                ),
                "generate": tf.function(
                    self._generate, input_signature=[prompt, *options.values()], autograph=False
                ),
                "score": tf.function(self._score, input_signature=[text], autograph=False),
            }
        return self._functions

    def _serving_default(self, prompt: tf.Tensor) -> dict[str, tf.Tensor]:
        batch = tf.shape(prompt)[0]
        values = option_values(self.generation)
        return self._generate(
            prompt, *(tf.fill([batch], tf.constant(values[n], t)) for n, t in OPTION_DTYPES.items())
        )

    def _generate(
        self,
        prompt: tf.Tensor,
        max_new_tokens: tf.Tensor,
        temperature: tf.Tensor,
        top_k: tf.Tensor,
        top_p: tf.Tensor,
        min_p: tf.Tensor,
        repetition_penalty: tf.Tensor,
        seed: tf.Tensor,
        stop: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        request = self._request(prompt, locals())  # a signature's inputs need their names
        state = decode(
            self.model,
            request.prompts,
            request.limits,
            request.options,
            stops=request.stops,
            **self._rules,
        )
        text = request.stops.cut(valid_text(state.text))
        return {
            "text": tf.where(request.error == "", text, ""),
            **counts(state, request.error),
            "prompt_tokens": request.prompt_tokens,
        }

    @property
    def _rules(self) -> dict[str, tf.Tensor]:
        return {
            "end_token_ids": self._end_token_ids,
            "token_bytes": tf.convert_to_tensor(self.token_bytes),
        }

    def _request(self, prompt: tf.Tensor, given: dict[str, Any]) -> Request:
        return read_request(
            self._graph.tokenize(prompt),
            {name: given[name] for name in OPTION_DTYPES},
            context=self.model.config.max_sequence_length,
            start_id=self._end_token_ids[0],
        )

    def _score(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        return token_scores(self.model, self._graph.tokenize(text), self._end_token_ids[0])

    # ------------------------------------------------------------------ token by token

    @property
    def stream_begin(self) -> Any:
        """`tf.function`: a prompt and its options, each `[1]`, to the state after a token."""
        if not hasattr(self, "_stream_begin"):
            specs = [tf.TensorSpec([1], tf.string, "prompt")]
            specs += [tf.TensorSpec([1], t, n) for n, t in OPTION_DTYPES.items()]

            def stream_begin(
                prompt: tf.Tensor,
                max_new_tokens: tf.Tensor,
                temperature: tf.Tensor,
                top_k: tf.Tensor,
                top_p: tf.Tensor,
                min_p: tf.Tensor,
                repetition_penalty: tf.Tensor,
                seed: tf.Tensor,
                stop: tf.Tensor,
            ) -> dict[str, tf.Tensor]:
                request = self._request(prompt, locals())
                state = begin(
                    self.model,
                    request.prompts,
                    request.limits,
                    request.options,
                    stops=request.stops,
                    **self._rules,
                )
                return packed(state, request.options, request.stops, request.error)

            self._stream_begin = tf.function(stream_begin, input_signature=specs, autograph=False)
        return self._stream_begin

    @property
    def stream_next(self) -> Any:
        """`tf.function`: a state to the state one token further."""
        if not hasattr(self, "_stream_next"):

            def stream_next(state: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
                decoding, options, stops, error = unpacked(state, len(self.model.blocks))
                decoding = advance(self.model, decoding, options, stops=stops, **self._rules)
                return packed(decoding, options, stops, error)

            concrete = self.stream_begin.get_concrete_function()
            spec = {
                name: tf.TensorSpec(tensor.shape, tensor.dtype, name)
                for name, tensor in concrete.structured_outputs.items()
            }
            self._stream_next = tf.function(stream_next, input_signature=[spec], autograph=False)
        return self._stream_next


def generate(
    model: str | Path | CausalLM,
    prompts: str | Sequence[str],
    *,
    tokenizer: Tokenizer | None = None,
    dtype: str = "float32",
    **options: Any,
) -> Any:
    """Continue prompts with a model, in one call.

    Each call with a folder loads the model anew; keep a `TextGeneration` for more than one.

    Args:
        model: a model folder, or a model and its `tokenizer`.
        prompts: one text or several.
        tokenizer: of a model that is given as an object.
        dtype: in which a model folder is loaded, "float32" or "bfloat16".
        options: as `TextGeneration.generate`.

    Returns:
        as `TextGeneration.generate`.
    """
    if isinstance(model, CausalLM):
        if tokenizer is None:
            raise ValueError("generate needs the tokenizer of a model that is given as an object")
        return TextGeneration(model, tokenizer).generate(prompts, **options)
    return TextGeneration.load(model, dtype=dtype).generate(prompts, **options)


def _tensors(configs: Sequence[GenerationConfig]) -> dict[str, tf.Tensor]:
    values = [option_values(c) for c in configs]
    return {n: tf.constant([v[n] for v in values], t) for n, t in OPTION_DTYPES.items()}


def _texts(name: str, given: Any) -> tuple[bool, list[bytes]]:
    """Whether it is one text, and the texts as bytes, in which a lone surrogate has a place."""
    single = isinstance(given, str)
    rows = [given] if single else given
    if not isinstance(rows, list | tuple) or not all(isinstance(row, str) for row in rows):
        raise ValueError(f"{name} must be a string or a list of strings; received {given!r}")
    return single, [row.encode("utf-8", "surrogatepass") for row in rows]


def _checked(
    result: dict[str, tf.Tensor], numbers: Sequence[int] | None = None
) -> dict[str, tf.Tensor]:
    """The result, where no row has an error; `numbers`: of each row, what the error calls it."""
    for row, error in enumerate(result["error"].numpy()):
        if error:
            raise ValueError(f"text {numbers[row] if numbers else row + 1}: {error.decode()}")
    return result
