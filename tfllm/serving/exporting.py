"""Export a model as a SavedModel that TensorFlow Serving runs: text in, text out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tfllm.generation.option_inputs import function_of_inputs
from tfllm.optimization.precision import with_kernels
from tfllm.pretrained.keras_hub.models import is_keras_hub_model
from tfllm.serving.footprint import write_footprint
from tfllm.serving.measuring import measure_footprint
from tfllm.serving.protocol.model_config import MAX_VERSION
from tfllm.serving.protocol.warmup_requests import write_warmup_requests
from tfllm.tasks.language_model.special import as_special
from tfllm.tasks.text_model import TextModel

_DTYPES = ("float32", "bfloat16", "int8")


def export(
    task: TextModel | Any,
    base: str | Path,
    *,
    version: int | None = None,
    dtype: str | None = None,
    int8_kernels: str = "auto",
    warmup_prompts: tuple[str, ...] | None = None,
    measure: bool = False,
) -> Path:
    """Write the next version of a served model: `base/<version>/`.

    The version is written to a temporary folder and renamed, so a server that polls the folder
    never sees an incomplete version.

    Its signatures are the task's, with the batch as the first dimension of every input and output.
    Those of a language model are:
        serving_default: `prompt` string [B] to `text` string [B] (the continuation), with
            `prompt_tokens`, `generated_tokens` int32 [B], `finish_reason` string [B] ("stop",
            "length" or "error") and `error` string [B] (what is wrong with this row, or "").
        generate: the same, with all options as [B] tensors. Its defaults, each [1], are the task's
            settings: clients read them from the metadata, and TensorFlow Serving's gRPC uses them
            in a request of one row.
        chat_prompt, chat: for a model with a chat template; as generate, with a conversation
            instead of the prompt (see `tfllm.tasks.Chat`).
        score: `text` string [B] to `num_tokens` int32 [B], `log_prob`, `perplexity` float32 [B],
            `token_ids_json` and `token_log_probs_json` string [B] (JSON lists), `error`.

    No output has a width that depends on the rows, so that a server may split a request or join
    several without changing the answer to any row.

    Args:
        task: what `tfllm.load` returns; serving_default has the generation settings of a
            `TextGeneration`. Or a `CausalLM` of KerasHub with its preprocessor.
        base: the model's folder, such as `saved_models/NAME`.
        version: the version number. Defaults to one more than the highest in the folder, or 1.
        dtype: dtype of the weights and products: "float32", "bfloat16" or "int8". Defaults to the
            task's. bfloat16 halves the file and is faster if the serving processor multiplies it
            (AVX512_BF16, AMX, accelerators), and far slower otherwise. int8 quarters the file and
            the memory: matrices are stored as integers and used in bfloat16 if that is faster on
            this machine, else in float32.
        int8_kernels: how an int8 model decodes tokens. "onednn": integers are multiplied as they
            are, which is several times as fast, on x86 servers whose TensorFlow is built with
            oneDNN, as releases are; other servers cannot run the model. "portable": as floats, on
            any server. "auto": "onednn" if this machine can run it. Defaults to "auto".
        warmup_prompts: texts that a server runs the model with before it accepts requests; no
            warm-up if empty. Defaults to the task's.
        measure: whether to run the version in a process of its own, as a server does, and store its
            peak memory and the time until it was ready, for `write_deployment_files`.

    Returns:
        The version's folder.

    Raises:
        FileExistsError: the version exists already.
        ValueError: the version or the dtype is not a valid one.
        OSError: the disk is full, or the folder cannot be written. No other version is changed, and
            the new one is removed.
        RuntimeError: the version could not be run to measure it; it is removed.
    """
    base = Path(base)
    if is_keras_hub_model(task):
        from tfllm.tasks.language_model.text_generation import TextGeneration

        task = TextGeneration.of_keras_hub(task)
    if dtype is None and int8_kernels != "auto":
        raise ValueError(
            f"int8_kernels is for dtype='int8'; received int8_kernels={int8_kernels!r}, dtype=None"
        )
    if dtype is not None:
        if dtype not in _DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}; received {dtype!r}")
        task = task.with_dtype(with_kernels(dtype, int8_kernels))
    task.check_exportable()
    task = as_special(task)
    texts = task.warmup_texts if warmup_prompts is None else warmup_prompts
    version = _version(base, version)
    folder, beside = base / str(version), base / f".writing-{version}-{os.getpid()}"
    made = not base.exists()
    base.mkdir(parents=True, exist_ok=True)
    try:
        # The traces of the first calls, because a save would trace each `tf.function` again.
        traced = {
            name: function.get_concrete_function() for name, function in task.signatures.items()
        }
        _check_widths(traced)
        signatures = {name: _with_defaults(task, name, traced[name]) for name in traced}
        tf.saved_model.save(_Served(task), str(beside), signatures=signatures)
        _set_methods(beside / "saved_model.pb", task.method_names)
        extra = beside / "assets.extra"
        if files := task.extra_files():
            extra.mkdir()
            for name, content in files.items():
                (extra / name).write_text(content, encoding="utf-8")
        if texts:
            extra.mkdir(exist_ok=True)
            write_warmup_requests(
                extra / "tf_serving_warmup_requests",
                [(base.name, *request) for request in task.warmup_requests(texts)],
            )
        if measure:
            write_footprint(beside, measure_footprint(beside))
        if folder.exists():  # written by another export at the same time
            raise FileExistsError(_exists(folder))
        beside.rename(folder)
    except FileExistsError:
        raise
    except (OSError, tf.errors.OpError) as error:
        raise OSError(f"the export to {folder} failed, and nothing was changed: {error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        if made and not any(base.iterdir()):
            base.rmdir()
    return folder


class _Served(tf.Module):
    """The content of the SavedModel: functions and the variables they read, no Keras objects."""

    def __init__(self, task: TextModel) -> None:
        super().__init__(name="served")
        for name, part in task.served_state.items():
            if isinstance(part, list | tuple):  # of a Keras variable, the TensorFlow one is saved
                part = [v.value if isinstance(v, keras.Variable) else v for v in part]
            if hasattr(part, "get_concrete_function"):
                part = part.get_concrete_function()  # see `export`
            setattr(self, name, part)


def _check_widths(signatures: Mapping[str, Any]) -> None:
    """Refuse outputs of open width, for the reason in `tfllm.serving.saved_model.output_widths`."""
    for name, concrete in signatures.items():
        for key, output in concrete.structured_outputs.items():
            if output.shape.rank is None or None in output.shape.as_list()[1:]:
                raise ValueError(
                    "the outputs of a served signature must have a fixed width beyond the batch, "
                    f"or TensorFlow Serving may join rows wrongly; {key!r} of {name} has the shape "
                    f"{output.shape}. Return a JSON string for each row (tfllm/tasks/json_rows.py) "
                    "or pad to a fixed width and return the count."
                )


def _with_defaults(task: TextModel, name: str, traced: Any) -> Any:
    """A signature whose options have the task's settings as defaults."""
    defaults = task.input_defaults(name)
    if not defaults:
        return traced
    specs, _ = traced.structured_input_signature
    return function_of_inputs(traced, specs, defaults)


