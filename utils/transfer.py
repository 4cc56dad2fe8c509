"""Bytes from a URL into a file, through interruptions.

An attempt that breaks off is followed by another after a pause, which doubles every
time, or lasts as long as the server asks for. It continues where the last one ended if
the source can tell that the file is still the same, and begins anew otherwise.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .body import Interrupted, StaleError
from .download_errors import CacheError, DownloadError, cache_errors
from .progbar import Progbar
from .source import open_url

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from urllib3 import Retry

    from .body import Body
    from .partial import PartialFile

__all__ = ["Patience", "transfer"]

_BLOCK = 1 << 16  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait, and how often to try.

    Attributes:
        connect_seconds: Longest wait for a connection.
        read_seconds: Longest wait for the next bytes.
        slow_seconds: So long may a transfer be too slow before it counts as broken.
        slow_bytes: Too slow is fewer bytes than this in that time.
        retries: Attempts after the first that may fail in a row. One that brings 64 KiB
            or a hundredth of the file begins a new row.
        pause_seconds: Pause before the second retry; the first comes at once, and each
            later pause is twice as long.
        longest_pause_seconds: No pause is longer. A server that asks for a longer one
            is not waited for.
    """

    connect_seconds: float = 10.0
    read_seconds: float = 30.0
    slow_seconds: float = 60.0
    slow_bytes: int = 60 * 1024
    retries: int = 4
    pause_seconds: float = 0.5
    longest_pause_seconds: float = 120.0


def transfer(origin: str, partial: PartialFile, patience: Patience) -> bool:
    """Complete a partial file.

    Args:
        origin: URL to fetch it from.
        partial: Where its bytes go, and perhaps some of them are.
        patience: How long to wait, and how often to try.

    Returns:
        Whether the file was put together from several attempts.

    Raises:
        DownloadError: It cannot be had. What has come is kept to be continued.
        CacheError: It cannot be written. What has come is removed, to free the room.
    """
    run = _Transfer(origin, partial, patience)
    try:
        return run.complete()
    except CacheError:
        with cache_errors(origin, os.path.dirname(partial.path)):
            partial.clear()
        raise
    finally:
        run.progress.close()


class _Transfer:
    def __init__(self, origin: str, partial: PartialFile, patience: Patience) -> None:
        self.progress = _Progress()
        self._origin = origin
        self._partial = partial
        self._patience = patience
        self._furthest = partial.so_far()[0]
        self._worthwhile: float = _BLOCK  # bytes

    def complete(self) -> bool:
        attempts = self._attempts()
        while True:
            furthest = self._furthest
            try:
                return self._attempt()
            except StaleError as error:
                self._partial.clear()
                self._furthest = furthest = 0
                interruption: Interrupted = error
            except Interrupted as error:
                interruption = error
            if self._furthest >= furthest + self._worthwhile:
                attempts = self._attempts()
            attempts = self._next(attempts, interruption)

    def _attempts(self) -> Retry:
        from urllib3 import Retry

        return Retry(
            total=self._patience.retries,
            backoff_factor=self._patience.pause_seconds,
        )

    def _next(self, attempts: Retry, error: Interrupted) -> Retry:
        """Pause, unless it was the last attempt."""
        from urllib3.exceptions import InvalidHeader, MaxRetryError

        response, longest = error.response, self._patience.longest_pause_seconds
        try:
            asked = response and attempts.get_retry_after(response)
        except InvalidHeader:
            response = asked = None
        if asked and asked > longest:
            raise DownloadError(
                self._origin,
                f"{error.reason}, and asked for a pause of {asked:.0f} s",
                "call again then",
            ) from error
        try:
            attempts = attempts.increment("GET", self._origin, error=error)
        except MaxRetryError:
            tries = self._patience.retries + 1
            reason = f"{error.reason} ({tries} attempts)" if tries > 1 else error.reason
            raise DownloadError(self._origin, reason, error.remedy) from error
        attempts.sleep(response)
        return attempts

    def _attempt(self) -> bool:
        start, version = self._partial.so_far()
        timeout = (self._patience.connect_seconds, self._patience.read_seconds)
        with open_url(self._origin, start, version, timeout) as body:
            with self._writing():
                file = self._partial.open(body.start, body.version)
            try:
                self._copy(body, file.write)
                with self._writing():
                    file.flush()
                    os.fsync(file.fileno())
            finally:
                with self._writing():
                    file.close()
            return body.start > 0

    def _copy(self, body: Body, write: Callable[[bytes], object]) -> None:
        done, pace = body.start, _Pace(self._patience)
        if body.size is not None:
            self._worthwhile = min(_BLOCK, body.size / 100)
        self.progress.show(done, body.size)
        while block := body.read(_BLOCK):
            with self._writing():
                write(block)
            done += len(block)
            self._furthest = max(self._furthest, done)
            self.progress.show(done, body.size)
            pace.check(len(block))
        if body.size is not None and done != body.size:
            raise Interrupted(
                f"{done} bytes came instead of {body.size}",
                "call again to continue",
            )
        self.progress.finish(done, body.size)

    def _writing(self) -> AbstractContextManager[None]:
        return cache_errors(self._origin, os.path.dirname(self._partial.path))


class _Pace:
    """Notices a transfer that is alive but gets nowhere."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._since = time.monotonic()
        self._bytes = 0

    def check(self, count: int) -> None:
        self._bytes += count
        seconds = time.monotonic() - self._since
        if seconds < self._patience.slow_seconds:
            return
        if self._bytes < self._patience.slow_bytes:
            raise Interrupted(
                f"only {self._bytes} bytes came in {seconds:.3g} s",
                "call again to continue",
            )
        self._since += seconds
        self._bytes = 0


class _Progress:
    """A bar that learns its length late, and perhaps never."""

    def __init__(self) -> None:
        self._bar: Progbar | None = None

    def show(self, done: int, size: int | None) -> None:
        if self._bar is None:
            self._bar = Progbar(size, unit_name="byte")
        self._bar.target = size
        self._bar.update(done)

    def finish(self, done: int, size: int | None) -> None:
        if self._bar is not None and size is None:
            self._bar.target = done
            self._bar.update(done, finalize=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
