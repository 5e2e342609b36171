"""The interface of text models, which export, check, client, `predict` and `evaluate` use."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfllm import model_verbs
from tfllm.config import ConfigError
from tfllm.tokenizers.base import Tokenizer

MAX_OPEN_BATCH = 32
"""default number of rows per batch of `predict`"""


class TextModel(tf.Module):
    """Base class: a model and its tokenizer as functions that are called locally and served.

    `signatures` are `tf.function`s with an input signature. They take strings or numbers, and
    return strings, float32 or int32, with the batch as the first axis of each. A bad row must not
    affect the others: if rows can be bad, there is an output `error`, string [B], empty for good
    rows. Labels are returned as text, positions as characters (code points) of the input.

    Subclasses define `signatures` and `served_state`; the rest has defaults, which suit a task
    whose answer is one call of `serving_default`.

    Examples:
        >>> import functools
        >>> import tensorflow as tf
        >>> class UpperCase(TextModel):
        ...     served_state = {}
        ...
        ...     @functools.cached_property
        ...     def signatures(self):
        ...         return {"serving_default": text_function(self._upper, "text")}
        ...
        ...     def _upper(self, text):
        ...         return {"upper": tf.strings.upper(text)}
        >>> UpperCase().predict([{"text": "hello"}])
        [{'upper': 'HELLO'}]
    """

    task_name = "language_modeling"
    """name of its task, a key of `TASKS`"""
    model: Any
    """the Keras model, from token ids to logits or vectors"""
    tokenizer: Tokenizer
    trained_length: int | None = None
    """number of tokens in the rows that a language model was trained on, if known"""

    @classmethod
    def from_pretrained(cls, path: str | Path, **options: Any) -> Any:
        """Load a model of this class, by `tfllm.load(path, ...)`.

        Raises:
            ValueError: the model is of another class; or as in `tfllm.load`.
            OSError: as in `tfllm.load`.
        """
        found = model_verbs.call("load", path, **options)
        if not isinstance(found, cls):
            raise ValueError(
                f"{path} must hold a model of the class {cls.__name__}; it holds one of the class "
                f"{type(found).__name__}"
            )
        return found

    # ---- what subclasses must define

    @property
    @abstractmethod
    def signatures(self) -> dict[str, Any]:
        """`tf.function`s by name, each created once; "serving_default" is one of them."""

    @property
    @abstractmethod
    def served_state(self) -> dict[str, Any]:
        """The state that a SavedModel needs for the signatures, by any names.

        It consists of variables and modules with variables (`tokenizer.graph()`), but not of Keras
        objects: use the `weights` of a model. A `tf.function` in it can be called if the SavedModel
        is loaded as an object.
        """

    @abstractmethod
    def with_dtype(self, dtype: str) -> TextModel:
        """A copy with weights and products of another dtype, or itself if that is its dtype.

        Args:
            dtype: "float32", "bfloat16" or "int8".

        Raises:
            ValueError: the model does not support the dtype.
        """

    # ---- what subclasses may define

    def with_settings(self, settings: Mapping[str, Any]) -> TextModel:
        """A copy with other defaults of settings, such as `max_new_tokens`.

        Raises:
            ConfigError: the task has no such setting.
        """
        raise ConfigError(f"{self.name} has no settings; received {', '.join(settings)}")

    def check_exportable(self) -> None:
        """Check that the model may be served.

        Raises:
            ConfigError: a setting is not supported.
        """

    warmup_texts: tuple[str, ...] = ("The", "")
    """texts of the string inputs in `warmup_requests`"""

    def input_defaults(self, signature: str) -> dict[str, Any]:
        """Defaults of inputs that a request of one row may leave out, as tensors of shape [1].

        Clients read them from the metadata; over gRPC, TensorFlow Serving inserts them.
        """
        return {}

    def extra_files(self) -> dict[str, str]:
        """Names and contents of additional text files in the SavedModel's `assets.extra`."""
        return {}

    def warmup_requests(self, texts: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
        """Requests, as (signature name, inputs), for the warm-up of servers and for `check`.

        Args:
            texts: texts of the string inputs, one per row.
        """
        requests = []
        for name, function in self.signatures.items():
            specs = function.input_signature
            if all(spec.dtype == tf.string for spec in specs) and name not in self.method_names:
                requests.append((name, {spec.name: tf.constant(list(texts)) for spec in specs}))
        return requests

    @property
    def method_names(self) -> dict[str, str]:
        """Method names of signatures in TensorFlow Serving, if these are not Predict."""
        return {}

    @property
    def input_names(self) -> list[str]:
        """The inputs of `serving_default`, which `predict` reads from a record."""
        return [spec.name for spec in self.signatures["serving_default"].input_signature]

    optional_inputs: tuple[str, ...] = ()
    """names of inputs that a record may leave out; they are then empty"""

    def predict(
        self, records: Sequence[Mapping[str, Any]], *, batch_size: int = MAX_OPEN_BATCH
    ) -> list[dict[str, Any]]:
        """Answer records; returns values that JSON can hold, in the order of the records.

        Records of similar length are batched together, since a batch is as long as its longest row.

        Args:
            records: dictionaries of input names and texts; other keys are ignored.
            batch_size: rows per batch. Defaults to 32.

        Raises:
            ValueError: an input of a record is missing or not a text.
        """
        rows = [self._inputs(record, number) for number, record in enumerate(records, 1)]
        order = sorted(range(len(rows)), key=lambda i: sum(map(len, rows[i].values())))
        answers: list[dict[str, Any]] = [{} for _ in rows]
        function = self.signatures["serving_default"]
        for begin in range(0, len(order), batch_size):
            places = order[begin : begin + batch_size]
            inputs = {n: tf.constant([rows[i][n] for i in places]) for n in self.input_names}
            outputs = {name: value.numpy() for name, value in function(**inputs).items()}
            for row, place in enumerate(places):
                answers[place] = self.answer({n: v[row] for n, v in outputs.items()})
        return answers

    def answer(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Convert a row of the outputs of `serving_default` to an answer that JSON can hold.

        Args:
            row: NumPy scalars or arrays by output name, with bytes for strings.
        """
        return {name: plain(value) for name, value in row.items()}

    def _inputs(self, record: Mapping[str, Any], number: int) -> dict[str, bytes]:
        found = {}
        for name in self.input_names:
            text = record.get(name)
            if text is None and name in self.optional_inputs:
                text = ""
            if not isinstance(text, str):
                where = getattr(record, "where", "") or f"record {number}"
                there = [repr(key) for key, value in record.items() if value is not None]
                has = ", ".join(there) or "nothing"
                received = f"it has {has}" if text is None else f"received {text!r}"
                raise ValueError(f"{where} must have the text {name!r}; {received}")
            found[name] = text.encode("utf-8", "surrogatepass")
        return found


def text_function(function: Callable[..., dict[str, tf.Tensor]], *inputs: str) -> Any:
    """Create a `tf.function` of texts.

    Args:
        function: function of string tensors [B], one for each input.
        inputs: names of the inputs in a signature.
    """
    specs = [tf.TensorSpec([None], tf.string, name) for name in inputs]
    return tf.function(function, input_signature=specs, autograph=False)


def sequence_length_of(information: Mapping[str, Any], context: int) -> int:
    """Maximum number of tokens in a row: as in training, but at most the model's context."""
    return min(int(information.get("sequence_length", context)), context)


def plain(value: Any) -> Any:
    """Convert a value of NumPy to one that JSON can hold; bytes become text."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value
