"""Where a training run stands: what callbacks see of it, and what it is resumed from."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from feedline import Loader

from .history import History
from .metrics import RunningMeans

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Training"]

_FORMAT = 1


class Training:
    """A run of :func:`feedline.utils.fit`, as its callbacks see it.

    Args:
        data: What is trained on.
        validation_data: What is measured on; None for nothing.

    Attributes:
        epoch: Number of the epoch, from 0.
        steps: Batches of this epoch that were trained on.
        means: Of the metrics of this epoch so far.
        history: The epochs before it.
        stopped: Whether :meth:`stop` was called.
    """

    def __init__(
        self, data: Iterable[Any], validation_data: Iterable[Any] | None
    ) -> None:
        self.history = History()
        self.steps = 0
        self.means = RunningMeans()
        self.stopped = False
        self._sources = {"data": data, "validation_data": validation_data}
        self._began = time.monotonic()
        self._waited = self._waiting()

    @property
    def epoch(self) -> int:
        """Number of the epoch, from 0."""
        return len(self.history.epochs)

    def stop(self) -> None:
        """End training: this epoch after the present batch, and no other follows."""
        self.stopped = True

    def begin_epoch(self) -> None:
        """Count the time from here, unless the epoch is one that is gone on with."""
        if not self.steps:
            self._began, self._waited = time.monotonic(), self._waiting()

    def end_epoch(self, metrics: Mapping[str, float]) -> None:
        """Put the epoch into the history, and be before the next."""
        self.history.add(metrics, self._seconds(), self._waiting() - self._waited)
        self.steps, self.means = 0, RunningMeans()

    def state_dict(self) -> dict[str, Any]:
        """Everything that :func:`~feedline.utils.fit` needs to go on from here.

        The model is not in it: keep that with it, from the same moment.

        Returns:
            Numbers, texts, lists and dicts, for JSON or pickle.
        """
        return {
            "format": _FORMAT,
            "steps": self.steps,
            "means": self.means.state(),
            "seconds": self._seconds(),
            "waited": self._waiting() - self._waited,
            "history": self.history.state(),
            **{
                name: source.state_dict()
                for name, source in self._sources.items()
                if isinstance(source, Loader)
            },
        }

    def load_state_dict(self, state: Any) -> None:
        """Be where another run was.

        Raises:
            TypeError, ValueError: It is no such state, or one of other data.
        """
        if not isinstance(state, Mapping) or state.get("format") != _FORMAT:
            raise ValueError(
                "state must be what training.state_dict() returned in a callback, got "
                f"{state!r}"
            )
        for name, source in self._sources.items():
            if isinstance(source, Loader) != (name in state):
                raise ValueError(
                    f"{name} must be a Loader if it was one when the state was taken, "
                    f"got {source!r}; what is no Loader begins its epoch anew"
                )
        for name, source in self._sources.items():
            if isinstance(source, Loader):
                source.load_state_dict(state[name])
            if isinstance(source, Loader) and name == "validation_data":
                _break_off(source)
        self.steps = state["steps"]
        self.means = RunningMeans.from_state(state["means"])
        self.history = History.from_state(state["history"])
        self._began = time.monotonic() - state["seconds"]
        self._waited = self._waiting() - state["waited"]

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _waiting(self) -> float:
        data = self._sources["data"]
        if isinstance(data, Loader):
            return data.stats().wait_seconds
        return float("nan")


def _break_off(loader: Loader) -> None:
    """Let a round that ended after some steps be over: the next begins at the first."""
    state = loader.state_dict()
    if state["position"]:
        state |= {"epoch": state["epoch"] + 1, "position": 0, "missing": []}
        loader.load_state_dict(state)
