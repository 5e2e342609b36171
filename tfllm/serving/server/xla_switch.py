"""Disables XLA, as in TensorFlow Serving, so that what runs in this server also runs there."""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from pathlib import Path

log = logging.getLogger("tfllm.serving")

_lock = threading.Lock()
_holders = 0


def disable_xla() -> None:
    """Make functions marked `jit_compile` fail with "XLA compilation disabled".

    This applies to the whole process, until `restore_xla` has been called as often.
    """
    global _holders
    with _lock:
        _holders += 1
        if _holders == 1:
            _call("_ZN10tensorflow21DisableXlaCompilationEv")


def restore_xla() -> None:
    """Undo one call of `disable_xla`."""
    global _holders
    with _lock:
        _holders -= 1
        if _holders == 0:
            _call("_ZN10tensorflow20EnableXlaCompilationEv")


def _call(symbol: str) -> None:
    import tensorflow as tf

    # The library of TensorFlow's Python package exports both C++ functions, at least on Linux.
    folder = Path(tf.__file__).parent
    for name in ("libtensorflow_cc.so.2", "libtensorflow_cc.2.dylib"):
        if (folder / name).is_file():
            function = getattr(ctypes.CDLL(os.fspath(folder / name)), symbol, None)
            if function is not None:
                function()
                return
    log.warning(
        "XLA cannot be disabled in this TensorFlow: functions marked jit_compile run here, and "
        "fail in TensorFlow Serving"
    )
