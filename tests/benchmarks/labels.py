"""``to_categorical`` beside Keras: interleaved rounds, and memory besides the result.

``python -m tests.benchmarks.labels`` prints a row of a Markdown table. Each contestant runs
in a process of its own, so that its peak of resident memory is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

CLASSES = 4


def contestant(name: str) -> Any:
    """The function that takes part."""
    if name == "feedline":
        from feedline.utils import to_categorical

        return to_categorical
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    return keras.utils.to_categorical


def measure(name: str, count: int, dtype: str) -> None:
    """Run one call in this process; print seconds, and bytes besides labels and result."""
    to_categorical = contestant(name)
    labels = np.random.default_rng(0).integers(0, CLASSES, count, dtype)
    to_categorical(labels[:10], CLASSES)  # what is imported on the way
    before = _peak()
    start = time.perf_counter()
    rows = to_categorical(labels, CLASSES)
    seconds = time.perf_counter() - start
    extra = _peak() - before - rows.nbytes
    step = count // 1000 + 1
    if not np.array_equal(rows[::step].argmax(axis=1), labels[::step]):
        raise AssertionError(f"{name} gave a wrong row")
    print(json.dumps([seconds, extra]))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def rounds(
    count: int, dtype: str, number: int
) -> Iterator[dict[str, tuple[float, int]]]:
    """Seconds and extra bytes of each contestant, round by round, after one to warm up."""
    for done in range(number + 1):
        taken = {}
        for name in ("feedline", "keras"):
            line = [sys.executable, "-m", "tests.benchmarks.labels"]
            line += ["--measure", name, "--count", str(count), "--dtype", dtype]
            said = subprocess.run(line, capture_output=True, text=True, check=True)
            seconds, extra = json.loads(said.stdout)
            taken[name] = seconds, extra
        if done:
            yield taken


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.labels")
    parser.add_argument("--count", type=int, default=10**8)
    parser.add_argument("--dtype", default="uint8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        measure(options.measure, options.count, options.dtype)
        return
    results = list(rounds(options.count, options.dtype, options.rounds))
    heads, cells = [f"{options.dtype} labels x {CLASSES}"], [f"{options.count:,}"]
    for name in results[0]:
        heads += [f"{name} best (s)", f"{name} extra memory (MB)"]
        cells.append(f"{min(round_[name][0] for round_ in results):.2f}")
        cells.append(f"{max(round_[name][1] for round_ in results) / 1e6:.0f}")
    heads.append("feedline is, round by round")
    ratios = [round_["keras"][0] / round_["feedline"][0] for round_ in results]
    cells.append(", ".join(f"{ratio:.1f}x" for ratio in ratios))
    print(f"| {' | '.join(heads)} |\n{'|--:' * len(heads)}|\n| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
