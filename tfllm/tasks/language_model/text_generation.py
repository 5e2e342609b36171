"""Text generation: prompts in, text out, the same function locally and served."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfllm.config import ConfigError, GenerationConfig, build, to_dict
from tfllm.config.generation import option_rows
from tfllm.generation.causal_lm_decoder import CausalLMDecoder
from tfllm.generation.decoding import Decoder, advance, begin, decode, with_room
from tfllm.generation.option_inputs import (
    OPTION_DTYPES,
    function_of_inputs,
    option_specs,
    option_tensors,
    row_tensors,
)
from tfllm.generation.requests import Request, read_request
from tfllm.generation.sampling import SamplingOptions
from tfllm.generation.stop_strings import StopHold, StopStrings
from tfllm.generation.stream_state import counts, packed, unpacked, valid_text
from tfllm.generation.token_rules import TokenRules
from tfllm.models.causal_lm import CausalLM
from tfllm.models.encoder_decoder import EncoderDecoder
from tfllm.pretrained import load
from tfllm.pretrained.adapters import load_merged
from tfllm.pretrained.keras_hub.models import is_keras_hub_model, is_keras_hub_preset
from tfllm.pretrained.model_folder import model_folder
from tfllm.tasks.language_model.beam_generation import BeamGeneration
from tfllm.tasks.language_model.keras_hub_generation import keras_hub_parts
from tfllm.tasks.language_model.scoring import token_scores
from tfllm.tasks.text_model import TextModel, text_function
from tfllm.tokenizers.base import Tokenizer
from tfllm.tokenizers.begin_token import begin_token_ids

_OF_TASK = [name for name, row in option_rows().items() if row.of_task]


class TextGeneration(TextModel):
    """A causal language model and its tokenizer as functions from text to text.

    `generate` and `stream` are for Python; `signatures` are the same functions for a SavedModel.
    One bad row (a prompt longer than the context, an option out of range) does not fail the rows
    that were batched with it: its `error` says what is wrong, and its text is empty.

    Args:
        model: a causal language model, or what generation is to see of another one. Where the
            weights of a `CausalLM` are stored in another type than they are used in (a
            mixed-precision policy), a copy in the type of use is made, because each token would
            convert all weights anew.
        tokenizer: of the model.
        generation: the options where none are given.

    Raises:
        ValueError: the tokenizer has ids that the model does not know.
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
        self._graph = tokenizer.graph()
        self._end_token_ids = tf.constant(tokenizer.end_token_ids, tf.int32)
        self.token_bytes = self._graph.token_bytes
        unused = decoder.vocab_size - tokenizer.vocab_size
        if unused:  # an embedding padded to a round number: ids that stand for nothing
            with tf.device("/CPU:0"):
                padded = tf.concat([tf.convert_to_tensor(self.token_bytes), [""] * unused], 0)
                self.token_bytes = tf.Variable(padded, trainable=False, name="token_bytes")
        self._beams: dict[Any, BeamGeneration] = {}

    @property
    def model(self) -> Any:
        """The Keras model that is run."""
        return self.decoder.model

    def with_dtype(self, dtype: str) -> TextGeneration:
        """The same task with weights and products of another dtype, or itself.

        Args:
            dtype: "float32", "bfloat16" or "int8".
        """
        if dtype == self.decoder.dtype:
            return self
        return type(self)(self.decoder.with_dtype(dtype), self.tokenizer, self.generation)

    def with_generation(self, generation: GenerationConfig) -> TextGeneration:
        """The same task with other options where none are given."""
        return type(self)(self.decoder, self.tokenizer, generation)

    def with_settings(self, settings: Mapping[str, Any]) -> TextGeneration:
        """The same task with some options set, where none are given."""
        return self.with_generation(self.generation.with_options(settings))

    @classmethod
    def load(
        cls, folder: str | Path, *, dtype: str = "float32", adapter: str | Path | None = None
    ) -> TextGeneration:
        """The model, tokenizer and generation settings of a model folder (or a run's).

        Args:
            folder: a model folder, the run folder that holds one, or a preset folder of KerasHub.
            dtype: of the weights and products: "float32", "bfloat16", or "int8" for weights that
                are used in the one of the two that is faster here.
            adapter: a folder with an adapter for the model, in PEFT's layout, which is merged.

        Raises:
            FileNotFoundError: there is no model or adapter, or it has no tokenizer.
            ValueError: the model or the adapter cannot be read, or do not belong together.
        """
        folder = model_folder(folder)
        if is_keras_hub_preset(folder):
            if adapter is not None:
                raise ValueError(
                    f"an adapter is for a model of tfllm, and {folder} is a preset of KerasHub; "
                    "leave the adapter out"
                )
            return cls.of_keras_hub(folder, dtype=dtype)
        if adapter is None:
            model, tokenizer, generation = load(folder, dtype=dtype)
        else:
            model, tokenizer, generation = load_merged(folder, adapter, dtype=dtype)
        if isinstance(model, EncoderDecoder):
            raise ValueError(
                f"{folder} holds an encoder-decoder, such as a T5, and does not say its task: name "
                'it, as tfllm.load(path, task="translation") or `tfllm export FOLDER BASE --task '
                "summarization`"
            )
        if not isinstance(model, CausalLM):
            raise ValueError(
                f"text is generated by a causal language model; {folder} holds a "
                f"{type(model).__name__}, which tfllm.pretrained.load(path) gives"
            )
        if tokenizer is None:
            raise FileNotFoundError(f"{folder} has no tokenizer; text needs one")
        return cls(model, tokenizer, generation)

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
            options: fields of `GenerationConfig`; each is one value, or a list with one a prompt.
                Several stop strings for all prompts are a list of strings, and those of each
                prompt a list of lists.

        Returns:
            the continuation of a single prompt, or a list of them; with any num_samples above 1,
            a list of samples in the place of each.

        Raises:
            ValueError: an option is unknown or out of range, or a prompt is too long.
        """
        task, options = self._with_fixed(options)
        if task is not self:
            return task.generate(prompts, **options)
        single, rows = texts_of("prompts", prompts)
        tokenize = self._graph.tokenize
        texts = self._answers(self.signatures["generate"], rows, options, tokenize)
        return texts[0] if single else texts

    def generate_from_ids(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[Any]:
        """Continue prompts that are token ids already, such as the end of a longer text.

        Args:
            prompts: ids of each prompt.
            options: as of `generate`, without beam search.

        Returns:
            as `generate` of several prompts.

        Raises:
            ValueError: as `generate`.
        """
        ids = tf.ragged.constant([list(row) for row in prompts], tf.int32, ragged_rank=1)

        def answer(numbers: tf.Tensor, **given: tf.Tensor) -> dict[str, tf.Tensor]:
            return self._answer(tf.gather(ids, numbers), given)

        return self._answers(answer, range(len(prompts)), options)

    def n_best(self, prompts: str | Sequence[str], **options: Any) -> Any:
        """The likeliest continuations of each prompt that beam search finds, the best first.

        Args:
            prompts: one text or several.
            options: as of `generate`; `num_beams` says how many, and is the same for all prompts.

        Returns:
            of a single prompt a list of dictionaries, or a list of such lists: `text`; `score`, the
            log-probability divided by the number of tokens to the power `length_penalty`;
            `log_prob`; `generated_tokens`; `finish_reason`.

        Raises:
            ValueError: as `generate`.
        """
        task, options = self._with_fixed(options)
        if task is not self:
            return task.n_best(prompts, **options)
        single, rows = texts_of("prompts", prompts)
        given = self._row_options(len(rows), options)
        found = self._searched(self._graph.tokenize, rows, given, all_beams=True)
        return found[0] if single else found

    def _searched(
        self,
        tokenize: Callable[[tf.Tensor], tf.RaggedTensor] | None,
        rows: Sequence[Any],
        given: Sequence[GenerationConfig],
        *,
        all_beams: bool = False,
    ) -> list[list[dict[str, Any]]]:
        """What beam search finds for each row, the best first."""
        if not rows:
            return []
        kinds = {(g.num_beams, g.no_repeat_ngram_size) for g in given}
        if len(kinds) > 1:
            raise ConfigError(
                "num_beams and no_repeat_ngram_size must be the same for all prompts of a call; "
                f"received {sorted(kinds)}"
            )
        if tokenize is None:
            raise ConfigError(
                "num_beams must be 1, and no_repeat_ngram_size 0, for code and for token ids"
            )
        result = self._beam_generation(tokenize, *kinds.pop()).search(
            tf.constant(rows),
            tf.constant([min(g.max_new_tokens, 2**31 - 1) for g in given]),
            tf.constant([g.length_penalty for g in given]),
            tf.constant([g.num_beams if all_beams else 1 for g in given]),
        )
        return BeamGeneration.rows(_checked(result))

    def _beam_generation(
        self, tokenize: Callable[[tf.Tensor], tf.RaggedTensor], width: int, ngram: int
    ) -> BeamGeneration:
        key = (tokenize, width, ngram)
        if key not in self._beams:
            self._beams[key] = BeamGeneration(
                self.decoder,
                tokenize,
                width,
                ngram,
                settings=self.generation,
                end_token_ids=self._end_token_ids,
                token_bytes=tf.convert_to_tensor(self.token_bytes),
            )
        return self._beams[key]

    def _answers(
        self,
        function: Any,
        rows: Sequence[Any],
        options: dict[str, Any],
        tokenize: Callable[[tf.Tensor], tf.RaggedTensor] | None = None,
    ) -> list[Any]:
        """The text of each row, or its samples.

        Args:
            function: the signature that takes the rows.
            rows: what it takes, but for the options.
            options: as of `generate`.
            tokenize: what it makes prompts of the rows with, for beam search.
        """
        given = self._row_options(len(rows), options)
        if any(g.searches for g in given):
            found = self._searched(tokenize, rows, given)
            return [texts[0]["text"] if texts else "" for texts in found]
        if not rows:
            return []
        inputs = [row for row, g in zip(rows, given, strict=True) for _ in range(g.num_samples)]
        configs = [
            dataclasses.replace(g, seed=(g.seed + i) % 2**31)
            for g in given
            for i in range(g.num_samples)
        ]
        result = _checked(
            function(tf.constant(inputs), **row_tensors(configs)),
            [i + 1 for i, g in enumerate(given) for _ in range(g.num_samples)],
        )
        answers = iter([text.decode() for text in result["text"].numpy()])
        texts: list[Any] = [list(itertools.islice(answers, g.num_samples)) for g in given]
        if any(g.num_samples > 1 for g in given):
            return texts
        return [text for (text,) in texts]

    def stream(self, prompt: str, **options: Any) -> Iterator[str]:
        """Continue one prompt, piece by piece; the pieces joined are `generate`'s text.

        Args:
            prompt: the text to continue.
            options: fields of `GenerationConfig`; there is one sample.

        Raises:
            ValueError: as `generate`; at once, not with the first piece.
        """
        task, options = self._with_fixed(options)
        if task is not self:
            return task.stream(prompt, **options)
        single, rows = texts_of("prompt", prompt)
        if not single:
            raise ValueError("stream continues one prompt; received several. Use generate.")
        return self._stream(self.stream_begin, rows, options)

    def _stream(self, function: Any, rows: list[bytes], options: dict[str, Any]) -> Iterator[str]:
        """The pieces of the one row; `function`: what takes it, as `stream_begin`."""
        (given,) = self._row_options(1, options)
        if given.num_samples > 1 and "num_samples" in options:
            raise ConfigError(
                f"num_samples must be 1 for a stream; received {given.num_samples}. Start a "
                "stream for each, with another seed."
            )
        if given.searches:
            raise ConfigError(
                f"num_beams must be 1, and no_repeat_ngram_size 0, for a stream; received "
                f"{given.num_beams} and {given.no_repeat_ngram_size}: a search knows its first "
                "token when it knows its last"
            )
        state = _checked(function(tf.constant(rows), **row_tensors([given])))
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
            logarithm, summed over the tokens), `perplexity` (a token) and `token_log_probs`. A
            begin or end token that the tokenizer puts around a text is none of its tokens. Where
            it puts no begin token, nothing comes before the first token: it is not scored, its
            log-probability is 0, and the perplexity is that of the others.

        Raises:
            ValueError: a text is longer than the context.
        """
        single, rows = texts_of("texts", texts)
        if not rows:
            return []
        result = _checked(self.signatures["score"](tf.constant(rows)))
        scores = [
            {
                "num_tokens": int(num),
                "log_prob": float(log_prob),
                "perplexity": float(perplexity),
                "token_log_probs": json.loads(log_probs),
            }
            for num, log_prob, perplexity, log_probs in zip(
                *(
                    result[name].numpy()
                    for name in ("num_tokens", "log_prob", "perplexity", "token_log_probs_json")
                ),
                strict=True,
            )
        ]
        return scores[0] if single else scores

    def _with_fixed(self, options: dict[str, Any]) -> tuple[TextGeneration, dict[str, Any]]:
        """This task, or one with those of the options that are the same for all its prompts; and
        the options that are left."""
        fixed = {name: value for name, value in options.items() if name in _OF_TASK}
        if not fixed:
            return self, options
        rest = {name: value for name, value in options.items() if name not in fixed}
        task = self.with_settings(fixed)
        return (self if task.generation == self.generation else task), rest

    def _row_options(self, num_rows: int, options: dict[str, Any]) -> list[GenerationConfig]:
        """Each row's configuration; a list in the place of a value has one for each row."""
        unknown = set(options) - set(to_dict(self.generation))
        if unknown:
            build(GenerationConfig, {name: None for name in unknown})  # raises, with the nearest
        for name in options.keys() & set(_OF_TASK):
            raise ConfigError(
                f"{name} is the same for all texts of a task; give it with "
                f"task.with_settings({{{name!r}: ...}})"
            )
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
        for config in configs:
            config.check_followed()
        return configs

    # ------------------------------------------------------------------ in the graph

    @functools.cached_property
    def signatures(self) -> dict[str, Any]:
        """Name to `tf.function`: `serving_default`, `generate` and `score`; and `beam`, where the
        settings are those of a beam search."""
        prompt = tf.TensorSpec([None], tf.string, "prompt")
        functions = {
            "serving_default": text_function(self._serving_default, "prompt"),
            "generate": function_of_inputs(self._generate, [prompt, *option_specs()]),
            "score": text_function(self._score, "text"),
        }
        if self.generation.searches:
            functions["beam"] = self._own_beams.signature
        return functions

    @property
    def _own_beams(self) -> BeamGeneration:
        """The search that the settings ask for."""
        own = self.generation
        return self._beam_generation(self._graph.tokenize, own.num_beams, own.no_repeat_ngram_size)

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
        """The options, as they are where none are given."""
        if signature in ("serving_default", "score"):
            return {}
        if signature == "beam":
            return {
                "max_new_tokens": tf.constant([min(self.generation.max_new_tokens, 2**31 - 1)]),
                "length_penalty": tf.constant([self.generation.length_penalty], tf.float32),
            }
        return option_tensors(self.generation, 1)

    def check_exportable(self) -> None:
        """Refuse settings of the model's folder that are not followed."""
        self.generation.check_followed()

    def warmup_requests(self, texts: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
        """Of each signature."""
        prompts = tf.constant(list(texts))
        requests = [
            ("generate", {"prompt": prompts, **self._warmup_options(len(texts))}),
            ("score", {"text": prompts}),
            ("serving_default", {"prompt": prompts[:1]}),
        ]
        if "beam" in self.signatures:
            short = {"max_new_tokens": tf.fill([len(texts)], 2)}
            penalty = tf.fill([len(texts)], tf.constant(self.generation.length_penalty))
            requests.append(("beam", {"prompt": prompts, **short, "length_penalty": penalty}))
        return requests

    def _warmup_options(self, num_rows: int) -> dict[str, tf.Tensor]:
        return option_tensors(dataclasses.replace(self.generation, max_new_tokens=2), num_rows)

    def _serving_default(self, prompt: tf.Tensor) -> dict[str, tf.Tensor]:
        batch = tf.shape(prompt)[0]
        own = self.generation
        if own.searches:
            return self._own_beams.best(
                prompt,
                tf.fill([batch], min(own.max_new_tokens, 2**31 - 1)),
                tf.fill([batch], tf.constant(own.length_penalty, tf.float32)),
            )
        return self._generate(prompt, **option_tensors(own, batch))

    def _generate(self, prompt: tf.Tensor, **options: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._answer(self._graph.tokenize(prompt), options)

    def _answer(
        self,
        prompts: tf.RaggedTensor,
        options: dict[str, tf.Tensor],
        refused: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """The outputs of `generate`; arguments as `_request`."""
        request = self._request(prompts, options, refused)
        result = self._decode(
            request.prompts.values,
            request.prompts.row_splits,
            request.limits,
            request.stops.joined,
            request.error,
            *request.options,
        )
        return {**result, "prompt_tokens": request.prompt_tokens}

    @functools.cached_property
    def _decode(self) -> Any:
        """One function for all signatures, so that a SavedModel holds the decoding loop once."""

        def decode_rows(
            ids: tf.Tensor,
            row_splits: tf.Tensor,
            limits: tf.Tensor,
            stop: tf.Tensor,
            error: tf.Tensor,
            *options: tf.Tensor,
        ) -> dict[str, tf.Tensor]:
            stops = StopStrings(stop)
            state = decode(
                self.decoder,
                tf.RaggedTensor.from_row_splits(ids, row_splits, validate=False),
                limits,
                SamplingOptions(*options),
                stops=stops,
                **self._rules,
            )
            text = stops.cut(valid_text(state.text))
            return {"text": tf.where(error == "", text, ""), **counts(state, error)}

        types = [tf.int32, tf.int64, tf.int32, tf.string, tf.string]
        types += [OPTION_DTYPES[name] for name in SamplingOptions._fields]
        specs = [tf.TensorSpec([None], t) for t in types]
        return tf.function(decode_rows, input_signature=specs, autograph=False)

    @property
    def _rules(self) -> dict[str, Any]:
        return {
            "end_token_ids": self._end_token_ids,
            "token_bytes": tf.convert_to_tensor(self.token_bytes),
            "token_rules": TokenRules.of(self.generation),
        }

    def _request(
        self,
        prompts: tf.RaggedTensor,
        options: dict[str, tf.Tensor],
        refused: tf.Tensor | None = None,
    ) -> Request:
        """What decoding takes.

        Args:
            prompts: int32 `[B, (P)]`.
            options: name to `[B]`, as `OPTION_DTYPES` has them.
            refused: string `[B]`: what is wrong with a row beside that, or empty.
        """
        return read_request(
            prompts,
            options,
            context=self.decoder.context,
            start_id=self._end_token_ids[0],
            max_length=self.generation.max_length,
            refused=refused,
        )

    def _score(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        ids = self._graph.tokenize(text, add_special=False)
        return token_scores(self.decoder, ids, begin_token_ids(self.tokenizer))

    # ------------------------------------------------------------------ token by token

    @property
    def stream_begin(self) -> Any:
        """`tf.function`: a prompt and its options, each `[1]`, to the state after a token."""
        if not hasattr(self, "_stream_begin"):
            self._stream_begin = self._beginning(self._graph.tokenize)
        return self._stream_begin

    def _beginning(self, tokenize: Callable[[tf.Tensor], tf.RaggedTensor]) -> Any:
        def stream_begin(prompt: tf.Tensor, **options: tf.Tensor) -> dict[str, tf.Tensor]:
            request = self._request(tokenize(prompt), options)
            state = begin(
                self.decoder,
                request.prompts,
                request.limits,
                request.options,
                stops=request.stops,
                **self._rules,
            )
            return packed(state, request.options, request.stops, request.error)

        prompt = tf.TensorSpec([1], tf.string, "prompt")
        return function_of_inputs(stream_begin, [prompt, *option_specs(batch=1)])

    @property
    def stream_next(self) -> Any:
        """`tf.function`: a state to the state one token further."""
        if not hasattr(self, "_stream_next"):

            def stream_next(state: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
                decoding, options, stops, error = unpacked(state, self.decoder.memory_structure)
                decoding = with_room(self.decoder, decoding)
                decoding = advance(self.decoder, decoding, options, stops=stops, **self._rules)
                return packed(decoding, options, stops, error)

            concrete = self.stream_begin.get_concrete_function()
            spec = {
                name: tf.TensorSpec(tensor.shape, tensor.dtype, name)
                for name, tensor in concrete.structured_outputs.items()
            }
            self._stream_next = tf.function(stream_next, input_signature=[spec], autograph=False)
        return self._stream_next


def generate(
    model: str | Path | CausalLM | Any,
    prompts: str | Sequence[str],
    *,
    tokenizer: Tokenizer | None = None,
    dtype: str = "float32",
    **options: Any,
) -> Any:
    """Continue prompts with a model, in one call.

    Each call with a folder loads the model anew; keep a `TextGeneration` for more than one.

    Args:
        model: a model folder, or a model and its `tokenizer`; or KerasHub's, which has its own.
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
    if is_keras_hub_model(model):
        task = TextGeneration.of_keras_hub(model, tokenizer=tokenizer)
        return task.generate(prompts, **options)
    return TextGeneration.load(model, dtype=dtype).generate(prompts, **options)


def texts_of(name: str, given: Any) -> tuple[bool, list[bytes]]:
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
