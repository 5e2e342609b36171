"""Text to token ids in several processes.

A worker is an interpreter of its own, started with `python -c`, that reads batches of documents
from its standard input and writes their ids to its standard output. Unlike a forked process it
cannot inherit the locks of TensorFlow's threads; unlike a `multiprocessing` process it does not run
the caller's script again, so `prepare` works from a script without a `__main__` guard and from a
notebook. A worker whose parent is gone reads the end of its input, and ends.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import IO

import numpy as np

from tfllm.data.splitting import document_hash

# `-c` puts the current folder first on the path, where a stray json.py would hide Python's own; the
# parent's path comes by PYTHONPATH.
WORKER = (
    "import sys; sys.path[:] = [p for p in sys.path if p]; "
    "from tfllm.data.tokenizing import work; work()"
)

_BATCH_CHARS = 1 << 18
_BATCH_DOCUMENTS = 1024


@dataclass(frozen=True)
class TokenizedBatch:
    """Some documents as ids, each followed by the end token."""

    hashes: np.ndarray
    """uint64 [documents]: `document_hash` of each"""
    num_bytes: np.ndarray
    """int64 [documents]: UTF-8 bytes of each"""
    num_tokens: np.ndarray
    """int64 [documents]: tokens of each, the end token included"""
    tokens: np.ndarray
    """[sum of num_tokens]: the ids, in the shards' type"""


@dataclass(frozen=True)
class TokenizeSettings:
    """What a worker has to know."""

    tokenizer: str
    """a tokenizer.json, or a folder that holds one"""
    dtype: str
    """of the ids"""
    seed: int
    """of `document_hash`"""


class DocumentTokenizer:
    """Tokenizes batches of documents in this process."""

    def __init__(self, settings: TokenizeSettings) -> None:
        from tfllm.tokenizers import BytePairTokenizer

        self._settings = settings
        self._tokenizer = BytePairTokenizer.load(settings.tokenizer)

    def __call__(self, texts: list[str]) -> TokenizedBatch:
        """The ids of `texts`. Text that spells a special token is text: it forges no document end.

        Raises:
            ValueError: the tokenizer gives ids that are not its own, or the end token for text.
        """
        tokenizer, end = self._tokenizer, self._tokenizer.end_token_id
        rows = [
            _ended(np.asarray(ids, np.int64), end)
            for ids in tokenizer.encode_batch(texts, parse_special=False)
        ]
        tokens = np.concatenate(rows)
        if int(tokens.max()) >= tokenizer.vocab_size or int(tokens.min()) < 0:
            raise ValueError(
                f"the tokenizer's ids must lie below its vocab_size ({tokenizer.vocab_size}); "
                f"received {int(tokens.max())}; its tokenizer.json is inconsistent: use another"
            )
        if np.count_nonzero(tokens == end) != len(texts):
            raise ValueError(
                f"the end token {tokenizer.end_token!r} must stand for no text, but a document "
                'holds it; mark it as "special" among the added_tokens of the tokenizer.json, or '
                "name another as eos_token in tokenizer_config.json"
            )
        return TokenizedBatch(
            np.asarray([document_hash(t, self._settings.seed) for t in texts], np.uint64),
            np.asarray([len(t.encode()) for t in texts], np.int64),
            np.asarray([len(r) for r in rows], np.int64),
            tokens.astype(self._settings.dtype),
        )


def _ended(ids: np.ndarray, end: int) -> np.ndarray:
    """The ids of a document with one end token, behind them.

    The template of a tokenizer.json may have put some around the text already.
    """
    if len(ids) and ids[0] == end:
        ids = ids[1:]
    if len(ids) and ids[-1] == end:
        ids = ids[:-1]
    return np.append(ids, end)


def tokenize(
    texts: Iterable[str], settings: TokenizeSettings, num_processes: int
) -> Generator[TokenizedBatch, None, None]:
    """Tokenize documents, in order, reading only a few batches ahead of the consumer.

    Args:
        texts: the documents.
        settings: the tokenizer and the form of the result.
        num_processes: 1 tokenizes in this process; more start that many others.

    Raises:
        RuntimeError: a worker ended (for want of memory, perhaps).
        Exception: what `texts` or the tokenizer raises.
    """
    if num_processes == 1:
        yield from map(DocumentTokenizer(settings), _batches(texts))
        return
    with _Workers(settings, num_processes) as workers:
        waiting: deque[Future[TokenizedBatch]] = deque()
        for batch in _batches(texts):
            waiting.append(workers.submit(batch))
            if len(waiting) > 2 * num_processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    chars = 0
    for text in texts:
        if batch and (chars + len(text) > _BATCH_CHARS or len(batch) == _BATCH_DOCUMENTS):
            yield batch
            batch, chars = [], 0
        batch.append(text)
        chars += len(text)
    if batch:
        yield batch


class _Workers:
    """A thread for each worker process, which hands it batches and waits for the answers."""

    def __init__(self, settings: TokenizeSettings, num_processes: int) -> None:
        self._settings = settings
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

    def submit(self, batch: list[str]) -> Future[TokenizedBatch]:
        return self._threads.submit(self._ask, batch)

    def _ask(self, batch: list[str]) -> TokenizedBatch:
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
                _send(self._settings, self._own.process.stdin)
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
    """What a worker process does: settings first, then a batch in, its ids out, until the end."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    incoming = sys.stdin.buffer
    # Keep the way to the parent clean of whatever a library prints.
    outgoing = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    settings: TokenizeSettings = pickle.load(incoming)
    tokenizer: DocumentTokenizer | None = None
    while True:
        try:
            texts = pickle.load(incoming)
        except EOFError:
            return
        answer: TokenizedBatch | Exception
        try:
            tokenizer = tokenizer or DocumentTokenizer(settings)
            answer = tokenizer(texts)
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
