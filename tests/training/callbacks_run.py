"""Run in a separate process: a worker of a run with callbacks, whose events go to a file."""

import json
import sys
from pathlib import Path

import keras

from tests.training.conftest import SETTINGS
from tfllm.config import ModelConfig
from tfllm.distribution.cluster import detect_cluster
from tfllm.training import train

MODEL = {"vocab_size": 300, "embedding_dim": 16, "num_layers": 1, "num_heads": 2}


class Recorder(keras.callbacks.Callback):
    """Writes down how it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list = []

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.calls.append("begin")

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        assert logs is not None
        self.calls.append([batch, logs["loss"]])

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.calls.append({"epoch": epoch, **(logs or {})})

    def on_train_end(self, logs: dict | None = None) -> None:
        self.calls.append("end")


def main(data: str, out: Path) -> None:
    cluster = detect_cluster()
    me = cluster.index if cluster else 0
    recorder = Recorder()
    # No loss falls by so much.
    early = keras.callbacks.EarlyStopping("val_loss", min_delta=100.0, patience=0)
    settings = {**SETTINGS, "steps": 16, "schedule": "constant", "memory_check": "off"}
    run = train(data, out / "run", ModelConfig(**MODEL), callbacks=[recorder, early], **settings)
    found = {
        "calls": recorder.calls,
        "history": run.history,
        "step": run.step,
        "stopped_early": run.stopped_early,
    }
    (out / f"{me}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
