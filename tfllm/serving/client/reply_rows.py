"""The outputs of a signature, as rows that a caller can read."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from tfllm.serving.protocol.errors import GenerationError


def raise_row_errors(outputs: dict[str, np.ndarray]) -> None:
    """Raise what the model's output `error` says about its rows.

    Raises:
        GenerationError: the model refused at least one row.
    """
    errors = [str(error) for error in outputs.get("error", ())]
    if any(errors):
        raise GenerationError(errors, outputs)


def json_rows(outputs: dict[str, np.ndarray], num_rows: int) -> list[dict[str, Any]]:
    """For each row, output name to a value that JSON can hold.

    An output whose name ends in `_json` is parsed, and its name loses that ending.
    """
    return [
        _parsed({name: _plain(array[row]) for name, array in outputs.items()})
        for row in range(num_rows)
    ]


def score_rows(outputs: dict[str, np.ndarray], num_rows: int) -> list[dict[str, Any]]:
    """The outputs of the signature `score`, of this and of earlier versions, row by row."""
    scores = []
    for row in range(num_rows):
        numbers = {n: v for n, v in outputs.items() if v.ndim == 1 and v.dtype != np.object_}
        score = {name: values[row].item() for name, values in numbers.items()}
        for name in ("token_ids", "token_log_probs"):
            if f"{name}_json" in outputs:
                score[name] = json.loads(outputs[f"{name}_json"][row])
        if "token_ids" in outputs:  # of a model that an earlier version exported
            real = outputs["token_ids"][row] >= 0
            score["token_ids"] = outputs["token_ids"][row][real].tolist()
            score["token_log_probs"] = outputs["token_log_probs"][row][real].tolist()
        scores.append(score)
    return scores


def _plain(value: Any) -> Any:
    """A value that JSON can hold."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _parsed(row: dict[str, Any]) -> dict[str, Any]:
    """The row, with the outputs parsed whose names say that they are JSON."""
    read = {}
    for name, value in row.items():
        short = name.removesuffix("_json")
        if short != name and short not in row and isinstance(value, str):
            try:
                read[short] = json.loads(value)
                continue
            except ValueError:  # a model of somebody else may mean something else by the name
                pass
        read[name] = value
    return read
