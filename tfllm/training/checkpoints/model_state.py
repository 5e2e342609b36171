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
    """Copies of a model's weights, but for frozen ones, and of what its optimizer remembers.

    Training may go on while they are written. The same model on any number of replicas gives the
    same names and shapes, whether its optimizer's state is shared among them or not. Dropout's
    seeds are functions of the step and left out.

    Under several workers whose optimizer's state is shared among them, all of them must call this.

    Args:
        model: built, and compiled with an optimizer that is built.
        optimizer: whether its state is wanted, too.

    Returns:
        name to array; the names begin with "model/" or "optimizer/".
    """
    return {name: part.read() for name, part in _parts(model, optimizer).items()}


def restore_state(
    model: keras.Model, state: dict[str, np.ndarray], *, where: str, optimizer: bool = True
) -> None:
    """Put what `state_of` gave into a model and its optimizer, on every replica.

    Nothing is changed unless all of it fits.

    Args:
        model: built, and compiled with an optimizer that is built.
        state: of the same model, on any number of replicas.
        where: the state was read from, for the error.
        optimizer: whether its state is wanted, too.

    Raises:
        CheckpointError: the model has other variables, or other shapes or types of them.
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
    """What the state is made of, by name."""
    local = model.distribute_strategy.experimental_local_results

    def part(variable: Any) -> _Part:
        return _Part(
            tuple(variable.shape),
            keras.backend.standardize_dtype(variable.dtype),
            lambda: np.asarray(local(variable.value)[0].numpy()),  # which copies
            variable.assign,
        )

    def name(variable: Any) -> str:
        # Without the model's own name: Keras counts the models of a process in it.
        path = variable.path.removeprefix(f"{model.name}/")
        return path.replace(f"{model.name}_", "")

    # Frozen weights are those of the pretrained model, which is there already.
    weights = [v for v in model.trainable_weights if "seed_generator_state" not in v.path]
    parts = {f"model/{name(v)}": part(v) for v in weights}
    if not optimizer:
        return parts
    # The optimizer itself, from inside of what scales the loss for float16.
    inner: Any = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    portable = inner.portable_state() if hasattr(inner, "portable_state") else []
    taken = {id(v) for v in inner.variables} if portable else set()
    for i, variable in enumerate(model.optimizer.variables):
        if id(variable) not in taken:
            # The first part is the optimizer's name, in which Keras counts, too.
            parts[f"optimizer/{i}/{name(variable).partition('/')[2]}"] = part(variable)
    for value in portable:
        of = "" if value.of is None else f"/{name(value.of)}"
        parts[f"optimizer/{value.name}{of}"] = _Part(value.shape, None, value.read, value.write)
    return parts
