"""Three epochs of Keras' ``fit``: our workers beside Keras' own, interleaved.

``KERAS_BACKEND=torch python -m tests.benchmarks.keras_fit`` prints a Markdown table. Both
get the same dataset, and the model does as little as a step can, so that the engine shows.
Keras' own engine trains on other batches than it should; the last column tells in how many
epochs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import nullcontext
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from feedline.keras import as_keras

from .rounds import DELIVERED

if TYPE_CHECKING:
    from .workloads import Workload

EPOCHS = 3
WORKERS = 2
QUEUE = 10  # batches ahead


def contestant(name: str, dataset: Workload) -> Any:
    """What ``fit`` takes, in a context manager."""
    engine, kind = name.split()
    options: dict[str, Any] = {
        "workers": WORKERS,
        "use_multiprocessing": kind == "processes",
        "max_queue_size": QUEUE,
    }
    if engine == "feedline":
        return as_keras(dataset, **options)
    import keras

    class Same(keras.utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(dataset)

        def __getitem__(self, index: int) -> Any:
            return dataset[index]

    return nullcontext(Same(**options))


def epochs_of(name: str, dataset: Workload) -> tuple[list[float], int]:
    """Seconds of each epoch, and how many were not trained on exactly their batches."""
    import keras

    seen: list[list[int]] = []
    marks: list[float] = []

    class Cheap(keras.Model):  # type: ignore[misc]
        """Notes each batch, and learns nothing."""

        def train_step(self, *arguments: Any) -> Any:
            x = arguments[-1][0]
            seen[-1].append(int(np.asarray(x).reshape(-1)[0]))
            return {} if len(arguments) == 1 else ({}, arguments[0])

        def call(self, x: Any) -> Any:
            return x

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        """From the beginning of an epoch to that of the next: what ends it counts too."""

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            marks.append(time.perf_counter())
            seen.append([])

        def on_train_end(self, logs: Any = None) -> None:
            marks.append(time.perf_counter())

    model = Cheap()
    model.compile("sgd", run_eagerly=True)
    with contestant(name, dataset) as data:
        model.fit(data, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=[Clock()])
    seconds = [end - start for start, end in pairwise(marks)]
    right = list(range(len(dataset)))
    return seconds, sum(epoch != right for epoch in seen)


def table(row: str, rounds: int) -> str:
    """Milliseconds an epoch; how much longer Keras takes, round by round."""
    dataset = DELIVERED[row].workload()
    kinds = ("threads", "processes")
    names = [f"{engine} {kind}" for kind in kinds for engine in ("feedline", "keras")]
    times: dict[str, list[float]] = {name: [] for name in names}
    wrong = dict.fromkeys(names, 0)
    for _ in range(rounds):
        for name in names:
            seconds, bad = epochs_of(name, dataset)
            times[name].append(statistics.mean(seconds))
            wrong[name] += bad
    heads = [
        "best (ms an epoch)",
        "median",
        "keras takes, best",
        "median",
        "wrong epochs",
    ]
    lines = [f"| {row} | {' | '.join(heads)} |", "|---|--:|--:|--:|--:|--:|"]
    for name, took in times.items():
        engine, kind = name.split()
        theirs = times[f"keras {kind}"]
        best = min(theirs) / min(took)
        usual = statistics.median(a / b for a, b in zip(theirs, took, strict=True))
        ratios = f"{best:.1f}x | {usual:.1f}x" if engine == "feedline" else "|"
        lines.append(
            f"| {name} | {min(took) * 1e3:.0f} | {statistics.median(took) * 1e3:.0f} "
            f"| {ratios} | {wrong[name]} of {EPOCHS * rounds} |"
        )
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.keras_fit")
    parser.add_argument("rows", nargs="*", default=["small", "mid"], metavar="row")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for row in options.rows:
        if row not in ("small", "mid", "big"):
            parser.error(f"row must be small, mid or big, got {row!r}")
        print(table(row, options.rounds), end="\n\n")


if __name__ == "__main__":
    main()
