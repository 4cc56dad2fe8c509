"""Rows that are no delivery: turn-around, start, system calls, memory, import, growth."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from feedline import Loader, PyDataset

from .children import DELIVERED, FAULTS, KEPT, NAMES, SHARED, STARTED
from .peers import CONTESTANTS, Terms
from .result import Result, summary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["FIGURES"]

_ROOT = Path(__file__).parents[2]
_POOLS: dict[str, dict[str, Any]] = {
    "feedline threads": {"workers": 2},
    "feedline processes": {"workers": 2, "use_multiprocessing": True},
}
_PEERS = ("torch tensors", "keras threads", "keras processes", "grain")


def _failed(row: str, who: str, unit: str, why: object) -> Result:
    words = " ".join(str(why).split())[:120]
    return Result(row, who, unit, float("nan"), float("nan"), words)


# ---- short epochs --------------------------------------------------------------------


class _Short(PyDataset):
    """Ten small batches, and hooks that change 10 KB if they are wished."""

    def __init__(self, *, hooks: bool) -> None:
        super().__init__()
        self.state = np.zeros(1250)
        self.hooks = hooks

    def __len__(self) -> int:
        return 10

    def on_epoch_begin(self) -> None:
        if self.hooks:
            self.state = self.state + 1

    def __getitem__(self, index: int) -> Any:
        return np.full((32, 8), self.state[0], np.float32), index


def _short(rounds: int) -> Iterator[Result]:
    for hooks in (False, True):
        row = f"short epochs, {'hooks that change 10 KB' if hooks else 'no hooks'}"
        for who, options in _POOLS.items():
            with Loader(_Short(hooks=hooks), **options) as loader:
                yield summary(row, who, "ms", _gaps(loader.__iter__, 1000))
        for who in _PEERS:
            try:
                with CONTESTANTS[who](_Short(hooks=hooks), Terms()) as epoch:
                    yield summary(row, who, "ms", _gaps(epoch, 4 * rounds))
            except Exception as error:  # noqa: BLE001 - a peer's, whatever it is
                yield _failed(row, who, "ms", error)


def _gaps(epoch: Callable[[], Any], epochs: int) -> list[float]:
    """Milliseconds from the last batch of each epoch to the first of the next."""
    gaps = []
    ended = None
    for _ in range(epochs):
        for _ in epoch():
            if ended is not None:
                gaps.append((time.perf_counter() - ended) * 1e3)
            ended = None
        ended = time.perf_counter()
    return gaps


# ---- start ---------------------------------------------------------------------------


def _start(rounds: int) -> Iterator[Result]:
    """In a process of its own: a fork takes the longer the more memory its parent has."""
    row, unit = "first batch of a first epoch", "ms"
    for who in (*_POOLS, *_PEERS):
        yield _measured(row, who, unit, STARTED, "small", who, 2 * rounds)


# ---- system calls and page faults ----------------------------------------------------


def _syscalls(rounds: int) -> Iterator[Result]:
    """The slope of two lengths, parent and workers together, futex left out."""
    for size, lengths in {"small": (1000, 3000), "mid": (200, 600)}.items():
        row, unit = f"system calls, {size}", "calls a batch"
        for who in ("feedline threads", "feedline processes", "torch tensors"):
            if shutil.which("strace") is None:
                yield _failed(row, who, unit, "strace is not installed")
                continue
            try:
                few, many = (_traced(size, who, length) for length in lengths)
            except subprocess.SubprocessError as error:
                yield _failed(row, who, unit, error)
                continue
            yield summary(row, who, unit, [(many - few) / (lengths[1] - lengths[0])])


def _traced(size: str, who: str, length: int) -> int:
    with tempfile.NamedTemporaryFile("r") as counts:
        _child(
            DELIVERED, size, who, length,
            before=["strace", "-f", "-c", "-U", "name,calls", "-o", counts.name],
        )  # fmt: skip
        lines = [line.split() for line in counts.read().splitlines()]
    return sum(
        int(line[1])
        for line in lines
        if len(line) == 2 and line[1].isdigit() and line[0] not in ("futex", "total")
    )


def _faults(rounds: int) -> Iterator[Result]:
    """Minor page faults of the consumer, after a warm-up."""
    for size in ("small", "mid"):
        row, unit = f"page faults, {size}", "faults a batch"
        for who in ("feedline threads", "feedline processes", *_PEERS):
            yield _measured(row, who, unit, FAULTS, size, who, 0)


def _measured(row: str, who: str, unit: str, *arguments: object) -> Result:
    """What a process of its own says, or why it says nothing."""
    try:
        said = [float(figure) for figure in _child(*arguments).split()]
        return summary(row, who, unit, said)
    except (subprocess.SubprocessError, ValueError) as error:
        return _failed(row, who, unit, error)


def _child(
    *arguments: object, before: list[str] | None = None, limit: int = 300
) -> str:
    """Run something of ``children`` in a process of its own; return its last line."""
    try:
        done = subprocess.run(
            [*(before or []), sys.executable, "-m", "tests.benchmarks.children",
             *map(str, arguments)],
            cwd=_ROOT, capture_output=True, text=True, timeout=limit, check=False,
            env={"KERAS_BACKEND": "torch", **os.environ},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise subprocess.SubprocessError(f"not over after {limit} s") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise subprocess.SubprocessError(f"exit {done.returncode}: {last}")
    return done.stdout.splitlines()[-1]


# ---- memory --------------------------------------------------------------------------


def _memory(rounds: int) -> Iterator[Result]:
    row, unit = "memory that 4 workers add to a dataset of 2 GB", "% PSS"
    for who in ("feedline processes", "torch arrays", "keras processes"):
        yield _measured(row, who, unit, SHARED, "big", who, 4)
    row, unit = "memory that 4 workers add to a million names, 3 epochs", "MB PSS"
    for who in ("feedline processes", "torch arrays", "keras processes"):
        for kind in ("list", "array"):
            yield _measured(row, f"{who}, {kind}", unit, NAMES, kind, who, 4)
    row, unit = "10,000 batches kept, 256 descriptors", "descriptors"
    for who in ("feedline processes", "torch tensors", "keras processes"):
        yield _measured(row, who, unit, KEPT, "kept", who, 10_000)


# ---- import --------------------------------------------------------------------------


def _import(rounds: int) -> Iterator[Result]:
    names = {"numpy": "import numpy", "numpy and feedline": "import numpy, feedline"}
    took: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(3 * rounds):
        for name, statement in names.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], cwd=_ROOT, check=True)
            took[name].append((time.perf_counter() - start) * 1e3)
    for name, times in took.items():
        yield summary("import", name, "ms", times)
    more = min(took["numpy and feedline"]) - min(took["numpy"])
    yield summary("import", "feedline alone", "ms", [more])


# ---- growth --------------------------------------------------------------------------


class _Numbers(PyDataset):
    """As many small batches as wished."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.batches = batches

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> Any:
        return np.full(8, index)


