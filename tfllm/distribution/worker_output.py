"""The output of local workers: all of it in logs, and the chief's also in the terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_BAR_SECONDS = 30.0
"""Time between two states of a progress bar in a log."""
_TAIL_LINES = 10
_TAIL_WIDTH = 400


class Terminal:
    """The standard output and error of this process.

    A reader that has gone (`| head`, a closed window) must not end a training, so output to it is
    dropped.
    """

    def __init__(self) -> None:
        self._gone: set[int] = set()
        self._in_line = False

    def write(self, fd: int, data: bytes) -> None:
        """Write bytes to standard output (1) or error (2)."""
        if data and fd not in self._gone:
            try:
                if fd == 2:
                    self._in_line = not data.endswith(b"\n")
                while data:
                    data = data[os.write(fd, data) :]
            except OSError:
                self._gone.add(fd)

    def say(self, message: str) -> None:
        """Print a line of our own on standard error, below a progress bar if there is one."""
        start = "\n" if self._in_line else ""
        self.write(2, f"{start}tfllm launch: {message}\n".encode(errors="replace"))


class LogWriter:
    r"""Writes whole lines to a log, and only an occasional state of a progress bar.

    A bar is drawn again and again after "\r"; in a log it would take megabytes.

    Args:
        log: File that is open for appending, unbuffered.
    """

    def __init__(self, log: IO[bytes]) -> None:
        self._log = log
        self._pending = b""
        self._last_bar = time.monotonic()

    def write(self, data: bytes) -> None:
        """Process output that arrives in pieces of any size."""
        *lines, rest = (self._pending + data).split(b"\n")
        for line in lines:
            self._write_line(_shown(line))
        drawn, back, drawing = rest.rpartition(b"\r")
        bar = _shown(drawn)
        if bar and time.monotonic() - self._last_bar >= _BAR_SECONDS:
            self._last_bar = time.monotonic()
            self._write_line(bar)
            bar = b""
        self._pending = bar + back + drawing

    def close(self) -> None:
        """Write the rest of the output, which has no line end."""
        if shown := _shown(self._pending):
            self._write_line(shown)
        self._pending = b""

    def _write_line(self, line: bytes) -> None:
        with contextlib.suppress(OSError):  # a full disk: the run itself reports it and stops
            self._log.write(line + b"\n")


def _shown(line: bytes) -> bytes:
    r"""What a terminal shows of a line with "\r": the part that was drawn last."""
    return next((part for part in reversed(line.split(b"\r")) if part.strip()), b"")


class ChiefOutput:
    """Forwards the chief's standard output and error to those of this process, and to its log.

    If ours is a terminal, the chief gets one as well, so that it draws its progress bar.

    Args:
        log: The chief's log, which is appended to.
        terminal: Terminal of this process.
    """

    def __init__(self, log: Path, terminal: Terminal) -> None:
        self._terminal = terminal
        self._log = open(log, "ab", buffering=0)  # noqa: SIM115
        self._routes: dict[int, tuple[int, LogWriter]] = {}
        self._pseudo_terminals: list[tuple[int, int]] = []
        one_for_both = os.isatty(1) and os.isatty(2)  # keeps the order of what is printed
        stderr = self._open(2)
        self._ends = (stderr if one_for_both else self._open(1), stderr)
        self.resize()

    def _open(self, fd: int) -> int:
        """Open a pipe or pseudo-terminal, and return the end that the chief gets as its `fd`."""
        if os.isatty(fd):
            read, write = os.openpty()
            settings = termios.tcgetattr(write)
            settings[1] &= ~termios.OPOST  # ours turns "\n" into "\r\n"; not twice
            termios.tcsetattr(write, termios.TCSANOW, settings)
            self._pseudo_terminals.append((read, fd))
        else:
            read, write = os.pipe()
        os.set_blocking(read, False)
        self._routes[read] = (fd, LogWriter(self._log))
        return write

    @contextlib.contextmanager
    def ends(self) -> Iterator[tuple[int, int]]:
        """The chief's standard output and error, which are closed here after the block."""
        try:
            yield self._ends
        finally:
            for fd in set(self._ends):
                os.close(fd)

    def resize(self) -> None:
        """Set the pseudo-terminal to the current size of our terminal."""
        for pseudo, ours in self._pseudo_terminals:
            with contextlib.suppress(OSError):
                size = fcntl.ioctl(ours, termios.TIOCGWINSZ, bytes(8))
                fcntl.ioctl(pseudo, termios.TIOCSWINSZ, size)

    def readable(self) -> list[int]:
        """The file descriptors to wait for."""
        return list(self._routes)

    def carry(self) -> None:
        """Forward everything that has been printed so far."""
        for fd in list(self._routes):
            target, log = self._routes[fd]
            while True:
                try:
                    data = os.read(fd, 1 << 16)
                except BlockingIOError:
                    break
                except OSError:  # the end of a pseudo-terminal
                    data = b""
                if not data:
                    self._end(fd)
                    break
                self._terminal.write(target, data)
                log.write(data)

    def _end(self, fd: int) -> None:
        self._routes.pop(fd)[1].close()
        self._pseudo_terminals = [p for p in self._pseudo_terminals if p[0] != fd]
        os.close(fd)

    def close(self) -> None:
        """Forward the rest, and close."""
        self.carry()
        for fd in list(self._routes):
            self._end(fd)
        self._log.close()


def last_lines(log: Path, start: int) -> list[str]:
    """The last lines of a log that were written after its first `start` bytes."""
    with open(log, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - (1 << 14)))
        text = file.read().decode(errors="replace")
    lines = [line.rstrip() for line in text.replace("\r", "\n").split("\n") if line.strip()]
    return [line[:_TAIL_WIDTH] for line in lines[-_TAIL_LINES:]]
