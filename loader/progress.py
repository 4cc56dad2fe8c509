"""How far the consumer has come, as a value that can be kept and gone on from.

Positions count along the plan of an epoch, and a plan is a function of (length, seed,
epoch). So a few numbers say what is left, to any number of workers in any pool, and
finding the next batch takes the same time wherever it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Progress"]

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a consumer is.

    Attributes:
        epoch: In which epoch, from 0.
        position: All batches at positions below this one were received, but for
        missing: these; ascending.
        length: Batches in the epoch; None if it has no end or has not begun.
        seed: Of the loader.
        shuffle: Whether the loader shuffles.
    """

    epoch: int
    position: int
    missing: tuple[int, ...]
    length: int | None
    seed: int
    shuffle: bool

    @classmethod
    def of(
        cls,
        epoch: int,
        position: int,
        missing: Iterable[int],
        length: int | None,
        *,
        seed: int,
        shuffle: bool,
    ) -> Self:
        """Note what is missing below a position, as briefly as it can be said."""
        left = sorted(missing)
        while left and left[-1] == position - 1:
            position = left.pop()
        return cls(epoch, position, tuple(left), length, seed, shuffle)

    @classmethod
    def beginning(cls, epoch: int, *, seed: int, shuffle: bool) -> Self:
        """Where an epoch begins."""
        return cls(epoch, 0, (), None, seed, shuffle)

    def next_epoch(self) -> Self:
        """Where the epoch after this one begins."""
        return self.beginning(self.epoch + 1, seed=self.seed, shuffle=self.shuffle)

    def state(self) -> dict[str, Any]:
        """The same in plain data, for JSON or pickle."""
        return {
            "format": _FORMAT,
            "epoch": self.epoch,
            "position": self.position,
            "missing": list(self.missing),
            "length": self.length,
            "seed": self.seed,
            "shuffle": self.shuffle,
        }

    @classmethod
    def from_state(cls, state: Any) -> Self:
        """Read what :meth:`state` told.

        Raises:
            TypeError: It is no mapping.
            ValueError: It is not such a state.
        """
        if not isinstance(state, Mapping):
            raise TypeError(
                f"a loader's state must be what state_dict() returned, got {state!r}"
            )
        if state.get("format") != _FORMAT:
            raise ValueError(
                f"a loader's state must have format {_FORMAT}, got {dict(state)!r}; it "
                "is of another version of feedline, or of something else"
            )
        try:
            progress = cls(
                state["epoch"], state["position"], tuple(state["missing"]),
                state["length"], state["seed"], state["shuffle"],
            )  # fmt: skip
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"a loader's state must be whole, got {dict(state)!r}"
            ) from error
        if not progress._is_sound():
            raise ValueError(f"a loader's state must be as it was, got {dict(state)!r}")
        return progress

    def _is_sound(self) -> bool:
        end = self.position if self.length is None else self.length
        numbers = (self.epoch, self.position, end, self.seed, *self.missing)
        if not all(type(number) is int and number >= 0 for number in numbers):
            return False
        ascending = sorted(set(self.missing))
        return (
            self.shuffle in (True, False)
            and self.epoch < 2**31
            and self.seed < 2**64
            and self.position <= end
            and ascending == list(self.missing)
            and ascending[-1:] < [self.position]
        )
