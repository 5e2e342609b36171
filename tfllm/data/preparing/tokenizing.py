"""Tokenize text in several processes.

A worker is a separate interpreter, started with `python -c`, that reads batches of documents or
examples from its standard input and writes the results to its standard output. Unlike a forked
process, it cannot inherit the locks of TensorFlow's threads; unlike a `multiprocessing` process, it
does not run the caller's script again, so `prepare` works from a script without a `__main__` guard
and from a notebook. If its parent exits, a worker reads the end of its input, and exits, too.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import IO, Any, Protocol

# `-c` puts the current folder first on the path, where a stray json.py would shadow the standard
# module; PYTHONPATH passes on the parent's path.
WORKER = (
    "import sys; sys.path[:] = [p for p in sys.path if p]; "
    "from tfllm.data.preparing.tokenizing import work; work()"
)

_BATCH_CHARS = 1 << 18
_BATCH_ITEMS = 1024


class Job(Protocol):
    """The work of the processes; it is pickled for them."""

    def size(self, item: Any) -> int:
        """Approximate number of characters of an item."""

    def start(self) -> Callable[[list[Any]], Any]:
        """Create, in a worker process, the function from a batch of items to its result."""


def tokenize(items: Iterable[Any], job: Job, num_processes: int) -> Generator[Any, None, None]:
    """Run a job on batches of items, in order, reading only a few batches ahead of the consumer.

    Args:
        items: documents or examples.
        job: the job.
        num_processes: number of worker processes; 1 runs the job in this process.

    Returns:
        The results, one per batch.

    Raises:
        RuntimeError: a worker exited early, for example because it ran out of memory.
        Exception: any error raised by `items` or the job.
    """
    if num_processes == 1:
        yield from map(job.start(), _batches(items, job))
        return
    with _Workers(job, num_processes) as workers:
        waiting: deque[Future[Any]] = deque()
        for batch in _batches(items, job):
            waiting.append(workers.submit(batch))
            if len(waiting) > 2 * num_processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _batches(items: Iterable[Any], job: Job) -> Iterator[list[Any]]:
    batch: list[Any] = []
    chars = 0
    for item in items:
        size = job.size(item)
        if batch and (chars + size > _BATCH_CHARS or len(batch) == _BATCH_ITEMS):
            yield batch
            batch, chars = [], 0
        batch.append(item)
        chars += size
    if batch:
        yield batch


class _Workers:
    """A thread per worker process, which sends it batches and waits for the results."""

    def __init__(self, job: Job, num_processes: int) -> None:
        self._job = job
        self._processes: list[subprocess.Popen[bytes]] = []
        self._own = threading.local()
        self._threads = ThreadPoolExecutor(num_processes, "tokenize")

    def __enter__(self) -> _Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            for process in self._processes:  # do not wait for results that are not needed
                process.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in self._processes:
            assert process.stdin is not None and process.stdout is not None
            with contextlib.suppress(OSError):  # it died while receiving a batch: reported already
                process.stdin.close()
            process.wait()
            process.stdout.close()

    def submit(self, batch: list[Any]) -> Future[Any]:
        return self._threads.submit(self._ask, batch)

    def _ask(self, batch: list[Any]) -> Any:
        process = self._process()
        try:
            _send(batch, process.stdin)
            answer = pickle.load(process.stdout)  # type: ignore[arg-type]
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise self._ended(process) from error
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _process(self) -> subprocess.Popen[bytes]:
        """The worker process of this thread."""
        if not hasattr(self._own, "process"):
            paths = [path or os.getcwd() for path in sys.path]
            self._own.process = subprocess.Popen(
                [sys.executable, "-c", WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(paths),
                    "TOKENIZERS_PARALLELISM": "false",  # the processes already run in parallel
                },
            )
            self._processes.append(self._own.process)
            with contextlib.suppress(OSError):  # sending the first batch reports the error
                _send(self._job, self._own.process.stdin)
        return self._own.process

    @staticmethod
    def _ended(process: subprocess.Popen[bytes]) -> RuntimeError:
        try:
            code = process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # it sent an invalid answer, but is still running
            process.kill()
            code = process.wait()
        return RuntimeError(
            f"a tokenizing process exited early (exit code {code}); its own error message, if any, "
            "is above. If it ran out of memory, set num_processes lower"
        )


def work() -> None:
    """Run a worker process: read the job, then read batches and write their results."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    incoming = sys.stdin.buffer
    # Keep anything that a library prints out of the stream to the parent.
    outgoing = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    job: Job = pickle.load(incoming)
    run: Callable[[list[Any]], Any] | None = None
    while True:
        try:
            batch = pickle.load(incoming)
        except EOFError:
            return
        answer: Any
        try:
            run = run or job.start()
            answer = run(batch)
        except (ValueError, OSError) as error:
            answer = error
        except Exception as error:  # its type may not be picklable
            answer = RuntimeError(f"{type(error).__name__}: {error}")
        try:
            _send(answer, outgoing)
        except BrokenPipeError:  # the parent has exited
            return


def _send(message: object, stream: IO[bytes] | None) -> None:
    assert stream is not None
    pickle.dump(message, stream, pickle.HIGHEST_PROTOCOL)
    stream.flush()


def count_processes(requested: int, num_bytes: int) -> int:
    """Number of processes to tokenize `num_bytes` with: `requested`, or for 0 one per core.

    A process takes about a second to start, so by default there is at most one per 4 MB.
    """
    if requested:
        return requested
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not available on macOS and Windows
        cores = os.cpu_count() or 1
    return max(1, min(cores, num_bytes >> 22))
