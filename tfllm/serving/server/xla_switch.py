"""XLA off, as in TensorFlow Serving, so that what this server answers that one answers too."""

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
    """Functions marked `jit_compile` fail from now on with "XLA compilation disabled".

    It holds for the whole process, until `restore_xla` was called as often.
    """
    global _holders
    with _lock:
        _holders += 1
        if _holders == 1:
            _call("_ZN10tensorflow21DisableXlaCompilationEv")


def restore_xla() -> None:
    """Ends one `disable_xla`."""
    global _holders
    with _lock:
        _holders -= 1
        if _holders == 0:
            _call("_ZN10tensorflow20EnableXlaCompilationEv")


def _call(symbol: str) -> None:
    import tensorflow as tf

    # The library that Python's TensorFlow runs on exports both functions of C++, on Linux at least.
    folder = Path(tf.__file__).parent
    for name in ("libtensorflow_cc.so.2", "libtensorflow_cc.2.dylib"):
        if (folder / name).is_file():
            function = getattr(ctypes.CDLL(os.fspath(folder / name)), symbol, None)
            if function is not None:
                function()
                return
    log.warning(
        "this TensorFlow offers no way to turn XLA off: functions marked jit_compile run here, and "
        "fail in TensorFlow Serving"
    )
