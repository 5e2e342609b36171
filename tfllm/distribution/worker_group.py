"""Start local workers together, wait for them, and end them together."""

from __future__ import annotations

import os
import select
import shlex
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

from tfllm.distribution.worker_output import ChiefOutput, Terminal
from tfllm.distribution.worker_process import WorkerProcess

WORKER_LOST = os.EX_TEMPFAIL
"""75: the status of a worker that has lost another one; restarting all of them helps."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SAVED = {128 + signal.SIGINT, 128 + signal.SIGTERM}
"""The statuses of workers that were asked to stop and have saved."""
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Patience:
    """How long to wait for workers, in seconds."""

    after_failure: float = 20.0
    """after one has failed, for the others to notice and end by themselves"""
    after_chief: float = 60.0
    """after the chief, which has the most to do at the end, has ended successfully"""
    after_another: float = 300.0
    """after another worker has ended successfully: the chief may still be writing"""
    after_terminate: float = 5.0
    """between SIGTERM and SIGKILL"""


class ReceivedSignals:
    """While entered, SIGINT, SIGTERM and SIGHUP are recorded and have no other effect.

    Attributes:
        received: Numbers of the signals, in order.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self._before: dict[int, object] = {}

    def __enter__(self) -> ReceivedSignals:
        if threading.current_thread() is threading.main_thread():  # signals need it
            for number in _SIGNALS:
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                    self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]


class WorkerGroup:
    """The workers of one start, which only run while the group is entered.

    Args:
        terminal: Terminal for the chief's output and for messages.
        signals: Signals to pass on to the workers.
        patience: How long to wait for workers.

    Attributes:
        cut_short: Whether a second Ctrl-C killed them.
    """

    def __init__(self, terminal: Terminal, signals: ReceivedSignals, patience: Patience) -> None:
        self.workers: list[WorkerProcess] = []
        self.cut_short = False
        self._terminal = terminal
        self._signals = signals
        self._patience = patience
        self._output: ChiefOutput | None = None
        self._passed_on = len(signals.received)
        self._deadline: float | None = None
        self._terminated = False

    def __enter__(self) -> WorkerGroup:
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers:
            worker.kill()
        if self._output is not None:
            self._output.close()

    def start(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        log: Path,
        title: str,
        cores: Sequence[int] | None,
    ) -> None:
        """Start another worker; the first one is the chief.

        Args:
            command: Program and arguments.
            environ: Environment variables.
            log: File for its output, which is appended to.
            title: Title of this start, for the log.
            cores: Cores that it may run on; None for all.
        """
        with open(log, "ab", buffering=0) as file:
            when = time.strftime("%Y-%m-%d %H:%M:%S")
            line = shlex.join(command).replace("\n", "\\n")
            file.write(f"==== {when} {title}: {line}\n".encode(errors="replace"))
            index = len(self.workers)
            if index == 0:
                self._output = output = ChiefOutput(log, self._terminal)
                with output.ends() as (stdout, stderr):
                    worker = WorkerProcess(index, command, environ, log, stdout, stderr, cores)
            else:
                worker = WorkerProcess(index, command, environ, log, file, file, cores)
        self.workers.append(worker)

    def wait(self) -> None:
        """Return after all workers have ended, by themselves or not."""
        assert self._output is not None
        while any(worker.alive for worker in self.workers):
            select.select(self._output.readable(), [], [], _POLL_SECONDS)
            self._output.carry()
            self._output.resize()
            for worker in self.workers:
                if worker.poll():
                    self._note_end(worker)
            self._pass_signals_on()
            if self._deadline is not None and time.monotonic() >= self._deadline:
                self._stop_the_rest()

    def _note_end(self, worker: WorkerProcess) -> None:
        well = worker.status == 0 or worker.status in _SAVED
        asked = bool(self._signals.received) and -worker.status in _SIGNALS  # too early to save
        if worker.index == 0:
            assert self._output is not None
            self._output.carry()
        if not (well or asked or worker.stopped):
            message = worker.describe_end()
            if worker.index:  # the chief's lines have been shown
                lines = worker.last_lines()
                message += f"; the last lines of {worker.log}:" if lines else ", without any output"
                message += "".join(f"\n  | {line}" for line in lines)
            self._terminal.say(message)
        if not well:
            self._wait_at_most(self._patience.after_failure)
        elif worker.index == 0:
            self._wait_at_most(self._patience.after_chief)
        else:
            self._wait_at_most(self._patience.after_another)

    def _wait_at_most(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self._deadline = end if self._deadline is None else min(end, self._deadline)

    def _pass_signals_on(self) -> None:
        while self._passed_on < len(self._signals.received):
            number = self._signals.received[self._passed_on]
            self._passed_on += 1
            name = signal.Signals(number).name
            if self._passed_on == 1:
                self._terminal.say(
                    f"{name}: the workers save and end"
                    + ("; Ctrl-C again ends them at once" if number == signal.SIGINT else "")
                )
                for worker in self.workers:
                    worker.send(signal.SIGTERM if number == signal.SIGHUP else number)
            elif number == signal.SIGINT:
                self.cut_short = True
                self._terminal.say("the workers are killed")
                for worker in self.workers:
                    worker.kill()

    def _stop_the_rest(self) -> None:
        rest = [worker for worker in self.workers if worker.alive]
        if self._terminated:
            self._deadline = None
            for worker in rest:
                worker.kill()
            return
        if rest:
            names = ", ".join(str(worker.index) for worker in rest)
            self._terminal.say(f"stopping workers that have not ended by themselves: {names}")
        for worker in rest:
            worker.stopped = True
            worker.send(signal.SIGTERM)
        self._terminated = True
        self._deadline = time.monotonic() + self._patience.after_terminate

    def decisive(self) -> WorkerProcess:
        """The worker whose end decides the status of the group, after all have ended.

        A worker's own error comes first, since it would occur again after a restart. Next is a
        chief
        that ended successfully: it has written everything. Then a worker that was killed, and last
        those that ended because they lost another.
        """
        own = [worker for worker in self.workers if not worker.stopped] or self.workers
        by_time = sorted(own, key=lambda worker: worker.ended_at or 0.0)
        chief_well = self.workers[0] in own and self.workers[0].status in (0, *_SAVED)
        groups = [
            [w for w in by_time if w.status > 0 and w.status not in (WORKER_LOST, *_SAVED)],
            self.workers[:1] if chief_well else [],
            [w for w in by_time if w.status < 0],
            [w for w in by_time if w.status == WORKER_LOST],
            [w for w in by_time if w.status in _SAVED],
            by_time,
        ]
        return next(group[0] for group in groups if group)
