"""Text generation: prompts in, text out, the same function locally and served."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfllm.config import ConfigError, GenerationConfig, build, to_dict
from tfllm.generation.decoding import (
    LENGTH,
    RUNNING,
    DecodingState,
    advance,
    begin,
    decode,
)
from tfllm.generation.options import OPTION_TYPES, option_values
from tfllm.generation.sampling import SamplingOptions
from tfllm.generation.stop_strings import StopHold, StopStrings
from tfllm.models.causal_lm import CausalLM
from tfllm.optimization.linear_cross_entropy import token_losses
from tfllm.pretrained import load
from tfllm.pretrained.model_folder import model_folder
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

        Returns:
            the continuation of a single prompt, or a list of them; with num_samples above 1, a
            list of samples in the place of each.

        Raises:
            ValueError: an option is unknown or out of range, or a prompt is too long.
        """
        single = isinstance(prompts, str)
        rows = [prompts] if single else list(prompts)
        if not rows:
            return []
        given = self._row_options(rows, options)
        samples = given[0].num_samples
        rows = [row for row in rows for _ in range(samples)]
        given = [
            build(GenerationConfig, {**to_dict(g), "seed": (g.seed + i) % 2**31})
            for g in given
            for i in range(samples)
        ]
        result = self.signatures["generate"](tf.constant(rows), **_tensors(given))
        texts = [text.decode() for text in _checked(result)["text"].numpy()]
        if samples > 1:
            texts = [texts[i : i + samples] for i in range(0, len(texts), samples)]
        return texts[0] if single else texts

    def stream(self, prompt: str, **options: Any) -> Iterator[str]:
        """Continue one prompt, piece by piece; the pieces joined are `generate`'s text.

        Args:
            prompt: the text to continue.
            options: fields of `GenerationConfig`, but num_samples.

        Raises:
            ValueError: as `generate`.
        """
        (given,) = self._row_options([prompt], options)
        state = self.stream_begin(tf.constant([prompt]), **_tensors([given]))
        held = StopHold(given.stop)
        while True:
            done = bool(_checked(state)["done"].numpy()[0])
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
        single = isinstance(texts, str)
        result = _checked(self.signatures["score"](tf.constant([texts] if single else list(texts))))
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

    def _row_options(self, rows: Sequence[str], options: dict[str, Any]) -> list[GenerationConfig]:
        """Each row's configuration; a list in the place of a value has one for each row."""
        unknown = set(options) - set(to_dict(self.generation))
        if unknown:
            build(GenerationConfig, {name: None for name in unknown})  # raises, with the nearest
        configs = []
        for i in range(len(rows)):
            values = {}
            for name, value in options.items():
                per_row = isinstance(value, list | tuple) and (
                    name != "stop" or any(isinstance(v, list | tuple) for v in value)
                )
                if per_row and len(value) != len(rows):
                    raise ConfigError(
                        f"{name} must be one value or one a prompt ({len(rows)}); received "
                        f"{len(value)} values"
                    )
                values[name] = value[i] if per_row else value
            configs.append(build(GenerationConfig, {**to_dict(self.generation), **values}))
        if len({c.num_samples for c in configs}) > 1:
            raise ConfigError("num_samples must be the same for all prompts")
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
        given = locals()  # a signature's inputs need their names; from here on they are data
        request = self._request(prompt, {name: given[name] for name in OPTION_DTYPES})
        stops = request.pop("stops")
        error = request.pop("error")
        state = decode(self.model, stops=stops, **request, **self._rules)
        return {
            "text": tf.where(error == "", stops.cut(valid_text(state.text)), ""),
            **_counts(state, error),
        }

    @property
    def _rules(self) -> dict[str, tf.Tensor]:
        return {
            "end_token_ids": self._end_token_ids,
            "token_bytes": tf.convert_to_tensor(self._graph.token_bytes),
        }

    def _request(self, prompt: tf.Tensor, options: dict[str, tf.Tensor]) -> dict[str, Any]:
        """What `decode` takes, with rows in error made harmless."""
        ids = self._graph.tokenize(prompt)
        # An empty prompt begins a document: behind the token that ended the one before.
        start = tf.cast(ids.row_lengths() == 0, tf.int64)
        first = tf.RaggedTensor.from_row_lengths(
            tf.fill([tf.reduce_sum(start)], self._end_token_ids[0]), start
        )
        ids = tf.concat([first, ids], axis=1)
        error = self._errors(ids, options)
        bad = error != ""
        ids = ids[:, : self.model.config.max_sequence_length]
        sane = {
            "temperature": 0.0,
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "seed": 0,
        }
        sampling = SamplingOptions(
            **{n: tf.where(bad, tf.cast(v, options[n].dtype), options[n]) for n, v in sane.items()}
        )
        return {
            "prompts": ids,
            "limits": tf.where(bad, 0, options["max_new_tokens"]),
            "options": sampling,
            "stops": StopStrings(tf.where(bad, "", options["stop"])),
            "error": error,
        }

    def _errors(self, ids: tf.RaggedTensor, options: dict[str, tf.Tensor]) -> tf.Tensor:
        """What is wrong with each row: string `[B]`, empty where nothing is."""
        context = self.model.config.max_sequence_length
        length = tf.cast(ids.row_lengths(), tf.int32)

        def within(name: str, low: float, high: float) -> tf.Tensor:
            return (options[name] >= low) & (options[name] <= high)  # NaN is not

        o = options
        rules = [
            (
                length < context,
                f"the prompt must be shorter than the model's context of {context} tokens; it has ",
                length,
            ),
            (
                o["max_new_tokens"] >= 1,
                "max_new_tokens must be at least 1; received ",
                o["max_new_tokens"],
            ),
            (
                within("temperature", 0, 3e38),
                "temperature must be a finite number, at least 0; received ",
                o["temperature"],
            ),
            (o["top_k"] >= 0, "top_k must be at least 0 (0: all tokens); received ", o["top_k"]),
            (within("top_p", 1e-30, 1), "top_p must lie in (0, 1]; received ", o["top_p"]),
            (
                within("min_p", 0, 1) & (o["min_p"] < 1),
                "min_p must lie in [0, 1); received ",
                o["min_p"],
            ),
            (
                within("repetition_penalty", 1e-30, 3e38),
                "repetition_penalty must be a finite number above 0; received ",
                o["repetition_penalty"],
            ),
            (o["seed"] >= 0, "seed must be at least 0; received ", o["seed"]),
        ]
        error = tf.fill(tf.shape(length), "")
        for holds, rule, value in reversed(rules):
            error = tf.where(holds, error, tf.strings.join([rule, tf.strings.as_string(value)]))
        return error

    def _score(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        ids = self._graph.tokenize(text)
        context = self.model.config.max_sequence_length
        lengths = tf.cast(ids.row_lengths(), tf.int32)
        too_long = lengths > context
        error = tf.where(
            too_long,
            tf.strings.join(
                [
                    f"the text must have at most {context} tokens, the model's context; it has ",
                    tf.strings.as_string(lengths),
                ]
            ),
            "",
        )
        lengths = tf.where(too_long, 0, lengths)
        labels = ids.to_tensor(default_value=-1)[:, :context]
        valid = tf.sequence_mask(lengths, tf.shape(labels)[1])
        labels = tf.where(valid, labels, -1)
        # Each token is predicted from those before it, the first from the end of a document.
        start = tf.fill([tf.shape(labels)[0], 1], self._end_token_ids[0])
        inputs = tf.concat([start, tf.maximum(labels, 0)], 1)[:, :-1]
        hidden, _ = self.model.hidden_states(inputs)
        losses = token_losses(
            tf.reshape(hidden, [-1, self.model.config.embedding_dim]),
            self.model.output_weights,
            tf.reshape(tf.maximum(labels, 0), [-1]),
        )
        log_probs = tf.where(valid, -tf.reshape(losses, tf.shape(labels)), 0.0)
        log_prob = tf.reduce_sum(log_probs, -1)
        mean = tf.math.divide_no_nan(log_prob, tf.cast(lengths, tf.float32))
        return {
            "num_tokens": lengths,
            "log_prob": log_prob,
            "perplexity": tf.exp(-mean),
            "token_ids": labels,
            "token_log_probs": log_probs,
            "error": error,
        }

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
                given = locals()
                request = self._request(prompt, {name: given[name] for name in OPTION_DTYPES})
                stops, error = request.pop("stops"), request.pop("error")
                state = begin(self.model, stops=stops, **request, **self._rules)
                return _packed(state, request["options"], stops, error)

            self._stream_begin = tf.function(stream_begin, input_signature=specs, autograph=False)
        return self._stream_begin

    @property
    def stream_next(self) -> Any:
        """`tf.function`: a state to the state one token further."""
        if not hasattr(self, "_stream_next"):

            def stream_next(state: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
                decoding, options, stops, error = _unpacked(state, len(self.model.blocks))
                decoding = advance(self.model, decoding, options, stops=stops, **self._rules)
                return _packed(decoding, options, stops, error)

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


def valid_text(text: tf.Tensor, *, finished: bool | tf.Tensor = True) -> tf.Tensor:
    """Bytes to valid UTF-8: what is not becomes U+FFFD; a beginning of a character at the end of an
    unfinished text is held back."""
    valid = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
    return tf.where(finished, valid, tf.strings.regex_replace(valid, r"\x{FFFD}+$", ""))


def _counts(state: DecodingState, error: tf.Tensor) -> dict[str, tf.Tensor]:
    reason = tf.where(state.ends == LENGTH, "length", tf.where(state.ends == RUNNING, "", "stop"))
    return {
        "prompt_tokens": state.prompt_lengths,
        "generated_tokens": state.counts,
        "finish_reason": tf.where(error == "", reason, "error"),
        "error": error,
    }


def _packed(
    state: DecodingState, options: SamplingOptions, stops: StopStrings, error: tf.Tensor
) -> dict[str, tf.Tensor]:
    """A stream's state as a flat dictionary, with what a caller reads: text, done, counts."""
    decoding = {f"decoding_{name}": value for name, value in state._asdict().items()}
    layers = decoding.pop("decoding_keys_values")
    done = state.ends != RUNNING
    return {
        **decoding,
        **{f"keys_values_{i}": layer for i, layer in enumerate(layers)},
        **{f"option_{name}": value for name, value in options._asdict().items()},
        "stop": stops.joined,
        "text": tf.where(
            done, stops.cut(valid_text(state.text)), valid_text(state.text, finished=False)
        ),
        "done": done,
        **_counts(state, error),
    }


def _unpacked(
    packed: dict[str, tf.Tensor], num_layers: int
) -> tuple[DecodingState, SamplingOptions, StopStrings, tf.Tensor]:
    decoding = {
        name.removeprefix("decoding_"): value
        for name, value in packed.items()
        if name.startswith("decoding_")
    }
    layers = tuple(packed[f"keys_values_{i}"] for i in range(num_layers))
    options = SamplingOptions(*(packed[f"option_{name}"] for name in SamplingOptions._fields))
    state = DecodingState(keys_values=layers, **decoding)
    return state, options, StopStrings(packed["stop"]), packed["error"]


def _tensors(configs: Sequence[GenerationConfig]) -> dict[str, tf.Tensor]:
    values = [option_values(c) for c in configs]
    return {n: tf.constant([v[n] for v in values], t) for n, t in OPTION_DTYPES.items()}


def _checked(result: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    for number, error in enumerate(result["error"].numpy()):
        if error:
            raise ValueError(f"text {number + 1}: {error.decode()}")
    return result