def _set_methods(path: Path, methods: Mapping[str, str]) -> None:
    """Set the methods of signatures in a saved_model.pb, because TensorFlow saves only Predict.

    Args:
        path: the file.
        methods: signature name to method.
    """
    if not methods:
        return
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for graph in saved.meta_graphs:
        for name, method in methods.items():
            graph.signature_def[name].method_name = method
    path.write_bytes(saved.SerializeToString(deterministic=True))


def _version(base: Path, version: int | None) -> int:
    if base.exists() and not base.is_dir():
        raise NotADirectoryError(f"{base} must be the model's folder, and it is a file")
    names = [path.name for path in base.iterdir()] if base.is_dir() else []
    digits = (int(name) for name in names if name.isascii() and name.isdigit())
    there = [number for number in digits if number <= MAX_VERSION]
    if version is None:
        version = max(there, default=0) + 1
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= MAX_VERSION:
        raise ValueError(
            f"version must be a whole number from 1 to {MAX_VERSION}, the largest that TensorFlow "
            f"Serving reads; received {version!r}"
        )
    if version in there:
        raise FileExistsError(_exists(base / str(version)))
    return version


def _exists(folder: Path) -> str:
    return (
        f"{folder} exists; a version is never overwritten, because a server may be reading it. "
        "Leave the version out to write the next one."
    )
