"""Listening sockets, and the thread that answers REST."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import threading

from tfllm.serving.server.rest import RestApp

log = logging.getLogger("tfllm.serving")


class RestThread:
    """A thread that runs uvicorn with an event loop of its own.

    Args:
        app: answers the requests.
        listener: the listening socket.
        grace_seconds: longest time that a stop waits for running requests.

    Raises:
        ValueError: uvicorn is not installed.
    """

    def __init__(self, app: RestApp, listener: socket.socket, grace_seconds: float) -> None:
        try:
            import uvicorn
        except ImportError as error:
            listener.close()
            raise ValueError(f"REST needs uvicorn ({error}): pip install 'tfllm[serve]'") from None
        config = uvicorn.Config(
            app,  # type: ignore[arg-type]
            loop="asyncio",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            # Rounded up: uvicorn takes whole seconds.
            timeout_graceful_shutdown=max(1, int(grace_seconds + 0.999)),
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._run, args=(listener,), name="tfllm-rest", daemon=True
        )
        self._thread.start()

    def _run(self, listener: socket.socket) -> None:
        try:
            asyncio.run(self._server.serve(sockets=[listener]))
        except Exception:
            log.exception("the REST server failed")

    def begin_stop(self) -> None:
        """Stop accepting requests."""
        self._server.should_exit = True

    def join(self) -> None:
        """Wait until the running requests have ended or the grace period is over."""
        self._thread.join()


def listen(host: str, port: int, flag: str = "rest") -> socket.socket:
    """Open a listening socket.

    Args:
        host: address of this machine.
        port: port number; 0 for any free port.
        flag: protocol in the name of the command's flag, for messages.

    Raises:
        OSError: the port cannot be opened; the message names it and the flag that changes it.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise OSError(
            f"host must be an address of this machine; received {host!r} ({error})"
        ) from None
    # asyncio sets TCP_NODELAY only if the protocol is named; without it, every reply takes 40 ms.
    listener = socket.socket(family, kind, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise OSError(
                errno.EADDRINUSE,
                f"port {port} of {host} is in use by another program; choose one with "
                f"--{flag}-port ({flag}_port), 0 for any free one",
            ) from None
        raise OSError(
            error.errno,
            f"cannot listen on port {port} of {host} (--{flag}-port): {error.strerror}",
        ) from None
    return listener


def join_address(host: str, port: int | None) -> str:
    """`host:port`, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
