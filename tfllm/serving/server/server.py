"""TensorFlow Serving's protocols on one machine, for any folder of SavedModels."""

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

# Threads are cheap, but each that runs Python is one more to share the interpreter with.
_MAX_THREADS = 128
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
_SERVERS = itertools.count()


class ModelServer:
    """Serves `model_base/NAME/VERSION/` over REST and gRPC until it is stopped.

    As a context manager it starts and stops itself::

        with ModelServer("saved_models", rest_port=0) as server:
            print(server.rest_address)

    Args:
        model_base: folder of models, or one model's folder of versions. `models.config` in it,
            where there is one, gives version policies and labels.
        host: address to listen on. The default answers this machine alone; the server knows no
            passwords, so anything else belongs behind something that does.
        rest_port: port of REST, 0 for any free one, None for no REST.
        grpc_port: port of gRPC, 0 for any free one, None for no gRPC. gRPC needs the packages
            grpcio and tensorflow-serving-api and is left out, with a warning, without them.
        batching: join concurrent requests of a signature whose every input and output has the
            batch as dimension 0.
        max_batch_size: most rows in one run of a model. This and the next three default to
            `DEFAULT_BATCHING`, as in the deployment files.
        batch_timeout_micros: longest time that a request waits for others, in microseconds.
        num_batch_threads: batches of one signature that run at the same time.
        max_enqueued_batches: full batches that may wait; further requests get UNAVAILABLE.
        poll_seconds: time between looks for new versions.
        labels: model name to label to version, besides those of `models.config`. A version with
            such a label is served besides the newest.
        allow_version_labels_for_unavailable_models: let the labels of `models.config` name
            versions that are not loaded when the file is read, which is before models load.
            TensorFlow Serving has the same flag and the same default, and without it does not
            start with a file that has labels.
        rest_api_enable_cors_support: send the headers that let a web page of another origin call
            REST; TensorFlow Serving's flag of that name.
        max_body_bytes: longest REST request; a longer one gets 413.
        max_message_bytes: longest gRPC request.
        request_timeout_seconds: longest that a REST `:predict` may take before it gets 504; None
            for no limit. TensorFlow Serving's own default is 30, short for a long text.
        grace_seconds: longest that `stop` waits for requests under way.
        max_streams: live streams at once.
        xla: allow functions marked `jit_compile`, which TensorFlow Serving refuses by default.

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
            f"{options.max_pending_requests} requests are under way or waiting, which is the most "
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
        """`host:port` of REST, once started."""
        return None if self._rest is None else join_address(self.host, self.rest_port)

    @property
    def grpc_address(self) -> str | None:
        """`host:port` of gRPC, once started; None if it is not served."""
        return None if self._grpc is None else join_address(self.host, self.grpc_port)

    def start(self) -> ModelServer:
        """Loads the models, then listens. Returns the server itself.

        Raises:
            OSError: a port is in use or cannot be had.
            ValueError: there is no model, or none that can be loaded.
        """
        if self._started:
            raise ValueError("this server was started before; make a new ModelServer")
        self._started = True
        if self.host not in _LOOPBACK:
            log.warning(
                "listening on %s: anybody who reaches this address can use the models; there are "
                "no passwords and no encryption",
                self.host,
            )
        if not self._xla:
            disable_xla()
        try:
            # The port first: to hear that it is taken should not need a minute of loading.
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
        """Stops listening, waits for the requests under way, and lets go of the models.

        Returns:
            Whether every request had ended within `grace_seconds`.
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
            self._xla = True  # given back once
            restore_xla()

    def __enter__(self) -> ModelServer:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def serve_forever(self) -> int:
        """Starts if need be, and serves until SIGTERM or SIGINT; call it in the main thread.

        The first signal stops cleanly, a second one at once. No load of a model is waited for: a
        signal that comes before the server answers ends the process at once.

        Returns:
            The exit code: 0. If requests outlive the grace period, the process ends here with 1.
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
                _end_process(0)  # TensorFlow does not let go of a load that has begun
            # A wait without a timeout would hold back Python's signal handlers on some systems.
            while not arrived.wait(1.0):
                pass
            log.info("stopping; requests under way have %g s", self._grace_seconds)
            # A thread inside TensorFlow, in a request or a load, would hold the process.
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
        """Start in a thread, as the main one hears no signal while TensorFlow loads a model.

        Returns:
            Whether the server runs; not so if `arrived` was set before.
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
                    f"gRPC needs grpcio and tensorflow-serving-api ({error}): "
                    "pip install 'tfllm[serve]'"
                ) from None
            log.warning(
                "no gRPC, REST alone: %s; pip install 'tfllm[serve]' brings what it needs", error
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
        # A bind of our own says why a port cannot be had; gRPC's error does not.
        listen(self.host, self.grpc_port, flag="grpc").close()
        self.grpc_port = server.add_insecure_port(join_address(self.host, self.grpc_port))
        return server


def _end_process(code: int) -> NoReturn:
    """End at once, whatever other threads do."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
