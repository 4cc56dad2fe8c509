"""How quick batches are, and how many tasks one worker is woken for. Pure: no clock.

Each write to the task pipe wakes one idle worker. While batches take no time, one worker is
soon done with several of them, and to wake another would cost more than it does.
"""

from __future__ import annotations

__all__ = ["PATIENCE", "Pace"]

PATIENCE = 0.005  # seconds without an answer after which workers are not quick

_WORTH_WAKING = 2e6  # nanoseconds of work for which another worker is woken
_MEMORY = 16  # answers over which the pace is averaged


class Pace:
    """What a batch has taken of late. Until something is known, each is slow.

    Attributes:
        crowded: Whether several tasks may wait for one worker while others sleep.

    >>> pace = Pace()
    >>> pace.together(3)
    1
    >>> for _ in range(100):
    ...     pace.heard(50_000)
    >>> pace.together(3), pace.crowded
    (3, True)
    """

    __slots__ = ("_busy", "crowded")

    def __init__(self) -> None:
        self._busy = _WORTH_WAKING  # nanoseconds a batch
        self.crowded = False

    def heard(self, busy: int) -> None:
        """Take an answer into account.

        Args:
            busy: Nanoseconds that a worker spent on it.
        """
        self._busy += (busy - self._busy) / _MEMORY

    def together(self, tasks: int) -> int:
        """Tell how many of so many tasks, 1 or more, go into one write, and remember."""
        together = min(tasks, max(1, int(_WORTH_WAKING / self._busy)))
        if together > 1:
            self.crowded = True
        return together

    def slowed(self) -> None:
        """No answer came for so long: what is sent from now on is for all who sleep."""
        self._busy = max(self._busy, _WORTH_WAKING)
        self.crowded = False
