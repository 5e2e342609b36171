"""What export, check, client, `predict` and `evaluate` need of a task's functions."""

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
"""rows that `predict` answers at once, unless told otherwise"""


class TextModel(tf.Module):
    """A model and its tokenizer as functions that the same code calls locally and serves.

    `signatures` are `tf.function`s with an input signature: strings or numbers in, strings, float32
    or int32 out, the batch first in each. One bad row must not fail the others: where a row can be
    bad there is an output `error`, string [B], empty for a good row. Labels come as text, places as
    characters (code points) of the input.

    A class says `signatures` and `served_state`; the rest has defaults, which suit a task whose
    answer is one call of `serving_default`.
    """

    task_name = "language_modeling"
    """a key of `TASKS`: the task that it answers for"""
    model: Any
    """the Keras model, token ids to logits or vectors"""
    tokenizer: Tokenizer
    trained_length: int | None = None
    """tokens of the rows that a language model was trained on, where its folder says it"""

    @classmethod
    def from_pretrained(cls, path: str | Path, **options: Any) -> Any:
        """A model of this class: `tfllm.load(path, ...)`.

        Raises:
            ValueError: the model there is for something else; or as `tfllm.load`.
            OSError: as `tfllm.load`.
        """
        found = model_verbs.call("load", path, **options)
        if not isinstance(found, cls):
            raise ValueError(f"{path} is a {type(found).__name__}, and no {cls.__name__}")
        return found

    # ---- what a task must say

    @property
    @abstractmethod
    def signatures(self) -> dict[str, Any]:
        """Name to `tf.function`, each made once; "serving_default" among them."""

    @property
    @abstractmethod
    def served_state(self) -> dict[str, Any]:
        """What a SavedModel must hold for the signatures: variables, and modules that have some
        (`tokenizer.graph()`), by any names. No Keras objects: a model gives its `weights`.

        A `tf.function` in it can be called where the SavedModel is loaded as an object.
        """

    @abstractmethod
    def with_dtype(self, dtype: str) -> TextModel:
        """The same with weights and products of another dtype, or itself.

        Args:
            dtype: "float32", "bfloat16" or "int8".

        Raises:
            ValueError: the model cannot be had in it.
        """

    # ---- what a task may say

    def with_settings(self, settings: Mapping[str, Any]) -> TextModel:
        """The same with other settings where a request says none, such as `max_new_tokens`.

        Raises:
            ConfigError: the task has no such setting.
        """
        raise ConfigError(f"{self.name} has no settings; received {', '.join(settings)}")

    def check_exportable(self) -> None:
        """Refuse what must not be served.

        Raises:
            ConfigError: a setting would not be followed.
        """

    warmup_texts: tuple[str, ...] = ("The", "")
    """what the string inputs of `warmup_requests` are"""

    def input_defaults(self, signature: str) -> dict[str, Any]:
        """Input name to a [1] tensor: what a request of one row may leave out.

        Clients read them in the metadata; over gRPC TensorFlow Serving fills them in.
        """
        return {}

    def extra_files(self) -> dict[str, str]:
        """File name to text: what stands beside the SavedModel, in `assets.extra`."""
        return {}

    def warmup_requests(self, texts: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
        """(signature name, inputs) of requests that a server warms up with, and `check` runs.

        Args:
            texts: of the string inputs, one a row.
        """
        requests = []
        for name, function in self.signatures.items():
            specs = function.input_signature
            if all(spec.dtype == tf.string for spec in specs) and name not in self.method_names:
                requests.append((name, {spec.name: tf.constant(list(texts)) for spec in specs}))
        return requests

    @property
    def method_names(self) -> dict[str, str]:
        """Signature name to its TensorFlow Serving method, where that is not Predict."""
        return {}

    @property
    def input_names(self) -> list[str]:
        """What `predict` reads of a record: the inputs of `serving_default`."""
        return [spec.name for spec in self.signatures["serving_default"].input_signature]

    optional_inputs: tuple[str, ...] = ()
    """of these, the ones that a record may leave out: they are then empty"""

    def predict(
        self, records: Sequence[Mapping[str, Any]], *, batch_size: int = MAX_OPEN_BATCH
    ) -> list[dict[str, Any]]:
        """The answer to each record, in their order, as values that JSON can hold.

        Records of like length are answered together, since a batch is as long as its longest.

        Args:
            records: input name to text; what else a record has is passed over.
            batch_size: rows at once.

        Raises:
            ValueError: a record lacks an input, or one is no text.
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
        """A row of the outputs of `serving_default` as values that JSON can hold, without padding.

        Args:
            row: output name to a NumPy scalar or array, bytes for a string.
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
                told = f"it has {has}" if text is None else f"received {text!r}"
                raise ValueError(f"{where} must have the text {name!r}; {told}")
            found[name] = text.encode("utf-8", "surrogatepass")
        return found


def text_function(function: Callable[..., dict[str, tf.Tensor]], *inputs: str) -> Any:
    """A `tf.function` of texts.

    Args:
        function: takes a string tensor [B] for each input.
        inputs: what a signature calls them.
    """
    specs = [tf.TensorSpec([None], tf.string, name) for name in inputs]
    return tf.function(function, input_signature=specs, autograph=False)


def sequence_length_of(information: Mapping[str, Any], context: int) -> int:
    """The most tokens of a row: those that a model was trained with, at most its context."""
    return min(int(information.get("sequence_length", context)), context)


def plain(value: Any) -> Any:
    """A value of NumPy or TensorFlow as one that JSON can hold; bytes as text."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value
