"""A run that several tests share, small enough to be traced in seconds."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.data.documents import make_documents
from tfllm.config import ModelConfig, PrepareConfig
from tfllm.data import PreparedData
from tfllm.tasks import prepare

LOSSES = {4: 3.0, 8: 1.0, 12: 2.0}
"""what validation is made to find at each step: the best is not the last"""

SETTINGS: dict[str, Any] = {
    "sequence_length": 16,
    "batch_size": 4,
    "gradient_accumulation": 2,
    "steps": 12,
    "learning_rate": 1e-2,
    "precision": "float32",
    "validate_every": 4,
    "checkpoint_every": 5,
    "keep_checkpoints": 2,
}


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> PreparedData:
    """Ten documents; an epoch of it is less than twelve steps."""
    folder = tmp_path_factory.mktemp("text")
    for i, text in enumerate(make_documents(10, longest=40)):
        (folder / f"{i}.txt").write_text(text, encoding="utf-8")
    config = PrepareConfig(vocab_size=300, validation_fraction=0.2, num_processes=1)
    return prepare(folder, folder / "out", config, show_progress=False)


@pytest.fixture(scope="session")
def model_config(data) -> ModelConfig:
    return ModelConfig(
        vocab_size=data.vocab_size,
        embedding_dim=16,
        num_layers=1,
        num_heads=2,
        feed_forward_dim=32,
        max_sequence_length=32,
        dropout=0.1,
    )


@pytest.fixture(scope="session", autouse=True)
def given_peak():
    """The machine's speed is not measured in each run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfllm.training.worker_run.matmul_peak", lambda dtype: 1e9)
        yield


@pytest.fixture(scope="session")
def start(data, model_config):
    """Starts a run with the shared settings, unless others are given."""
    from tfllm.training import train

    def start(run: Path, *, given_losses: bool = True, stop_at: int = 0, **options: Any):
        from tfllm.training.callbacks import RunCallback
        from tfllm.training.worker_run import WorkerRun

        with pytest.MonkeyPatch.context() as patch:
            if given_losses:
                patch.setattr(
                    WorkerRun,
                    "_validation",
                    lambda self, model: lambda: {"loss": LOSSES[int(model.optimizer.iterations)]},
                )
            if stop_at:
                begin = RunCallback.on_train_batch_begin

                def stop(self: RunCallback, batch: int, logs: Any = None) -> None:
                    if self.progress.step + 1 == stop_at:
                        os.kill(os.getpid(), signal.SIGTERM)
                    begin(self, batch, logs)

                patch.setattr(RunCallback, "on_train_batch_begin", stop)
            resume = options.pop("resume", False)
            given = {} if resume else {"model": model_config, **SETTINGS, **options}
            return train(data, run, resume=resume, verbose=False, **{**given, **options})

    return start


@pytest.fixture(scope="session")
def whole_run(start, tmp_path_factory):
    """Twelve steps in one go."""
    return start(tmp_path_factory.mktemp("runs") / "whole")