def _growth(rounds: int) -> Iterator[Result]:
    """A thousand batches of longer and longer epochs, and beside more and more workers.

    Two batches are on their way at a time, so that workers beyond two are idle.
    """
    for who, options in _POOLS.items():
        opened = {
            f"{who}, epochs of 10^{power}": Loader(
                _Numbers(10**power), shuffle=True, seed=1, **options
            )
            for power in range(3, 8)
        }
        yield from _slices("growth with the epoch, shuffled", opened, rounds)
    for who, options in _POOLS.items():
        opened = {
            f"{who}, {idle} idle": Loader(
                _Numbers(1000), max_queue_size=2, **{**options, "workers": 2 + idle}
            )
            for idle in (0, 1, 8, 32)
        }
        yield from _slices("growth with idle workers", opened, rounds)


def _slices(row: str, opened: dict[str, Loader], rounds: int) -> Iterator[Result]:
    times: dict[str, list[float]] = {name: [] for name in opened}
    try:
        for number in range(8 * rounds + 1):
            for name, loader in opened.items():
                start = time.perf_counter()
                taken = sum(1 for _ in islice(loader, 1000))
                if number:
                    times[name].append((time.perf_counter() - start) / taken * 1e6)
    finally:
        for loader in opened.values():
            loader.close()
    for name, took in times.items():
        yield summary(row, name, "us a batch", took)


FIGURES: dict[str, Callable[[int], Iterator[Result]]] = {
    "short": _short,
    "start": _start,
    "syscalls": _syscalls,
    "faults": _faults,
    "memory": _memory,
    "import": _import,
    "growth": _growth,
}
