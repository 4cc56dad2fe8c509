"""Counting what a loader did, and a frozen picture of the counts."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

__all__ = ["Counts", "LoaderStats", "Skipped"]

_MOST_SKIPPED = 1000  # batches that are remembered by name


@dataclass(frozen=True, slots=True)
class Skipped:
    """A batch that ``on_error="skip"`` left out.

    Attributes:
        epoch: In which epoch, from 0.
        index: Which batch.
        error: The ``repr`` of what it raised, 500 characters at the most.
    """

    epoch: int
    index: int
    error: str


@dataclass(frozen=True, slots=True)
class LoaderStats:
    """What a loader has done since it was made.

    Attributes:
        epochs: Epochs begun.
        batches: Batches delivered to the consumer.
        skipped: Batches left out by ``on_error="skip"``.
        retries: Builds that were tried again.
        timeouts: How often a batch took longer than ``timeout``.
        deaths: Worker processes that ended and were replaced.
        workers: Threads or processes; 0 in the calling thread.
        processes: Whether they are processes.
        wait_seconds: How long the consumer waited for batches, in all.
        busy_seconds: How long workers built and encoded batches, summed over them.
        elapsed_seconds: How long epochs lasted, the consumer's own work included.
    """

    epochs: int = 0
    batches: int = 0
    skipped: int = 0
    retries: int = 0
    timeouts: int = 0
    deaths: int = 0
    workers: int = 0
    processes: bool = False
    wait_seconds: float = 0.0
    busy_seconds: float = 0.0
    elapsed_seconds: float = 0.0

    @property
    def wait_share(self) -> float:
        """Part of the time that the consumer waited: near 1, loading is the bottleneck."""
        return self.wait_seconds / self.elapsed_seconds if self.elapsed_seconds else 0.0

    @property
    def busy_share(self) -> float:
        """Part of the time that a worker was busy: near 1, more workers would help.

        For threads, waiting for the interpreter's lock counts as busy: near 1 and yet
        slow, worker processes would help.
        """
        total = max(self.workers, 1) * self.elapsed_seconds
        return self.busy_seconds / total if total else 0.0

    def __str__(self) -> str:
        said = (
            f"{self.batches} batches, waited {self.wait_seconds:.1f} s "
            f"({self.wait_share:.0%})"
        )
        if self.workers:
            kind = "process" if self.processes else "thread"
            plural = "s" if self.workers > 1 else ""
            said += f", {self.workers} {kind} worker{plural} busy {self.busy_share:.0%}"
        else:
            said += f", built in the calling thread, busy {self.busy_share:.0%}"
        for number, what in (
            (self.skipped, "skipped"),
            (self.retries, "tried again"),
            (self.timeouts, "timed out"),
            (self.deaths, "workers replaced"),
        ):
            if number:
                said += f", {number} {what}"
        return said


@dataclass(slots=True)
class Counts:
    """The running counts behind :class:`LoaderStats`; times in nanoseconds."""

    epochs: int = 0
    batches: int = 0
    skipped: int = 0
    retries: int = 0
    timeouts: int = 0
    wait: int = 0
    busy: int = 0
    elapsed: int = 0
    left_out: deque[Skipped] = field(
        default_factory=lambda: deque(maxlen=_MOST_SKIPPED)
    )

    def skip(self, epoch: int, index: int, error: str) -> None:
        """Count a batch that is left out, and remember it."""
        self.skipped += 1
        self.left_out.append(Skipped(epoch, index, error))

    def picture(self, *, workers: int, processes: bool, deaths: int) -> LoaderStats:
        """The counts as they stand now."""
        return LoaderStats(
            epochs=self.epochs,
            batches=self.batches,
            skipped=self.skipped,
            retries=self.retries,
            timeouts=self.timeouts,
            deaths=deaths,
            workers=workers,
            processes=processes,
            wait_seconds=self.wait / 1e9,
            busy_seconds=self.busy / 1e9,
            elapsed_seconds=self.elapsed / 1e9,
        )
