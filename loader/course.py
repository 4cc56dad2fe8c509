"""Which epoch of a loader is under way, and which is next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .epoch import Epoch
    from .progress import Progress

__all__ = ["Course"]


@dataclass(frozen=True, slots=True)
class Course:
    """Where a loader is in the row of its epochs.

    A value that another takes the place of, so that no interrupt leaves half a step.

    Attributes:
        following: Where the next epoch to begin starts.
        latest: The last one begun, until it is over or another begins.
        hook_has_run: Whether ``on_epoch_begin`` has run for the next one.
    """

    following: Progress
    latest: Epoch | None = None
    hook_has_run: bool = False

    @property
    def progress(self) -> Progress:
        """How far the consumer has come."""
        return self.following if self.latest is None else self.latest.progress()

    def alone(self) -> Course:
        """No epoch is under way any more."""
        return replace(self, latest=None)

    def hooked(self) -> Course:
        """``on_epoch_begin`` has run for the next epoch."""
        return replace(self, hook_has_run=True)

    def begun(self, epoch: Epoch) -> Course:
        """The next epoch has begun, as this one."""
        return Course(epoch.start.next_epoch(), epoch)

    def over(self, epoch: Epoch) -> Course:
        """An epoch was consumed to its end."""
        return self.alone() if self.latest is epoch else self
