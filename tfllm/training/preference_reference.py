"""Log-probabilities of the replies under the model before preference tuning, kept in the run."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from tfllm.data import PreferenceData, rows_dataset
from tfllm.models.preference_tuning import PreferenceTuning
from tfllm.training.checkpoints.checkpoint_files import (
    CheckpointError,
    read_progress,
    read_state,
    remove,
    sync_folder,
    write_checkpoint,
)

_SPLITS = ("train", "validation")


def read_reference(data: PreferenceData, folder: Path, of: dict[str, Any]) -> PreferenceData:
    """Attach the log-probabilities that `write_reference` wrote to the data.

    Args:
        data: preferences.
        folder: folder of the reference.
        of: description of what the reference must have been computed from.

    Raises:
        CheckpointError: a file is damaged or missing, or was computed from something else.
    """
    state = read_state(folder)
    said = read_progress(folder)[0]
    if said != of:
        raise CheckpointError(
            f"{folder} was not computed from the run's own data, base and sequence length; start a "
            "new run"
        )
    return data.with_reference(state["train"], state.get("validation"))


def write_reference(
    data: PreferenceData,
    model: PreferenceTuning,
    folder: Path,
    *,
    of: dict[str, Any],
    batch_size: int,
    untuned: bool,
    show_progress: bool,
) -> None:
    """Compute the log-probabilities of all replies once, unless they exist already.

    They are those of the model without its adapter, if it has one, or before its first update.

    Args:
        data: preferences.
        model: the model to tune.
        folder: folder to write; it appears complete or not at all, with checksums.
        of: description of what the reference is computed from, which JSON can hold.
        batch_size: number of pairs in a batch.
        untuned: whether the model has not been updated yet.
        show_progress: whether to print a message at the start.

    Raises:
        CheckpointError: the log-probabilities are lost, and the model has been changed since.
        OSError: the disk is full or cannot be written to.
    """
    try:
        read_reference(data, folder, of)
        return
    except CheckpointError as error:
        causal_lm = model.model
        if not untuned and causal_lm.adapter is None:
            raise CheckpointError(
                f"{error}; it cannot be recomputed, since the model was tuned already; start a new "
                "run"
            ) from error
        if folder.exists():
            warnings.warn(f"{error}; it is recomputed", stacklevel=2)
    if show_progress:
        print("computing the reference log-probabilities of the replies", file=sys.stderr)
    adapter = causal_lm.adapter
    causal_lm.set_adapter(None)
    try:
        state = {
            name: _log_probs(data, name, model, of["sequence_length"], batch_size)
            for name in _SPLITS
            if data.split(name).num_documents
        }
    finally:
        causal_lm.set_adapter(adapter)
    temporary = folder.with_name(f".{folder.name}")
    remove(temporary)
    temporary.mkdir()
    write_checkpoint(temporary, state, of)
    remove(folder)
    temporary.rename(folder)
    sync_folder(folder.parent)


def _log_probs(
    data: PreferenceData, name: Any, model: PreferenceTuning, length: int, batch_size: int
) -> np.ndarray:
    pairs = rows_dataset(
        data, name, sequence_length=length, batch_size=batch_size, shuffle=False, repeat=False
    )
    return model.reference_log_probs(pairs, data.split(name).num_documents)
