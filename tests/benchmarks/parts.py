"""What each idea of the engine is worth: the same batches with one of them switched off.

``python -m tests.benchmarks.parts`` prints a Markdown table. All variants take turns, an
epoch each. The figures in ``loader/README.md`` are of a run of this.
"""

from __future__ import annotations

import argparse
import queue
import statistics
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias
from unittest import mock

from feedline import codec, epoch, thread_pool
from feedline.dispatch import Dispatch
from feedline.slots import Slots

from .peers import CONTESTANTS, Terms
from .rounds import DELIVERED, timed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Patch: TypeAlias = "Callable[[], AbstractContextManager[Any]]"


def _one_by_one() -> AbstractContextManager[Any]:
    made = epoch.Epoch.__init__

    def init(self: Any, *arguments: Any) -> None:
        made(self, *arguments)
        self._portion = 1

    return mock.patch.object(epoch.Epoch, "__init__", init)


def _new_memory() -> AbstractContextManager[Any]:
    def free(self: Any, slot: int, *written: Any) -> None:
        self.retire(slot)
        self._cold.append(slot)

    return mock.patch.object(Slots, "free", free)


def _anyones_slot() -> AbstractContextManager[Any]:
    """Offer no slot to the worker that wrote it."""
    free = Slots.free

    def to_all(self: Any, slot: int, size: int = 0, _: int | None = None) -> None:
        free(self, slot, size)

    return mock.patch.object(Slots, "free", to_all)


def _in_the_stream() -> AbstractContextManager[Any]:
    return mock.patch.object(codec, "SMALLEST", 2**62)


def _read_first() -> AbstractContextManager[Any]:
    """Look for answers, wait only if there are none, and look again."""
    turn = Dispatch.turn

    def reading(self: Any, deadline: float | None) -> Any:
        results = self._pipes.receive()
        return (True, self._open(results)) if results else turn(self, deadline)

    return mock.patch.object(Dispatch, "turn", reading)


def _condition() -> AbstractContextManager[Any]:
    return mock.patch.object(thread_pool, "SimpleQueue", queue.Queue)


# What is switched off, in which pool, and how.
VARIANTS: dict[str, tuple[str, Patch]] = {
    "processes": ("feedline processes", nullcontext),
    "... in place": ("feedline in place", nullcontext),
    "... batches asked for one by one": ("feedline processes", _one_by_one),
    "... new memory for each batch": ("feedline processes", _new_memory),
    "... slots that another worker wrote": ("feedline processes", _anyones_slot),
    "... arrays in the pickle stream": ("feedline processes", _in_the_stream),
    "... reading before waiting": ("feedline processes", _read_first),
    "threads": ("feedline threads", nullcontext),
    "... a queue with a lock and conditions": ("feedline threads", _condition),
}


def measured(row: str, rounds: int) -> dict[str, list[float]]:
    """Microseconds a batch of each variant."""
    dataset = DELIVERED[row].workload()
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    with ExitStack() as opened:
        epochs: dict[str, tuple[Patch, Callable[[], Iterable[Any]]]] = {}
        for name, (who, patch) in VARIANTS.items():
            with patch():
                made = opened.enter_context(CONTESTANTS[who](dataset, Terms()))
                timed(dataset, made)  # workers are forked with the patch
                epochs[name] = patch, made
        for _ in range(rounds):
            for name, (patch, made) in epochs.items():
                with patch():
                    times[name].append(timed(dataset, made))
        epochs.clear()
    return times


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.parts")
    parser.add_argument("rows", nargs="*", default=["small", "mid", "big"])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    taken = {row: measured(row, options.rounds) for row in options.rows}
    print(f"| us a batch, best (median) | {' | '.join(options.rows)} |")
    print("|---|" + "--:|" * len(options.rows))
    for name in VARIANTS:
        cells = [
            f"{min(times[name]):.0f} ({statistics.median(times[name]):.0f})"
            for times in taken.values()
        ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
