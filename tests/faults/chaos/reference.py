"""The undisturbed inline run that every pass is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from feedline import Loader

from .dataset import Stormy, digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .script import Part


class Reference:
    """The same dataset in fair weather, in an inline loader with the same seed.

    Attributes:
        dataset: The twin, whose hooks run when those of the other did.
        digests: Of the pass that was begun last, by position.
        places: Position of each index in it.
    """

    def __init__(self, part: Part) -> None:
        self.dataset = Stormy(part, None)
        self._loader = Loader(
            self.dataset, workers=0, shuffle=part.shuffle, seed=part.seed
        )
        self._batches: Iterator[Any] = iter(())
        self.digests: list[str] = []
        self.places: dict[int, int] = {}

    def begin(self, epoch: int) -> None:
        """Build every batch of an epoch, from the dataset as it is now."""
        fresh = {"epoch": epoch, "position": 0, "missing": [], "length": None}
        self._loader.load_state_dict(self._loader.state_dict() | fresh)
        self._batches = iter(self._loader)
        self.digests.clear()
        self.places.clear()
        for position in range(len(self.dataset)):
            batch = next(self._batches)
            self.digests.append(digest(batch))
            self.places[batch["index"]] = position

    def end(self, *, whole: bool) -> None:
        """End it as the other one ended."""
        if whole:
            assert next(self._batches, None) is None
        self._batches.close()  # type: ignore[attr-defined]

    def close(self) -> None:
        self._loader.close()
