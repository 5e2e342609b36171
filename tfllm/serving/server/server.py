"""A server with TensorFlow Serving's protocols on one machine, for any folder of SavedModels."""

from __future__ import annotations

import functools
import itertools
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from tfllm.serving.batching_options import DEFAULT_BATCHING, BatchingOptions
from tfllm.serving.server.batching import RequestLimit
from tfllm.serving.server.listening import RestThread, join_address, listen
from tfllm.serving.server.metrics import Metrics
from tfllm.serving.server.repository import Repository
from tfllm.serving.server.rest import RestApp
from tfllm.serving.server.servable import Servable
from tfllm.serving.server.warmup_replay import warm_up
from tfllm.serving.server.xla_switch import disable_xla, restore_xla

log = logging.getLogger("tfllm.serving")

# Threads are cheap, but all that run Python share the interpreter.
_MAX_THREADS = 128
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
_SERVERS = itertools.count()


class ModelServer:
    """Serves `model_base/NAME/VERSION/` over REST and gRPC until it is stopped.

    As a context manager it starts and stops the server::

        with ModelServer("saved_models", rest_port=0) as server:
            print(server.rest_address)

    Args:
        model_base: folder of models, or one model's folder of versions. If it has a
            `models.config`, this gives version policies and labels.
        host: address to listen on. Only this machine can reach the default. The server has no
            authentication, so another address needs a proxy in front that has.
        rest_port: port of REST; 0 for any free port, None for no REST.
        grpc_port: port of gRPC; 0 for any free port, None for no gRPC. gRPC requires the packages
            grpcio and tensorflow-serving-api; without them there is a warning and no gRPC.
        batching: whether to run concurrent requests of a signature as one batch. All its inputs
            and outputs must have the batch as dimension 0.
        max_batch_size: most rows in one run of a model. This and the next three default to
            `DEFAULT_BATCHING`, as in the deployment files.
        batch_timeout_micros: longest time that a request waits for others, in microseconds.
        num_batch_threads: batches of one signature that run at the same time.
        max_enqueued_batches: full batches that may wait; further requests get UNAVAILABLE.
        poll_seconds: time between two scans for new versions, in seconds.
        labels: model name to label to version, in addition to those of `models.config`. A version
            with such a label is served in addition to the newest.
        allow_version_labels_for_unavailable_models: whether the labels of `models.config` may name
            versions that are not loaded when the file is read, which is before models are loaded.
            TensorFlow Serving has the same flag with the same default: without it, a server does
            not start with a file that has labels.
        rest_api_enable_cors_support: whether to send the headers that allow REST requests from web
            pages of other origins; the flag of TensorFlow Serving.
        max_body_bytes: longest REST request, in bytes; a longer one gets 413.
        max_message_bytes: longest gRPC request, in bytes.
        request_timeout_seconds: time limit of a REST `:predict`, after which it gets 504; None for
            no limit. TensorFlow Serving's default is 30, which is short for a long text.
        grace_seconds: longest time that `stop` waits for running requests.
        max_streams: most live streams at once.
        xla: whether to allow functions marked `jit_compile`, which TensorFlow Serving refuses by
            default.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        model_base: str | Path,
        *,
        host: str = "127.0.0.1",
        rest_port: int | None = 8501,
        grpc_port: int | None = 8500,
        batching: bool = True,
        max_batch_size: int = DEFAULT_BATCHING.max_batch_size,
        batch_timeout_micros: int = DEFAULT_BATCHING.batch_timeout_micros,
        num_batch_threads: int = DEFAULT_BATCHING.num_batch_threads,
        max_enqueued_batches: int = DEFAULT_BATCHING.max_enqueued_batches,
        poll_seconds: float = 1.0,
        labels: Mapping[str, Mapping[str, int]] | None = None,
        allow_version_labels_for_unavailable_models: bool = False,
        rest_api_enable_cors_support: bool = False,
        max_body_bytes: int = 16 << 20,
        max_message_bytes: int = 256 << 20,
        request_timeout_seconds: float | None = 300.0,
        grace_seconds: float = 30.0,
        max_streams: int = 4,
        xla: bool = False,
    ) -> None:
        for name, port in (("rest_port", rest_port), ("grpc_port", grpc_port)):
            if port is not None and not 0 <= port <= 65535:
                raise ValueError(f"{name} must lie in 0..65535; received {port}")
        if rest_port is None and grpc_port is None:
            raise ValueError("rest_port or grpc_port must be given; received None for both")
        if poll_seconds <= 0:
            raise ValueError(f"poll_seconds must be positive; received {poll_seconds}")
        if request_timeout_seconds is not None and request_timeout_seconds <= 0:
            raise ValueError(
                "request_timeout_seconds must be positive or None; received "
                f"{request_timeout_seconds}"
            )
        options = BatchingOptions(
            max_batch_size=max_batch_size,
            batch_timeout_micros=batch_timeout_micros,
            num_batch_threads=num_batch_threads,
            max_enqueued_batches=max_enqueued_batches,
        )
        self.host = host
        self.rest_port = rest_port
        self.grpc_port = grpc_port
        self._batching = options if batching else None
        self._grace_seconds = grace_seconds
        self._xla = xla
        self._max_message_bytes = max_message_bytes
        self._scheduler = f"tfllm/{os.getpid()}/{next(_SERVERS)}"
        self.metrics = Metrics(max_batch_size)
        self.repository = Repository(
            Path(model_base),
            self._load,
            labels=labels,
            allow_labels_for_unavailable=allow_version_labels_for_unavailable_models,
            poll_seconds=poll_seconds,
        )
        self._limit = RequestLimit(
            options.max_pending_requests,
            "UNAVAILABLE",
            f"{options.max_pending_requests} requests are running or waiting, which is the limit "
            "(max_enqueued_batches); try again later",
        )
        self._num_threads = min(options.max_pending_requests, _MAX_THREADS)
        self._make_app = functools.partial(
            RestApp,
            self.repository,
            self.metrics,
            limit=self._limit,
            max_body_bytes=max_body_bytes,
            timeout_seconds=request_timeout_seconds,
            max_streams=max_streams,
            enable_cors=rest_api_enable_cors_support,
        )
        self._rest: RestThread | None = None
        self._grpc: Any = None
        self._executors: list[ThreadPoolExecutor] = []
        self._started = False

    @property
    def rest_address(self) -> str | None:
        """`host:port` of REST; None if it is not served or not started."""
        return None if self._rest is None else join_address(self.host, self.rest_port)

    @property
    def grpc_address(self) -> str | None:
        """`host:port` of gRPC; None if it is not served or not started."""
        return None if self._grpc is None else join_address(self.host, self.grpc_port)

    def start(self) -> ModelServer:
        """Load the models, then listen.

        Returns:
            The server itself.

        Raises:
            OSError: a port is in use or cannot be opened.
            ValueError: there is no model, or none can be loaded.
        """
        if self._started:
            raise ValueError("this server was started before; make a new ModelServer")
        self._started = True
        if self.host not in _LOOPBACK:
            log.warning(
                "listening on %s: anybody who can reach this address can use the models, as there "
                "is no authentication and no encryption",
                self.host,
            )
        if not self._xla:
            disable_xla()
        try:
            # The port first: nobody should wait for models to load to hear that it is in use.
            listener = None if self.rest_port is None else listen(self.host, self.rest_port)
            try:
                if self.grpc_port is not None:
                    self._grpc = self._create_grpc()
                self.repository.start()
            except BaseException:
                if listener is not None:
                    listener.close()
                raise
            if self._grpc is not None:
                self._grpc.start()
                log.info("gRPC on %s", self.grpc_address)
            if listener is not None:
                self.rest_port = listener.getsockname()[1]
                app = self._make_app(executor=self._executor("rest"))
                self._rest = RestThread(app, listener, self._grace_seconds)
                log.info("REST on http://%s", self.rest_address)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> bool:
        """Stop listening, wait for the running requests, and release the models.

        Returns:
            Whether all requests ended within `grace_seconds`.
        """
        if not self._started:
            return True
        clean = self._stop_listening()
        self.repository.stop()
        self._restore_xla()
        return clean

    def _stop_listening(self) -> bool:
        rest, self._rest = self._rest, None
        server, self._grpc = self._grpc, None
        if rest is not None:
            rest.begin_stop()
        ended = server.stop(self._grace_seconds) if server is not None else None
        if rest is not None:
            rest.join()
        if ended is not None:
            ended.wait()
        clean = self._limit.count == 0
        executors, self._executors = self._executors, []
        for executor in executors:
            executor.shutdown(wait=clean, cancel_futures=True)
        return clean

    def _restore_xla(self) -> None:
        if not self._xla:
            self._xla = True  # restored only once
            restore_xla()

    def __enter__(self) -> ModelServer:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def serve_forever(self) -> int:
        """Start if necessary, and serve until SIGTERM or SIGINT. Call it in the main thread.

        The first signal lets running requests finish, a second one ends the process at once. A load
        of a model is not waited for: a signal before the server answers ends the process at once.

        Returns:
            The exit code 0. If requests are still running after the grace period, the process ends
            here with 1.
        """
        arrived = threading.Event()
        names = (signal.SIGTERM, signal.SIGINT)

        def on_signal(number: int, frame: FrameType | None) -> None:
            for name in names:
                signal.signal(name, signal.SIG_DFL)
            arrived.set()

        before = {name: signal.signal(name, on_signal) for name in names}
        try:
            if not self._started and not self._start_unless(arrived):
                log.info("stopped while the models were loading")
                _end_process(0)  # a load cannot be cancelled in TensorFlow
            # A wait without a timeout would delay Python's signal handlers on some systems.
            while not arrived.wait(1.0):
                pass
            log.info("stopping; running requests have %g s to finish", self._grace_seconds)
            # A thread inside TensorFlow, in a request or a load, would keep the process alive.
            if not self._stop_listening():
                log.error("requests were still running after %g s", self._grace_seconds)
                _end_process(1)
            if not self.repository.stop(wait_for_load=False):
                log.info("stopped while a version was loading")
                _end_process(0)
            self._restore_xla()
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)
        return 0

    def _start_unless(self, arrived: threading.Event) -> bool:
        """Start in a thread, because the main one handles no signal while TensorFlow loads a model.

        Args:
            arrived: set when a signal arrives.

        Returns:
            Whether the server runs; False if a signal arrived before that.
        """
        ended = threading.Event()
        problems: list[BaseException] = []

        def run() -> None:
            try:
                self.start()
            except BaseException as error:
                problems.append(error)
            finally:
                ended.set()

        threading.Thread(target=run, name="tfllm-start", daemon=True).start()
        while not ended.wait(0.1):
            if arrived.is_set():
                return False
        if problems:
            raise problems[0]
        return True

    def _load(self, name: str, version: int, path: Path) -> Servable:
        servable = Servable(name, version, path, self._batching, scheduler=self._scheduler)
        count = warm_up(servable, path)
        if count:
            log.info("%s version %d: %d warm-up requests", name, version, count)
        return servable

    def _executor(self, name: str) -> ThreadPoolExecutor:
        executor = ThreadPoolExecutor(self._num_threads, thread_name_prefix=f"tfllm-{name}")
        self._executors.append(executor)
        return executor

    def _create_grpc(self) -> Any:
        try:
            from tfllm.serving.server.grpc_service import create_grpc_server
        except ImportError as error:
            if self.rest_port is None:
                raise ValueError(
                    f"gRPC requires grpcio and tensorflow-serving-api ({error}): "
                    "pip install 'tfllm[serve]'"
                ) from None
            log.warning(
                "only REST is served, without gRPC: %s; install it by pip install 'tfllm[serve]'",
                error,
            )
            self.grpc_port = None
            return None
        server = create_grpc_server(
            self.repository,
            self.metrics,
            self._executor("grpc"),
            self._limit,
            max_message_bytes=self._max_message_bytes,
        )
        assert self.grpc_port is not None
        # The error of our own bind says why a port cannot be opened; gRPC's does not.
        listen(self.host, self.grpc_port, flag="grpc").close()
        self.grpc_port = server.add_insecure_port(join_address(self.host, self.grpc_port))
        return server


def _end_process(code: int) -> NoReturn:
    """End the process at once, without waiting for other threads."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
