"""Faults that strike from outside: signals, at any moment, from a thread of their own."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self, TypeAlias

import psutil

import feedline
from tests.belongings import Belongings

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from types import FrameType, TracebackType

Moments: TypeAlias = list[tuple[str, float]]  # kinds of faults, and when they struck

_ENGINE = os.path.dirname(feedline.__file__)
_LONGEST_STOP = 0.3  # seconds
_PATIENCE = 10.0  # seconds in which what was killed must have ended


class Outside:
    """Sends signals while it is open, to workers and to the consumer's own thread.

    Args:
        random_: Decides when, what and to whom.
        kinds: What.
        pause: Tells the mean seconds between two, as things are at this moment.
        owner_of: Finds whose worker a process is, or None; called from any thread.

    Attributes:
        listener: Who expects a Ctrl-C at this moment.
        sent: How many signals were sent that end a process.
    """

    def __init__(
        self,
        random_: random.Random,
        kinds: tuple[str, ...],
        pause: Callable[[], float],
        owner_of: Callable[[int], Moments | None],
    ) -> None:
        self._random = random_
        self._kinds = kinds
        self._pause = pause
        self._owner_of = owner_of
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._strike, name="chaos")
        self._sent: list[
            tuple[Moments, str, int, float]
        ] = []  # whom, kind, pidfd, when
        self._sending = threading.Lock()
        self._before: object = None
        self.listener: Moments | None = None
        self.sent = 0

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._interrupt)
        if self._kinds:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._kinds:
            self._thread.join()
        self.settle()
        signal.signal(signal.SIGINT, self._before)  # type: ignore[arg-type]

    def strike_between_batches(self) -> None:
        """Strike now, from the consumer's thread."""
        kinds = [kind for kind in self._kinds if kind not in ("SIGSTOP", "SIGINT")]
        if kinds:
            with self._sending:
                self._send(self._random.choice(kinds))

    def settle(self) -> None:
        """Note what was killed and did end. To be called before all workers are ended."""
        with self._sending:
            sent, self._sent = self._sent, []
        for struck, kind, pidfd, when in sent:
            watch = select.poll()
            watch.register(pidfd, select.POLLIN)
            if watch.poll(_PATIENCE * 1000):
                struck.append((kind, when))
            os.close(pidfd)

    def _strike(self) -> None:
        main = threading.main_thread().ident
        assert main is not None
        while not self._over.wait(self._random.uniform(0, 2 * self._pause())):
            kind = self._random.choice(self._kinds)
            if kind == "SIGINT":
                signal.pthread_kill(main, signal.SIGINT)
                continue
            with self._sending:
                stopped = self._send(kind)
            if stopped:
                self._over.wait(self._random.uniform(0, _LONGEST_STOP))
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(stopped, signal.SIGCONT)
                os.close(stopped)

    def _send(self, kind: str) -> int | None:
        """Send a signal to a worker; for SIGSTOP, the descriptor of who stopped."""
        workers = _living()
        if not workers:
            return None
        pid = self._random.choice(workers)
        struck = self._owner_of(pid)
        if struck is None:
            return None
        when = time.time()
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        try:
            signal.pidfd_send_signal(pidfd, signal.Signals[kind])
        except ProcessLookupError:
            os.close(pidfd)
            return None
        if kind != "SIGSTOP":
            self.sent += 1
            self._sent.append((struck, kind, pidfd, when))
            return None
        with suppress(psutil.Error):
            if psutil.Process(pid).status() == psutil.STATUS_STOPPED:
                struck.append((kind, when))
        return pidfd

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        # In the engine's own lines alone: in the soak's it would only upset its books.
        listener, file = (
            self.listener,
            "" if frame is None else frame.f_code.co_filename,
        )
        if listener is not None and file.startswith(_ENGINE):
            self.listener = None
            listener.append(("SIGINT", time.time()))
            raise KeyboardInterrupt


def _living() -> list[int]:
    living = []
    for pid in Belongings.now().children:
        with suppress(psutil.Error):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                living.append(pid)
    return living
