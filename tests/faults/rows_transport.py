"""What is hard to send: to workers when they start, and back in batches."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Never

from feedline import BatchEncodingError, DatasetEncodingError
from tests.datasets import (
    Blocks,
)

from .rows import POOLS, row
from .scene import Lost, check

if TYPE_CHECKING:
    from collections.abc import Callable

    from .scene import Scene


class Instead(Blocks):
    """Blocks, in place of one of which comes what a function makes."""

    def __init__(
        self, scene: Scene, make: Callable[[], Any], length: int = 20, at: int = 7
    ) -> None:
        super().__init__(length)
        self.scene = scene
        self.make = make
        self.at = at

    def __getitem__(self, index: int) -> Any:
        if index != self.at:
            return super().__getitem__(index)
        self.scene.strike()
        return self.make()


class Locked(Blocks):
    """Holds a lock."""

    def __init__(self) -> None:
        super().__init__(20)
        self.lock = threading.Lock()

    def __getitem__(self, index: int) -> Any:
        with self.lock:
            return super().__getitem__(index)


class Unloadable(Blocks):
    """Raises where it is put together."""

    def __init__(self, scene: Scene, *, fails: bool) -> None:
        super().__init__(20)
        self.scene = scene
        self.fails = fails

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.fails:
            self.scene.strike(times=99)
            raise ArithmeticError("the index of the data is damaged")


@row(
    "dataset holds a lock",
    bar="fork works; spawn and forkserver: one clear error that names the attribute",
    pools=("threads", "fork"),
    peers="EXACT | EXACT | EXACT | CLEAN | CLEAN",
)
def dataset_holds_a_lock(scene: Scene) -> None:
    with scene.loader(Locked()) as loader:
        for _ in range(2):
            scene.strike()
            scene.expect_blocks(loader)


@row(
    "... and workers do not inherit it",
    bar="DatasetEncodingError at the start, once: `dataset.lock is of type 'lock'`",
    outcome="CLEAN",
    pools=("forkserver", "spawn"),
)
def lock_cannot_be_sent(scene: Scene) -> None:
    dataset: Any = Locked()
    with scene.loader(dataset) as loader:
        scene.strike()
        scene.expect_error(
            loader, DatasetEncodingError, r"dataset\.lock is of type 'lock'", at=0
        )
        dataset.lock = Switch()
        scene.expect_blocks(loader)


class Switch:
    """A lock that can be sent."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        pass


@row(
    "unpickling in the worker raises",
    bar="one clear error, no restart loop",
    outcome="CLEAN",
    peers="EXACT | EXACT | EXACT | CLEAN 0.5s | CLEAN 0.0s",
)
def unpickling_raises(scene: Scene) -> None:
    dataset = Unloadable(scene, fails=False)
    with scene.loader(dataset) as loader:
        if scene.pool == "fork":
            scene.expect_blocks(loader, at=99)  # what is forked is not unpickled
        dataset.fails = True
        error = scene.expect_error(loader, ArithmeticError, "is damaged", at=0)
        assert any("worker" in note for note in error.__notes__), error.__notes__
        assert loader.stats().deaths == 0
    # Each batch that was asked for tries it in a forked worker, a new one only once.
    assert scene.strikes <= (12 if scene.pool == "fork" else 2), "a restart loop"


@row(
    "a start-up of workers that is slow in one and quick in the other",
    bar="exact; the quick one builds meanwhile",
    pools=POOLS,
)
def slow_start(scene: Scene) -> None:
    def wait(worker: int) -> None:
        if worker == 0:
            scene.strike()
            scene.gate.pass_through("ready")
        else:
            scene.gate.await_arrival("ready")

    with scene.loader(Blocks(20), worker_init_fn=wait) as loader:
        scene.expect_blocks(loader)
        scene.gate.let_all()


