"""Text to token ids in several processes.

A worker is an interpreter of its own, started with `python -c`, that reads batches of documents or
examples from its standard input and writes what they become to its standard output. Unlike a forked
process it cannot inherit the locks of TensorFlow's threads; unlike a `multiprocessing` process it
does not run the caller's script again, so `prepare` works from a script without a `__main__` guard
and from a notebook. A worker whose parent is gone reads the end of its input, and ends.
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

# `-c` puts the current folder first on the path, where a stray json.py would hide Python's own; the
# parent's path comes by PYTHONPATH.
WORKER = (
    "import sys; sys.path[:] = [p for p in sys.path if p]; "
    "from tfllm.data.preparing.tokenizing import work; work()"
)

_BATCH_CHARS = 1 << 18
_BATCH_ITEMS = 1024


class Job(Protocol):
    """What the processes are to do; it is pickled for them."""

    def size(self, item: Any) -> int:
        """About how many characters an item has."""

    def start(self) -> Callable[[list[Any]], Any]:
        """What makes a batch of items into a result, in the process that calls this."""


def tokenize(items: Iterable[Any], job: Job, num_processes: int) -> Generator[Any, None, None]:
    """Do a job on items in batches, in order, reading only a few batches ahead of the consumer.

    Args:
        items: documents or examples.
        job: what is done with them.
        num_processes: 1 does it in this process; more start that many others.

    Returns:
        the results, a batch each.

    Raises:
        RuntimeError: a worker ended (for want of memory, perhaps).
        Exception: what `items` or the job raises.
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
    """A thread for each worker process, which hands it batches and waits for the answers."""

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
            for process in self._processes:  # do not wait for batches that nobody wants
                process.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in self._processes:
            assert process.stdin is not None and process.stdout is not None
            with contextlib.suppress(OSError):  # it died with a batch half sent: already said
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
        """This thread's process."""
        if not hasattr(self._own, "process"):
            paths = [path or os.getcwd() for path in sys.path]
            self._own.process = subprocess.Popen(
                [sys.executable, "-c", WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(paths),
                    "TOKENIZERS_PARALLELISM": "false",  # the processes are the parallelism
                },
            )
            self._processes.append(self._own.process)
            with contextlib.suppress(OSError):  # the next message will tell
                _send(self._job, self._own.process.stdin)
        return self._own.process

    @staticmethod
    def _ended(process: subprocess.Popen[bytes]) -> RuntimeError:
        try:
            code = process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # it answers nonsense, but lives
            process.kill()
            code = process.wait()
        return RuntimeError(
            f"a process that tokenizes ended early (exit code {code}); its own message, if it left "
            "one, stands above. If memory ran out, set num_processes lower"
        )


def work() -> None:
    """What a worker process does: the job first, then a batch in, its result out, until the end."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    incoming = sys.stdin.buffer
    # Keep the way to the parent clean of whatever a library prints.
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
        except Exception as error:  # of a type that may not pass from process to process
            answer = RuntimeError(f"{type(error).__name__}: {error}")
        try:
            _send(answer, outgoing)
        except BrokenPipeError:  # the parent is gone
            return


def _send(message: object, stream: IO[bytes] | None) -> None:
    assert stream is not None
    pickle.dump(message, stream, pickle.HIGHEST_PROTOCOL)
    stream.flush()


def count_processes(requested: int, num_bytes: int) -> int:
    """How many processes to tokenize `num_bytes` with: as requested, or (0) one a core.

    A process takes about a second to start, so there is at most one for each 4 MB unless more are
    asked for.
    """
    if requested:
        return requested
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cores = os.cpu_count() or 1
    return max(1, min(cores, num_bytes >> 22))
