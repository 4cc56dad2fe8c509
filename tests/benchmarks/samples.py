"""Batches of a map-style dataset: ``from_samples`` beside torch's ``DataLoader``.

``python -m tests.benchmarks.samples`` prints a Markdown table. A round is three epochs of
each contestant, with as many worker processes, which live on from epoch to epoch.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from feedline import Loader, from_samples
from feedline.torch import tensors

if TYPE_CHECKING:
    from collections.abc import Iterable

WORKERS = 2
AHEAD = 10  # batches
EPOCHS = 3


class Images:
    """Float images with a label each, the image a new array every time."""

    def __init__(self, count: int, side: int) -> None:
        self.count = count
        self.image = np.ones((3, side, side), np.float32)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.image + np.float32(index), index


def seconds(batches: Iterable[Any], count: int) -> float:
    """Time of a few epochs; fails if a sample is lost, repeated or wrong."""
    start = time.perf_counter()
    total = 0
    for _ in range(EPOCHS):
        for images, labels in batches:
            total += int(labels.sum())
            if float(images[0, 0, 0, 0]) != float(labels[0]) + 1:
                raise AssertionError("an image does not belong to its label")
    if total != EPOCHS * count * (count - 1) // 2:
        raise AssertionError("a sample was lost or repeated")
    return time.perf_counter() - start


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.samples")
    parser.add_argument("--count", type=int, default=4096)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    images: Any = Images(options.count, options.side)
    with ExitStack() as opened:
        loader = opened.enter_context(
            Loader(
                from_samples(images, options.batch_size, shuffle=True),
                workers=WORKERS,
                use_multiprocessing=True,
                max_queue_size=AHEAD,
            )
        )
        theirs: Any = DataLoader(
            images,
            options.batch_size,
            shuffle=True,
            num_workers=WORKERS,
            persistent_workers=True,
            prefetch_factor=AHEAD // WORKERS,
        )
        contestants: dict[str, Any] = {
            "torch DataLoader": theirs,
            "feedline from_samples": tensors(loader),
        }
        taken: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(options.rounds + 1):
            for name, batches in contestants.items():
                took = seconds(batches, options.count)
                if number:
                    taken[name].append(took)
        del theirs
    print(f"torch {torch.__version__}, {WORKERS} worker processes, {options}")
    print("| 3 epochs | best (s) | median (s) | feedline is |\n|---|--:|--:|--:|")
    ours = min(taken["feedline from_samples"])
    for name, times in taken.items():
        print(
            f"| {name} | {min(times):.2f} | {statistics.median(times):.2f} "
            f"| {min(times) / ours:.1f}x |"
        )


if __name__ == "__main__":
    main()
