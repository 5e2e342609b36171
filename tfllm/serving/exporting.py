"""Write a model as a SavedModel that TensorFlow Serving answers with, text in, text out."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfllm.generation.options import option_values
from tfllm.serving.warmup_requests import write_warmup_requests
from tfllm.tasks.text_generation import OPTION_DTYPES, TextGeneration

_WARMUP_PROMPTS = ("The", "")


def export(
    task: TextGeneration,
    base: str | Path,
    *,
    version: int | None = None,
    dtype: str | None = None,
    warmup_prompts: tuple[str, ...] = _WARMUP_PROMPTS,
) -> Path:
    """Write the next version of a served model: `base/<version>/`.

    The version is written beside and renamed into place, so a server that polls the folder never
    sees half of it.

    Signatures, with the batch first in every input and output:
        serving_default: `prompt` string [B] to `text` string [B] (the continuation), with
            `prompt_tokens`, `generated_tokens` int32 [B], `finish_reason` string [B] ("stop",
            "length" or "error") and `error` string [B] (what is wrong with this row, or "").
        generate: the same with all options as [B] tensors.
        score: `text` string [B] to `num_tokens` int32 [B], `log_prob`, `perplexity` float32 [B],
            `token_ids` int32 [B, T] (padded with -1), `token_log_probs` float32 [B, T], `error`.

    Args:
        task: the model and its tokenizer; its generation settings are those of serving_default.
        base: the model's folder, such as `saved_models/NAME`.
        version: the version; default: one above the highest that is there, or 1.
        dtype: of the weights and products, "float32" or "bfloat16"; default: the task's. bfloat16
            halves the file and is faster where the serving processor multiplies it (AVX512_BF16,
            AMX, accelerators), and far slower elsewhere.
        warmup_prompts: what a server runs the model with before it takes requests; none: no
            warm-up.

    Returns:
        the version's folder.

    Raises:
        FileExistsError: the version is there already.
        ValueError: the version or the dtype is not one.
        OSError: the disk is full, or the folder cannot be written. No version is changed, and
            nothing is left of the new one.
    """
    base = Path(base)
    if dtype is not None:
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype must be float32 or bfloat16; received {dtype!r}")
        if dtype != task.model.compute_dtype or dtype != task.model.variable_dtype:
            model = task.model.with_dtype(dtype)
            task = TextGeneration(model, task.tokenizer, task.generation)
    version = _version(base, version)
    folder, beside = base / str(version), base / f".writing-{version}-{os.getpid()}"
    made = not base.exists()
    base.mkdir(parents=True, exist_ok=True)
    try:
        tf.saved_model.save(_Served(task), str(beside), signatures=task.signatures)
        if warmup_prompts:
            extra = beside / "assets.extra"
            extra.mkdir()
            write_warmup_requests(
                extra / "tf_serving_warmup_requests",
                _warmup_requests(base.name, task, warmup_prompts),
            )
        if folder.exists():  # a second export at the same time
            raise FileExistsError(_exists(folder))
        beside.rename(folder)
    except FileExistsError:
        raise
    except (OSError, tf.errors.OpError) as error:
        raise OSError(f"the export to {folder} failed, nothing was changed: {error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        if made and not any(base.iterdir()):
            base.rmdir()
    return folder


class _Served(tf.Module):
    """What goes into the SavedModel: functions and the variables they read, no Keras objects."""

    def __init__(self, task: TextGeneration) -> None:
        super().__init__(name="served")
        self.weights = [weight.value for weight in task.model.weights]
        self.tokenizer = task.tokenizer.graph()
        self.token_bytes = task.token_bytes
        # Not signatures, because Serving has no streaming call: for servers that load the object.
        self.stream_begin = task.stream_begin
        self.stream_next = task.stream_next


def _version(base: Path, version: int | None) -> int:
    if base.exists() and not base.is_dir():
        raise NotADirectoryError(f"{base} must be the model's folder, and it is a file")
    names = [path.name for path in base.iterdir()] if base.is_dir() else []
    there = [int(name) for name in names if name.isascii() and name.isdigit()]
    if version is None:
        return max(there, default=0) + 1
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f"version must be a whole number, at least 1; received {version!r}")
    if version in there:
        raise FileExistsError(_exists(base / str(version)))
    return version


def _exists(folder: Path) -> str:
    return (
        f"{folder} exists; a version is never overwritten, because a server may be reading it. "
        "Leave the version out to write the next one."
    )


def _warmup_requests(
    name: str, task: TextGeneration, prompts: tuple[str, ...]
) -> list[tuple[str, str, dict[str, Any]]]:
    """Of each signature: model name, signature name, inputs."""
    texts = tf.constant(prompts)
    short = {**option_values(task.generation), "max_new_tokens": 2}
    options = {
        n: tf.fill([len(prompts)], tf.constant(short[n], t)) for n, t in OPTION_DTYPES.items()
    }
    return [
        (name, "generate", {"prompt": texts, **options}),
        (name, "score", {"text": texts}),
        (name, "serving_default", {"prompt": texts[:1]}),
    ]
