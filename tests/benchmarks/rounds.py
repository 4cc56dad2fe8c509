"""Rows that deliver batches: contestants take turns, round by round."""

from __future__ import annotations

import gc
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from heapq import heapreplace
from typing import TYPE_CHECKING, Any

from .peers import CONTESTANTS, Terms
from .result import Result, summary
from .workloads import Arrays, Decoded, Nested, Pure, Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .workloads import Workload

__all__ = ["DELIVERED", "Delivered", "measure", "timed"]

_UNIT = "us a batch"


@dataclass(frozen=True, slots=True)
class Delivered:
    """A row.

    Attributes:
        workload: Makes the dataset.
        contestants: Who takes part; what they need may be missing.
        terms: What everyone is given.
        ideal: What perfect workers would take, in microseconds a batch, of the dataset
            and of what it takes inline.
    """

    workload: Callable[[], Workload]
    contestants: tuple[str, ...]
    terms: Terms = field(default_factory=Terms)
    ideal: Callable[[Any, float], float] | None = None


_PEERS = (
    "torch tensors", "torch arrays", "keras threads", "keras processes", "grain",
    "grain, no reader threads", "spdl process pool", "spdl, a share each", "joblib",
)  # fmt: skip
_ARRAYS = (
    "copy", "inline", "feedline threads", "feedline processes", "feedline in place",
    "feedline in place, 1 worker", *_PEERS,
)  # fmt: skip
_ANY = ("inline", "feedline threads", "feedline processes", *_PEERS)


def _two_workers(dataset: Workload, alone: float) -> float:
    return alone / 2


def _waiting(workers: int) -> Callable[[Any, float], float]:
    """Workers that take batches as they come and lose no time between two.

    They wait for as long as it takes here, where a sleep ends a little late. The last of
    them ends with a straggler, which no order that knows nothing of the future avoids.
    """

    def ideal(dataset: Waiting, alone: float) -> float:
        late = _late()
        free = [0.0] * workers  # when each worker is, a heap
        for index in range(len(dataset)):
            heapreplace(free, free[0] + dataset.seconds(index) + late)
        return max(free) / len(dataset) * 1e6

    return ideal


def _late() -> float:
    """By how many seconds a sleep of 10 ms ends late, on the average."""
    times, length = 100, 0.01
    start = time.perf_counter()
    for _ in range(times):
        time.sleep(length)
    return (time.perf_counter() - start) / times - length


DELIVERED = {
    "small": Delivered(lambda: Arrays(3000, 32, 8), _ARRAYS),
    "mid": Delivered(lambda: Arrays(300, 64, 3, 64, 64), _ARRAYS),
    "big": Delivered(lambda: Arrays(40, 64, 3, 224, 224), _ARRAYS),
    "nested": Delivered(lambda: Nested(600), _ANY),
    "decode": Delivered(lambda: Decoded(40), _ANY, ideal=_two_workers),
    "io, 32 threads": Delivered(
        lambda: Waiting(3200),
        ("feedline threads", "feedline threads, any order", "keras threads"),
        Terms(workers=32, ahead=1024),
        _waiting(32),
    ),
    "io, 8 processes": Delivered(
        lambda: Waiting(800),
        (
            "feedline processes", "feedline processes, any order", "torch tensors",
            "keras processes", "grain", "spdl, a share each", "joblib",
        ),
        Terms(workers=8, ahead=256),
        _waiting(8),
    ),
    "gil": Delivered(lambda: Pure(100), _ANY, ideal=_two_workers),
}  # fmt: skip


def measure(
    name: str, rounds: int, only: tuple[str, ...], say: Callable[[str], None]
) -> Iterator[Result]:
    """Results of one row; a round is one epoch of each, after one to warm up."""
    row = DELIVERED[name]
    dataset = row.workload()
    times: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    with ExitStack() as opened:
        epochs: dict[str, Callable[[], Iterable[Any]]] = {}
        for who in row.contestants:
            if only and who not in only:
                continue
            try:
                epoch = opened.enter_context(CONTESTANTS[who](dataset, row.terms))
                timed(dataset, epoch)
            except Exception as error:  # noqa: BLE001 - a peer's, whatever it is
                missing[who] = " ".join(f"{type(error).__name__}: {error}".split())[
                    :120
                ]
                continue
            epochs[who] = epoch
            times[who] = []
        for number in range(rounds):
            for who, epoch in epochs.items():
                times[who].append(timed(dataset, epoch))
            say(f"{name}: round {number + 1} of {rounds}")
        epochs.clear()
    for who in row.contestants:
        if who in missing:
            yield Result(name, who, _UNIT, float("nan"), float("nan"), missing[who])
        elif who in times:
            yield summary(name, who, _UNIT, times[who])
    if row.ideal is not None:
        alone = min(times.get("inline", [float("nan")]))
        ideal = row.ideal(dataset, alone)
        yield Result(name, "perfect workers", _UNIT, ideal, ideal, "computed")


def timed(dataset: Workload, epoch: Callable[[], Iterable[Any]]) -> float:
    """Microseconds a batch over one epoch; fails if a batch is lost or repeated."""
    gc.collect()
    batches = epoch()
    start = time.perf_counter()
    total = 0.0
    for batch in batches:
        total += dataset.stamp_of(batch)
        del batch
    seconds = time.perf_counter() - start
    count = len(dataset)
    if total != count * (count - 1) / 2:
        raise AssertionError(
            f"the stamps add up to {total}: a batch was lost or repeated"
        )
    return seconds / count * 1e6
