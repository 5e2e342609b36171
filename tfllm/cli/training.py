"""The commands `train` and `launch`."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfllm.cli.arguments import AddCommand, add_columns, add_fields, add_settings
from tfllm.cli.settings import FLAG, settings
from tfllm.cli.terminal import quiet_start, table
from tfllm.config import (
    ConfigError,
    ModelConfig,
    PrepareConfig,
    TrainingConfig,
    build,
    field_types,
    read_value,
)

if TYPE_CHECKING:  # it imports TensorFlow
    from tfllm.training import TrainedRun


def add_commands(add: AddCommand) -> None:
    """Add the commands of this module."""
    train = add(
        "train",
        "Train a new model, or fine-tune a pretrained one",
        _train,
        "tfllm train --data my_texts/ --out runs/mine --size llama-15m --epochs 3",
    )
    train.add_argument(
        "positional_assignments",
        metavar="KEY=VALUE",
        nargs="*",
        default=[],
        help="any setting by name, such as learning_rate=3e-4 (same as --set)",
    )
    train.add_argument(
        "--data",
        metavar="PATH",
        required=True,
        help="prepared data (of `tfllm prepare`), or files of text, JSON Lines, CSV, TSV or "
        "Parquet; for a task also one file per column (text=A,translation=B)",
    )
    train.add_argument(
        "--task",
        metavar="TASK",
        help="what to learn, such as classification; default: by the data: language_modeling for "
        "text, instruction for conversations, preference for preferences",
    )
    add_columns(train)
    train.add_argument("--out", metavar="DIR", required=True, help="folder of the run")
    train.add_argument(
        "--size",
        metavar="NAME",
        dest=f"{FLAG}model.size",
        help="size of a new model, such as llama-15m; see `tfllm sizes`",
    )
    # Its old name.
    train.add_argument("--preset", dest=f"{FLAG}model.preset", help=argparse.SUPPRESS)
    train.add_argument(
        "--model",
        metavar="MODEL",
        help="pretrained model to fine-tune: a model folder, a run, a .gguf file, or hf://ORG/NAME",
    )
    train.add_argument(
        "--strategy",
        choices=["auto", "one", "mirrored", "multiworker", "tpu"],
        default="auto",
        help="tf.distribute strategy: one device, all devices of this host (mirrored), the workers "
        "of a cluster (multiworker), or a TPU; auto chooses by what is available",
    )
    train.add_argument(
        "--replicas",
        type=int,
        metavar="N",
        help="number of devices to use; without GPUs, logical CPU devices",
    )
    train.add_argument(
        "--resume",
        action="store_true",
        help="require an existing run and continue it with its own settings; without this flag, "
        "repeating a command continues its run or starts it",
    )
    add_settings(train, "training", "model")
    add_fields(
        train.add_argument_group("data that is not prepared yet"),
        "prepare",
        (
            "validation_fraction",
            "validation",
            "text_field",
            "ignore_keys",
            "encoding",
            "skip_bad_records",
        ),
    )
    train.lead_with(
        *("--data", "--out", "--task", "--model", "--size", "--steps", "--epochs"),
        *("--batch-size", "--learning-rate", "--sequence-length", "--lora-rank", "--precision"),
        *("--strategy", "--resume"),
    )

    launch = add(
        "launch",
        "Train with several worker processes on this host",
        _launch,
        "tfllm launch --workers 2 -- train --data data --out runs/mine --size llama-15m",
    )
    launch.usage = (
        "tfllm launch [-h] [--workers N] [--restarts N] [--logs DIR] [--no-pin] "
        "-- train --data PATH --out DIR ..."
    )
    launch.add_argument(
        "--workers", type=int, default=2, metavar="N", help="number of worker processes"
    )
    launch.add_argument(
        "--restarts",
        type=int,
        default=0,
        metavar="N",
        help="how many times to restart all workers from the last checkpoint after one has died",
    )
    launch.add_argument(
        "--logs",
        metavar="DIR",
        help="folder of the workers' logs; default: logs in the run's folder",
    )
    launch.add_argument(
        "--no-pin", action="store_true", help="do not divide CPU cores and GPUs among the workers"
    )


def _train(options: argparse.Namespace) -> int:
    found = settings(options, "training", "model", "prepare")
    size = found["model"].pop("size", None)
    build(TrainingConfig, found["training"])  # before TensorFlow's slow import
    model: Any = getattr(options, "model", None)
    if model is not None and (size or found["model"]):
        named = size or ", ".join(found["model"])
        raise ConfigError(
            f"a pretrained model has its own architecture: leave out {named} or --model {model}"
        )
    is_prepared = (Path(options.data) / "manifest.json").is_file()
    if not is_prepared and "vocab_size" in found["model"]:  # a tokenizer is trained, of that size
        found["prepare"]["vocab_size"] = found["model"].pop("vocab_size")
    if model is None and (size or found["model"]):
        fields = field_types(ModelConfig)
        model = {n: read_value(n, v, fields[n]) for n, v in found["model"].items()}
        model["size"] = size
    prepare = build(PrepareConfig, found["prepare"])
    with quiet_start():
        from tfllm.training import train
    types = field_types(TrainingConfig)
    chosen = {n: read_value(n, v, types[n]) for n, v in found["training"].items()}
    run = train(
        options.data,
        options.out,
        model,
        task=getattr(options, "task", None),
        prepare=prepare,
        strategy=getattr(options, "strategy", "auto"),
        replicas=getattr(options, "replicas", None),
        resume=getattr(options, "resume", False),
        **chosen,
    )
    if run.interrupted_by:
        if run.is_chief:
            print(
                f"stopped by {run.interrupted_by} after step {run.step}, which is saved; the same "
                f"command continues from there, and so does: tfllm train --data {options.data} "
                f"--out {options.out} --resume"
            )
        return 128 + signal.Signals[run.interrupted_by]
    if not run.is_chief:
        return 0
    _print_results(run)
    return 0


def _print_results(run: TrainedRun) -> None:
    from tfllm.charts.number_format import (
        duration,
        memory_size,
        percentage,
        perplexity,
        quantity,
    )
    from tfllm.charts.run_figures import figures_of

    found = figures_of(run.folder)  # the figures that `tfllm report` shows
    replicas = run.batch.replicas
    rows = {
        "parameters": f"{run.num_parameters:,}"
        + (
            f", {run.num_trained:,} of them trained" if run.num_trained < run.num_parameters else ""
        ),
        "steps": f"{run.step:,}" + (" (ended early)" if run.stopped_early else ""),
        "precision": run.precision,
    }
    if found.tokens_per_second is not None:
        rows["tokens/s"] = quantity(found.tokens_per_second) + (
            f" ({quantity(found.tokens_per_second / replicas)} per replica)" if replicas > 1 else ""
        )
    if found.flops_utilization is not None:
        rows["FLOPs utilisation"] = f"{percentage(found.flops_utilization)} of the matmul peak"
    if found.seconds is not None:
        rows["time"] = duration(found.seconds)
        rows["of which"] = ", ".join(f"{k} {percentage(s)}" for k, s in found.time_shares.items())
    if found.peak_memory is not None:
        rows["peak memory"] = memory_size(found.peak_memory)
    if run.batch.workers > 1 or replicas > 1:
        rows["replicas"] = f"{replicas} on {run.batch.workers} workers"
    if run.skipped_steps:
        rows["skipped updates"] = f"{run.skipped_steps} (float16 gradients that were not finite)"
    if found.validation_loss is not None:
        rows["best validation loss"] = f"{found.validation_loss:.4f}"
    if found.validation_perplexity is not None:
        rows["best validation perplexity"] = perplexity(found.validation_perplexity)
    for name, value in run.validation_metrics.items():
        rows[f"last validation's {name}"] = f"{value:.3f}"
    for metric in run.task_metrics:
        rows[metric.name] = f"{metric.format()} on {metric.num_examples:,} validation records"
    if run.adapter_folder is not None:
        rows["adapter"] = str(run.adapter_folder)
    rows["model"] = str(run.model_folder)
    print(table(rows))
    for warning in dict.fromkeys(m.warning for m in run.task_metrics if m.warning):
        print(f"note: {warning}")


def _launch(options: argparse.Namespace) -> int:
    train = options.worker_options
    build(TrainingConfig, settings(train, "training", "model", "prepare")["training"])
    strategy = getattr(train, "strategy", "auto")
    if strategy not in ("auto", "multiworker"):
        raise ConfigError(
            f"the workers of launch use the strategy multiworker; received {strategy!r}; leave "
            "--strategy out, or train without launch"
        )
    from tfllm.distribution.launching import launch, logs_of

    return launch(
        [sys.executable, "-m", "tfllm.cli", *options.worker_command],
        num_workers=options.workers,
        logs=getattr(options, "logs", None) or logs_of(train.out),
        restarts=options.restarts,
        pin=not getattr(options, "no_pin", False),
    )
