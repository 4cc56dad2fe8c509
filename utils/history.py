"""What training did, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["History"]


@dataclass(frozen=True, slots=True, repr=False)
class History(Mapping[str, list[float]]):
    """What training did: a mapping from a metric's name to its values.

    Attributes:
        epochs: The epochs' numbers, from 1.
        metrics: By name, one value for each epoch: the mean over its samples. An epoch
            in which no batch had the metric has nan.
        seconds: How long each epoch took, validation included.
        waited: How many of these seconds it waited for batches to train on; nan where
            the data is no ``Loader`` and cannot tell.

    >>> History([1, 2], {"loss": [0.9, 0.1]}, [2.0, 1.5])["loss"]
    [0.9, 0.1]
    """

    epochs: list[int] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)

    def __getitem__(self, name: str) -> list[float]:
        try:
            return self.metrics[name]
        except KeyError:
            raise KeyError(f"{name!r} was not measured; {list(self)!r} were") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    def __repr__(self) -> str:
        said = [f"{len(self.epochs)} epochs in {sum(self.seconds):.1f} s"]
        said += [f"{name} {v[0]:.4g} -> {v[-1]:.4g}" for name, v in self.items()]
        return f"History({', '.join(said)})"

    def add(self, metrics: Mapping[str, float], seconds: float, waited: float) -> None:
        """Add an epoch; nan stands where it, or an epoch before it, lacks a metric."""
        before = len(self.epochs)
        for name in metrics:
            self.metrics.setdefault(name, [float("nan")] * before)
        for name, values in self.metrics.items():
            values.append(metrics.get(name, float("nan")))
        self.epochs.append(before + 1)
        self.seconds.append(seconds)
        self.waited.append(waited)

    def state(self) -> dict[str, Any]:
        """The same in plain data."""
        return {
            "metrics": {name: list(values) for name, values in self.metrics.items()},
            "seconds": list(self.seconds),
            "waited": list(self.waited),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """What :meth:`state` told."""
        metrics = {name: list(values) for name, values in state["metrics"].items()}
        seconds = list(state["seconds"])
        epochs = list(range(1, len(seconds) + 1))
        return cls(epochs, metrics, seconds, list(state["waited"]))