@row(
    "batch 7 holds a lock",
    bar="at batch 7, after batches 0-6: BatchEncodingError naming index, the path inside "
    "the batch and the type",
    outcome="CLEAN",
    peers="CLEAN 0.1s | HANG | HANG | LOSS | CLEAN 0.0s",
)
def batch_holds_a_lock(scene: Scene) -> None:
    expect_refusal(
        scene,
        lambda: {"fine": 1, "held": [0, threading.Lock()]},
        r"^batch 7 .*: batch\['held'\]\[1\] is of type 'lock'",
    )


@row(
    "batch 7 holds a generator",
    bar="at batch 7, after batches 0-6: BatchEncodingError",
    outcome="CLEAN",
    peers="CLEAN 0.1s | HANG | HANG | LOSS | CLEAN 0.0s",
)
def batch_holds_a_generator(scene: Scene) -> None:
    expect_refusal(
        scene,
        lambda: {"x": (number for number in range(3))},
        r"^batch 7 .*: batch\['x'\] is of type 'generator'",
    )


def expect_refusal(scene: Scene, make: Callable[[], Any], words: str) -> None:
    """In each of two epochs; then the loader goes on."""
    dataset = Instead(scene, make)
    with scene.loader(dataset) as loader:
        for _ in range(2):
            scene.expect_error(loader, BatchEncodingError, words)
        dataset.at = 99
        scene.expect_blocks(loader)


@row(
    "batch 7 holds a lambda",
    bar="delivered (cloudpickle)",
    pools=POOLS,
    peers="CLEAN 0.1s | HANG | HANG | LOSS | EXACT",
)
def batch_holds_a_lambda(scene: Scene) -> None:
    with scene.loader(Instead(scene, lambda: (7, lambda: 42))) as loader:
        for due, (index, content) in enumerate(loader):
            if due == 7:
                scene.notice()
                assert (index, content()) == (7, 42)
            else:
                check((index, content), due)


class Undecodable:
    """Raises when it is put together."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def __reduce__(self) -> Any:
        return refuse, (self.scene,)


def refuse(scene: Scene) -> Never:
    scene.strike(times=99)
    raise ArithmeticError("cannot be put together")


class Unencodable(Undecodable):
    """Raises when it is taken apart."""

    def __reduce__(self) -> Any:
        refuse(self.scene)


@row(
    "batch 7 raises when decoded in the parent",
    bar="at batch 7, after batches 0-6: that error, naming index; the loader stays usable",
    outcome="CLEAN",
    peers="HANG | CLEAN 0.0s | CLEAN 0.0s | CLEAN 0.3s | CLEAN 0.0s",
)
def decoding_raises(scene: Scene) -> None:
    expect_own_error(scene, lambda: (7, Undecodable(scene)), "put together in the main")


@row(
    "a batch raises while it is encoded in the worker",
    bar="at its position: that error, naming index; the loader stays usable",
    outcome="CLEAN",
    peers="CLEAN 0.1s | HANG | HANG | LOSS | CLEAN 0.0s",
)
def encoding_raises(scene: Scene) -> None:
    expect_own_error(scene, lambda: (7, Unencodable(scene)), "was encoded")


def expect_own_error(scene: Scene, make: Callable[[], Any], note: str) -> None:
    """What the batch raises, with a note that names it, in each of two epochs."""
    dataset = Instead(scene, make)
    with scene.loader(dataset) as loader:
        for epoch in range(2):
            error = scene.expect_error(
                loader, ArithmeticError, "cannot be put together"
            )
            told = [line for line in error.__notes__ if note in line]
            assert f"batch 7 of epoch {epoch}" in told[0], error.__notes__
        dataset.at = 99
        scene.expect_blocks(loader)


@row(
    "a batch's pickle is 20 MB (1,000 times a pipe's buffer)",
    bar="exact",
    pools=POOLS,
)
def long_pickle(scene: Scene) -> None:
    text = "0123456789" * 2_000_000
    with scene.loader(Instead(scene, lambda: (7, text))) as loader:
        for due, (index, content) in enumerate(loader):
            if due == 7:
                scene.notice()
                assert index == 7
                if content != text:
                    raise Lost("another text arrived")
            else:
                check((index, content), due)
