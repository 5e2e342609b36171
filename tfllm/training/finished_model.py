"""Write the results of a finished run: the model, its adapter if any, and a summary."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfllm.data import PreparedData
from tfllm.pretrained import Pretrained
from tfllm.pretrained.adapters import load_merged, save_adapter
from tfllm.tasks.task import Task
from tfllm.training.pretrained_base import base_path
from tfllm.training.run_folder import RunFolder
from tfllm.training.run_settings import RunSettings
from tfllm.training.trained_run import TrainedRun


def write_finished(
    run: TrainedRun,
    task: Task,
    folder: RunFolder,
    data: PreparedData,
    base: Pretrained | None,
    settings: RunSettings,
    *,
    num_tokens: int,
) -> None:
    """Write the finished model, with its adapter merged, and the run's result; on the chief.

    Args:
        run: the finished run.
        task: task of the run.
        folder: folder of the run.
        data: training data of the run.
        base: pretrained model that the run began with, as returned by `Task.fitted`.
        settings: settings of the run.
        num_tokens: number of tokens seen in training.

    Raises:
        OSError: the disk is full or cannot be written to.
    """
    summary: dict[str, Any] = {
        "sequence_length": settings.training.sequence_length,
        "steps": run.step,
        "tokens": num_tokens,
        "validation_loss": run.validation_loss,
        "validation_perplexity": run.validation_perplexity,
        "tokens_per_second": run.tokens_per_second,
        "flops_utilization": run.flops_utilization,
        "workers": run.batch.workers,
        "replicas": run.batch.replicas,
        "skipped_steps": run.skipped_steps,
        "stopped_early": run.stopped_early,
    }
    if run.task_metrics:
        summary["metrics"] = [dataclasses.asdict(metric) for metric in run.task_metrics]
    model = run.model
    if run.adapter_folder is not None:
        assert settings.base is not None
        # Merge into the base as stored, since the base in training may have been rounded.
        save_adapter(model, run.adapter_folder, base=base_path(settings.base))
        model = load_merged(settings.base, run.adapter_folder).model
    task.save(model, folder.model, data, base, summary)
    folder.write({**folder.read(), "result": summary})
