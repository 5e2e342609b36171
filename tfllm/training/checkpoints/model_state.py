"""The state of a model and its optimizer as named arrays on the host, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

from tfllm.training.checkpoints.checkpoints import CheckpointError


class _Part(NamedTuple):
    """One array of the state."""

    shape: tuple[int, ...]
    dtype: str | None
    """None: not checked"""
    read: Callable[[], np.ndarray]
    write: Callable[[Any], None]


def state_of(model: keras.Model, optimizer: bool = True) -> dict[str, np.ndarray]:
    """Copies of a model's trainable weights and of its optimizer's state.

    Training may continue while the copies are written. The names and shapes do not depend on the
    number of replicas, nor on whether the optimizer's state is sharded over them. The seeds of
    dropout are functions of the step and therefore left out.

    With several workers that shard the optimizer's state, all of them must call this.

    Args:
        model: the model, built, and compiled with an optimizer that is built.
        optimizer: whether to include the state of the optimizer.

    Returns:
        Arrays by name; the names begin with "model/" or "optimizer/".
    """
    return {name: part.read() for name, part in _parts(model, optimizer).items()}


def restore_state(
    model: keras.Model, state: dict[str, np.ndarray], *, where: str, optimizer: bool = True
) -> None:
    """Assign a state from `state_of` to a model and its optimizer, on every replica.

    Nothing is changed unless the whole state fits.

    Args:
        model: the model, built, and compiled with an optimizer that is built.
        state: state of the same model, on any number of replicas.
        where: source of the state, for the error.
        optimizer: whether to restore the state of the optimizer.

    Raises:
        CheckpointError: the variables of the model have other names, shapes or dtypes.
    """
    parts = _parts(model, optimizer)
    wanted = {name for name in state if optimizer or not name.startswith("optimizer/")}
    for names, this, that in (
        (parts.keys() - wanted, "lacks", "has"),
        (wanted - parts.keys(), "has", "lacks"),
    ):
        if names:
            raise CheckpointError(
                f"{where} {this} {len(names)} variables that the model or its optimizer {that}, "
                f"such as {min(names)!r}; give the settings of the run that wrote it, or train in "
                "another folder"
            )
    for name, part in parts.items():
        shape, dtype = state[name].shape, state[name].dtype.name
        if shape != part.shape or part.dtype not in (None, dtype):
            raise CheckpointError(
                f"{where}: {name} must be {part.dtype or dtype} {list(part.shape)} as in the "
                f"model; received {dtype} {list(shape)}; give the settings of the run that wrote "
                "it, or train in another folder"
            )
    for name, part in parts.items():
        part.write(state[name])


def _parts(model: keras.Model, optimizer: bool) -> dict[str, _Part]:
    """The arrays of the state by name."""
    local = model.distribute_strategy.experimental_local_results

    def part(variable: Any) -> _Part:
        return _Part(
            tuple(variable.shape),
            keras.backend.standardize_dtype(variable.dtype),
            lambda: np.asarray(local(variable.value)[0].numpy()),  # which copies
            variable.assign,
        )

    def name(variable: Any) -> str:
        # Without the model's own name, in which Keras counts the models of a process.
        path = variable.path.removeprefix(f"{model.name}/")
        return path.replace(f"{model.name}_", "")

    # Frozen weights are not saved: they are those of the pretrained model.
    weights = [v for v in model.trainable_weights if "seed_generator_state" not in v.path]
    parts = {f"model/{name(v)}": part(v) for v in weights}
    if not optimizer:
        return parts
    # The optimizer itself, without the wrapper that scales the loss for float16.
    inner: Any = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    portable = inner.portable_state() if hasattr(inner, "portable_state") else []
    taken = {id(v) for v in inner.variables} if portable else set()
    for i, variable in enumerate(model.optimizer.variables):
        if id(variable) not in taken:
            # The first part is the optimizer's name, in which Keras also counts.
            parts[f"optimizer/{i}/{name(variable).partition('/')[2]}"] = part(variable)
    for value in portable:
        of = "" if value.of is None else f"/{name(value.of)}"
        parts[f"optimizer/{value.name}{of}"] = _Part(value.shape, None, value.read, value.write)
    return parts
