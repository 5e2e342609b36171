"""A loaded version of a model: its signatures, run one by one or batched, and its live stream.

A signature runs as the `ConcreteFunction` that `tf.saved_model.load` restores. Calling it with
tensors costs as little as a TF1 session's prepared callable (0.2-0.3 ms on one core for a trivial
graph) and needs no second copy of the weights. The loaded object also has the functions of the
live stream, which a session cannot call.
"""

from __future__ import annotations

import functools
import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfllm.serving.batching_options import BatchingOptions
from tfllm.serving.client.chat_templates import exported_template
from tfllm.serving.protocol.errors import ServingError, from_exception, invalid_argument
from tfllm.serving.protocol.tensor_json import TensorInfo
from tfllm.serving.server.batching import BatchGate, batched_function

DEFAULT_SIGNATURE = "serving_default"

# If a batch fails with one of these, no request of it is at fault, and none is run by itself.
_BLAME_NO_REQUEST = {"CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}


@dataclass
class Prediction:
    """The outputs of a request."""

    outputs: dict[str, np.ndarray]
    """output name to array; strings as object arrays of bytes"""
    batch_sizes: list[int] = field(default_factory=list)
    """for each row of the request, the size of the batch that it was in"""
    seconds: float = 0.0
    """time from when the inputs were checked until the outputs were there"""


class Signature:
    """A signature of a loaded SavedModel.

    Args:
        name: its name in the SavedModel.
        definition: its `SignatureDef`.
        function: the restored `ConcreteFunction`, of keyword tensors to a dictionary of tensors.
        batching: how requests are batched; None to run every request by itself.
        scheduler: name of the batch threads, which all versions of the model share.
        queue: name of its own queue in that scheduler.
    """

    def __init__(
        self,
        name: str,
        definition: Any,
        function: Callable[..., dict[str, tf.Tensor]],
        batching: BatchingOptions | None,
        *,
        scheduler: str,
        queue: str,
    ) -> None:
        self.name = name
        self.inputs = {key: _info(definition.inputs[key]) for key in sorted(definition.inputs)}
        self.outputs = {key: _info(definition.outputs[key]) for key in sorted(definition.outputs)}
        self._dtypes = {key: tf.as_dtype(definition.inputs[key].dtype) for key in self.inputs}
        self.defaults = {k: tf.make_ndarray(v) for k, v in definition.defaults.items()}
        self._function = function
        self._max_rows = batching.max_batch_size if batching else 0
        self._gate: BatchGate | None = None
        # The outputs of a request that was split can be joined only if their width is fixed.
        self._can_split = all(
            None not in (info.shape or (None,))[1:] for info in self.outputs.values()
        )
        if batching is not None and batching.max_batch_size > 1 and self.is_batchable:
            self._gate = BatchGate(batching)
            self._options, self._scheduler, self._queue = batching, scheduler, queue

    @property
    def is_batchable(self) -> bool:
        """Whether every input and output has the batch, of open size, as dimension 0."""
        every = [*self.inputs.values(), *self.outputs.values()]
        return bool(self.inputs) and all(i.shape and i.shape[0] is None for i in every)

    @property
    def is_batched(self) -> bool:
        """Whether concurrent requests run as one batch."""
        return self._gate is not None

    def predict(self, inputs: Mapping[str, np.ndarray]) -> Prediction:
        """Run a request and wait until it is done. May be called from many threads.

        Args:
            inputs: input name to array; strings as object arrays of bytes. Inputs that have
                defaults may be missing.

        Raises:
            ServingError: the inputs do not fit the signature, or the model failed.
        """
        arrays = self._check(inputs)
        start = time.perf_counter()
        prediction = self._run(arrays)
        prediction.seconds = time.perf_counter() - start
        return prediction

    def _run(self, arrays: Mapping[str, np.ndarray]) -> Prediction:
        try:
            tensors = [tf.constant(arrays[k], dtype) for k, dtype in self._dtypes.items()]
            rows = arrays[next(iter(self.inputs))].shape[0] if self._gate is not None else 0
            if self._gate is None or rows == 0:
                return self._alone(tensors)
            if any(array.shape[0] != rows for array in arrays.values()):
                sizes = ", ".join(f"{k}: {a.shape[0]}" for k, a in arrays.items())
                raise invalid_argument(
                    f"Batching input tensors must have equal 0th-dimension size; got {sizes}"
                )
            if rows > self._options.max_request_rows:
                raise invalid_argument(
                    f"a request may have {self._options.max_request_rows} rows "
                    f"(max_enqueued_batches x max_batch_size); received {rows}. Send several "
                    "requests of fewer rows."
                )
            return self._gate.run(
                rows,
                alone=lambda: self._alone_or_split(tensors, rows),
                together=lambda: self._together(tensors),
            )
        except Exception as error:
            raise from_exception(error) from None

    def warm_up_batching(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Run a request through the scheduler, so that the first real batch is not slower."""
        if self.is_batched:
            arrays = self._check(inputs)
            self._together([tf.constant(arrays[k], dtype) for k, dtype in self._dtypes.items()])

    def _alone(self, tensors: Sequence[tf.Tensor]) -> Prediction:
        results = self._function(**dict(zip(self.inputs, tensors, strict=True)))
        outputs = {name: results[name].numpy() for name in self.outputs}
        outputs = {name: np.asarray(value) for name, value in outputs.items()}
        rows = tensors[0].shape[0] if self._gate is not None else 1
        return Prediction(outputs, [rows] * rows)

    def _alone_or_split(self, tensors: Sequence[tf.Tensor], rows: int) -> Prediction:
        if rows > self._max_rows and self._can_split:
            return self._together(tensors)
        return self._alone(tensors)

    def _together(self, tensors: Sequence[tf.Tensor]) -> Prediction:
        try:
            *results, sizes = self._batched(*tensors)
        except tf.errors.OpError as error:
            # The whole batch failed. When each request runs by itself, the good ones are answered
            # and the bad one gets its own message, at the cost of a second run.
            if from_exception(error).code in _BLAME_NO_REQUEST:
                raise
            return self._alone(tensors)
        outputs = {name: r.numpy() for name, r in zip(self.outputs, results, strict=True)}
        return Prediction(outputs, sizes.numpy().tolist())

    @functools.cached_property
    def _batched(self) -> Callable[..., list[tf.Tensor]]:
        def run(*tensors: tf.Tensor) -> list[tf.Tensor]:
            results = self._function(**dict(zip(self.inputs, tensors, strict=True)))
            return [results[name] for name in self.outputs]

        specs = [tf.TensorSpec(i.shape, self._dtypes[k], name=k) for k, i in self.inputs.items()]
        return batched_function(
            run, specs, self._options, scheduler=self._scheduler, queue=self._queue
        )

    def _check(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All inputs, in the signature's order. A wrong request is refused before it is batched."""
        arrays = {**self._defaults_for(inputs), **inputs}
        if set(arrays) != set(self.inputs):
            sent, wanted = set(inputs), set(self.inputs)
            raise invalid_argument(
                f"input size does not match signature: {len(sent)}!={len(wanted)} "
                f"len({{{','.join(sorted(sent))}}}) != len({{{','.join(sorted(wanted))}}}). "
                f"Sent extra: {{{','.join(sorted(sent - wanted))}}}. Missing but required: "
                f"{{{','.join(sorted(wanted - sent - set(self.defaults)))}}}."
            )
        for name, info in self.inputs.items():
            array, wanted_dtype = arrays[name], self._dtypes[name].as_numpy_dtype
            is_string = array.dtype.kind in "OSU"
            if is_string != (info.dtype == "string") or (
                not is_string and array.dtype != wanted_dtype
            ):
                raise invalid_argument(
                    f"input {name} must be of type {info.dtype}; received "
                    f"{'string' if is_string else array.dtype.name}"
                )
            if info.shape is not None and (
                len(info.shape) != array.ndim
                or any(w not in (None, g) for w, g in zip(info.shape, array.shape, strict=True))
            ):
                shape = ",".join("?" if size is None else str(size) for size in info.shape)
                raise invalid_argument(
                    f"input {name} must have shape [{shape}]; received "
                    f"[{','.join(map(str, array.shape))}]"
                )
        return {name: arrays[name] for name in self.inputs}

    def _defaults_for(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Defaults of the inputs that a request leaves out, repeated for each of its rows."""
        rows = max((array.shape[0] for array in inputs.values() if array.ndim), default=1)
        return {
            name: np.repeat(value, rows, 0) if self.is_batchable and len(value) == 1 else value
            for name, value in self.defaults.items()
            if name not in inputs
        }


class Servable:
    """A version of a model in memory.

    Args:
        name: the model's name.
        version: number of the version.
        path: the folder of `saved_model.pb`.
        batching: how requests are batched; None to run every request by itself.
        scheduler: prefix of the names of the batch schedulers, unique to the server.

    Raises:
        ServingError: NOT_FOUND if the folder has no SavedModel; otherwise TensorFlow's error.
    """

    def __init__(
        self,
        name: str,
        version: int,
        path: Path,
        batching: BatchingOptions | None = None,
        *,
        scheduler: str = "tfllm",
    ) -> None:
        self.name = name
        self.version = version
        self.path = path
        self.signature_defs = read_signature_defs(path)
        _import_text_kernels()
        try:
            self._loaded = tf.saved_model.load(os.fspath(path), tags=["serve"])
        except Exception as error:
            raise from_exception(error) from None
        load = next(_LOADS)
        self.signatures = {
            key: Signature(
                key,
                self.signature_defs[key],
                function,
                batching,
                scheduler=f"{scheduler}/{name}/{key}",
                queue=f"{version}.{load}",
            )
            for key, function in self._loaded.signatures.items()
            if key in self.signature_defs
        }

    def signature(self, name: str) -> Signature:
        """A signature by name; "" is the default signature.

        Raises:
            ServingError: FAILED_PRECONDITION if it does not exist, as in TensorFlow Serving's gRPC.
        """
        name = name or DEFAULT_SIGNATURE
        if name not in self.signatures:
            raise ServingError("FAILED_PRECONDITION", f'Serving signature key "{name}" not found.')
        return self.signatures[name]

    @property
    def can_stream(self) -> bool:
        """Whether the SavedModel has `stream_begin` and `stream_next`."""
        return callable(getattr(self._loaded, "stream_begin", None)) and callable(
            getattr(self._loaded, "stream_next", None)
        )

    @functools.cached_property
    def chat_template(self) -> str | None:
        """The chat template that was exported with the model, for `ChatTemplate.from_json`."""
        return exported_template(self.path)

    def stream_begin(
        self, inputs: Mapping[str, np.ndarray], *, chat: bool = False
    ) -> dict[str, tf.Tensor]:
        """The first state of a stream.

        Args:
            inputs: input name to array of shape [1].
            chat: whether the prompt is a conversation, in the form of the signature `chat_prompt`.
        """
        begin = self._loaded.chat_stream_begin if chat else self._loaded.stream_begin
        return self._stream(lambda: begin(**{k: tf.constant(v) for k, v in inputs.items()}))

    def stream_next(self, state: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The state after the next token."""
        return self._stream(lambda: self._loaded.stream_next(state))

    def _stream(self, call: Callable[[], dict[str, tf.Tensor]]) -> dict[str, tf.Tensor]:
        try:
            return call()
        except Exception as error:
            raise from_exception(error) from None


_LOADS = itertools.count(1)


def read_signature_defs(path: Path) -> dict[str, Any]:
    """The `SignatureDef`s of the SavedModel in `path` with the tag "serve", by name.

    Raises:
        ServingError: NOT_FOUND if there is no SavedModel with that tag; DATA_LOSS if it is damaged.
    """
    from google.protobuf import text_format
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    try:
        if (path / "saved_model.pb").is_file():
            saved.ParseFromString((path / "saved_model.pb").read_bytes())
        elif (path / "saved_model.pbtxt").is_file():
            text_format.Parse((path / "saved_model.pbtxt").read_bytes(), saved)
        else:
            raise ServingError(
                "NOT_FOUND",
                "Could not find SavedModel .pb or .pbtxt at supplied export directory path: "
                f"{path}",
            )
    except (DecodeError, text_format.ParseError) as error:
        raise ServingError("DATA_LOSS", f"{path} holds a broken saved_model.pb: {error}") from None
    except OSError as error:
        raise ServingError(
            "UNAVAILABLE", f"cannot read the SavedModel in {path}: {error}"
        ) from None
    for graph in saved.meta_graphs:
        if list(graph.meta_info_def.tags) == ["serve"]:
            return dict(graph.signature_def)
    raise ServingError("NOT_FOUND", f"the SavedModel in {path} has no graph with the tag 'serve'")


def _info(tensor_info: Any) -> TensorInfo:
    shape = tf.TensorShape(tensor_info.tensor_shape)
    dtype = tf.as_dtype(tensor_info.dtype).name
    dtype = {"float32": "float", "float64": "double", "float16": "half"}.get(dtype, dtype)
    return TensorInfo(dtype, None if shape.rank is None else tuple(shape.as_list()))


@functools.cache
def _import_text_kernels() -> None:
    """Register TF-Text's ops, which are linked into TensorFlow Serving."""
    import tensorflow_text  # noqa: F401
