"""Run rows and print the table: microseconds a batch, and feedline's ratio to each peer."""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from .peers import CONTESTANTS
from .workloads import WORKLOADS, Stamped, Workload, stamp_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Times = dict[str, list[float]]


def timed(epoch: Callable[[], Iterable[Any]], batches: int) -> float:
    """Microseconds a batch over one epoch; fails if a batch is lost or repeated."""
    start = time.perf_counter()
    total = 0.0
    for batch in epoch():
        total += stamp_of(batch)
    seconds = time.perf_counter() - start
    if total != batches * (batches - 1) / 2:
        raise AssertionError(
            f"the stamps add up to {total}: a batch was lost or repeated"
        )
    return seconds / batches * 1e6


def run(workload: Workload, names: list[str], rounds: int) -> Times:
    """Interleave the contestants: a round is one epoch of each, after one to warm up."""
    times: Times = {name: [] for name in names}
    with ExitStack() as opened:
        epochs = {
            name: opened.enter_context(CONTESTANTS[name](Stamped(workload)))
            for name in names
        }
        for number in range(rounds + 1):
            for name, epoch in epochs.items():
                took = timed(epoch, workload.batches)
                if number:
                    times[name].append(took)
    return times


def table(workload: Workload, times: Times) -> str:
    """Best and median of each contestant, and how feedline compares at its best."""
    ours = {name: min(took) for name, took in times.items() if "feedline" in name}
    heads = "".join(f" {name} is |" for name in ours)
    lines = [
        f"| {workload.name} | best (us) | median (us) |{heads}",
        "|---|--:|--:|" + "--:|" * len(ours),
    ]
    for name, took in times.items():
        ratios = "".join(f" {min(took) / mine:.1f}x |" for mine in ours.values())
        lines.append(
            f"| {name} | {min(took):.0f} | {statistics.median(took):.0f} |{ratios}"
        )
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("rows", nargs="*", default=list(WORKLOADS), metavar="row")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS))
    options = parser.parse_args()
    for row in options.rows:
        if row not in WORKLOADS:
            parser.error(f"row must be one of {list(WORKLOADS)}, got {row!r}")
        times = run(WORKLOADS[row], options.contestants, options.rounds)
        print(table(WORKLOADS[row], times), end="\n\n")


if __name__ == "__main__":
    main()
