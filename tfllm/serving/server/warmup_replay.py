"""Replays the warm-up requests of a SavedModel, `assets.extra/tf_serving_warmup_requests`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tfllm.serving.protocol.errors import ServingError, from_exception
from tfllm.serving.protocol.warmup_requests import (
    MAX_RECORDS,
    WarmupError,
    WarmupRequest,
    read_warmup_requests,
)
from tfllm.serving.server.classify import ClassifyRequest, classify
from tfllm.serving.server.regress import regress
from tfllm.serving.server.servable import Servable

log = logging.getLogger("tfllm.serving")


def _predict(servable: Servable, request: WarmupRequest) -> None:
    servable.signature(request.signature).predict(request.inputs or {})


def _examples(request: WarmupRequest) -> ClassifyRequest:
    return ClassifyRequest(request.signature, list((request.inputs or {})["inputs"]))


_CALLS: dict[str, Callable[[Servable, WarmupRequest], Any]] = {
    "predict": _predict,
    "classify": lambda servable, request: classify(servable, _examples(request)),
    "regress": lambda servable, request: regress(servable, _examples(request)),
}
"""kind of a record to the function that runs it"""


def warm_up(servable: Servable, path: Path) -> int:
    """Replay the warm-up requests of a version, one after another.

    Args:
        servable: the loaded version.
        path: the version's folder.

    Returns:
        Number of requests that were run.

    Raises:
        ServingError: a request failed, or there are too many, so the version must not be served.
    """
    file = path / "assets.extra" / "tf_serving_warmup_requests"
    if not file.is_file():
        return 0
    count = 0
    batched: set[str] = set()
    try:
        requests, records = read_warmup_requests(file)
        if records > MAX_RECORDS:
            raise ServingError(
                "INVALID_ARGUMENT",
                f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {file}",
            )
        for number, request in enumerate(requests, 1):
            run = _CALLS.get(request.kind)
            if run is None:
                log.warning("warm-up record %d is a %s and is not replayed", number, request.kind)
                continue
            signature = servable.signature(request.signature)
            inputs = request.inputs or {}
            # TensorFlow optimizes a function at its first run, for seconds and on one core. A
            # request by itself and one in a batch run two different functions.
            with ThreadPoolExecutor(1) as pool:
                together = None
                if signature.name not in batched:
                    batched.add(signature.name)
                    together = pool.submit(signature.warm_up_batching, inputs)
                run(servable, request)
                if together is not None:
                    together.result()
            count += 1
    except WarmupError as error:
        raise ServingError("DATA_LOSS", f"{file}: {error}") from None
    except Exception as error:
        problem = from_exception(error)
        raise ServingError(problem.code, f"warm-up request failed: {problem.message}") from None
    return count
