"""What is hard to send: to workers when they start, and back in batches."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Never

import numpy as np

from feedline import BatchEncodingError, DatasetEncodingError, PyDataset
from tests.datasets import (
    Blocks,
    Numbers,
    OddBatches,
    block,
    odd_batches,
    torch_batches,
)
from tests.likeness import same, same_tensors

from .rows import EVERYWHERE, POOLS, row
from .scene import Lost, check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .scene import Scene

LARGE = int(os.environ.get("FEEDLINE_EXAMPLES", "1")) > 1
GIANT = 1_500_000_000 if LARGE else 300_000_000  # bytes of a batch
KEPT = 20_000  # numbers of 8 bytes in a batch that is kept


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
        loader.close()
    assert scene.strikes <= 2 * 2, "a restart loop"


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
    pools=EVERYWHERE,
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


class Giants(Numbers):
    """Batches of very many bytes, of which each is known by its number."""

    def __getitem__(self, index: int) -> Any:
        return np.full(GIANT // 4, index, np.int32)


@row(
    "3 batches of 1.5 GB",
    bar="exact; at least 2x torch's speed; memory given back",
    pools=POOLS,
    peers="EXACT | EXACT | EXACT | EXACT | EXACT",
    within=30.0,
    limit=60.0,
)
def giants(scene: Scene) -> None:
    with scene.loader(Giants(3), max_queue_size=2) as loader:
        scene.strike()
        for due, batch in enumerate(loader):
            assert batch.nbytes == GIANT
            if batch.min() != due or batch.max() != due:
                raise Lost(f"batch {due} holds {batch.min()} to {batch.max()}")
            del batch
        assert due == 2
        scene.notice()


@row(
    "100,000 batches of 8 bytes",
    bar="under 4 s",
    pools=POOLS,
    peers="EXACT | POOR | POOR | EXACT | EXACT",
    within=4.0,
    limit=40.0,
)
def flood(scene: Scene) -> None:
    with scene.loader(Numbers(100_000), max_queue_size=100) as loader:
        for _ in loader:
            break  # the workers are there
        scene.strike()
        assert list(loader) == list(range(100_000))
        scene.notice()


@row(
    "items 3 and 7 are None",
    bar="delivered in place as None",
    pools=EVERYWHERE,
    peers="HANG | EXACT | EXACT | LOSS | EXACT",
)
def nones(scene: Scene) -> None:
    class Nones(Numbers):
        def __getitem__(self, index: int) -> Any:
            if index in (3, 7):
                scene.strike()
                return None
            return index

    with scene.loader(Nones(20)) as loader:
        assert list(loader) == [None if i in (3, 7) else i for i in range(20)]
        scene.notice()


@row(
    "55 unusual types (numpy of every kind, strings, namedtuples, dataclasses, ...)",
    bar="all identical to inline delivery, or a clear refusal for what cannot travel",
    pools=POOLS,
    peers="POOR | HANG | HANG | POOR | OK",
)
def numpy_types(scene: Scene) -> None:
    expect_all(scene, odd_batches(), OddBatches(with_torch=False), same)


@row(
    "... and 23 of torch's (dtypes, layouts, sparse, parameters, ...)",
    bar="the same",
    pools=POOLS,
    peers="POOR | HANG | HANG | POOR | OK",
    needs=("torch",),
    memory=64 * 2**20,
    within=4.0,  # a new process imports torch
)
def torch_types(scene: Scene) -> None:
    expect_all(scene, torch_batches(), OddBatches(with_torch=True), same_tensors)


def expect_all(
    scene: Scene,
    made: dict[str, Any],
    dataset: PyDataset,
    alike: Callable[[Any, Any], bool],
) -> None:
    with scene.loader(dataset) as loader:
        scene.strike()
        arrived = list(loader)
        scene.notice()
    assert [name for name, _ in arrived] == list(made)
    assert [name for name, got in arrived if not alike(got, made[name])] == []


@row(
    "every batch kept, checked after the epoch, a second epoch and close",
    bar="intact",
    pools=EVERYWHERE,
    peers="EXACT | EXACT | EXACT | EXACT | EXACT",
)
def kept(scene: Scene) -> None:
    with scene.loader(Blocks(30, KEPT), max_queue_size=5) as loader:
        scene.strike()
        batches = list(loader)
        parts = [array[7:9] for _, array in batches]  # a part keeps the whole alive
        expect_intact(batches)
        expect_intact(loader)
        expect_intact(batches)
    expect_intact(batches)
    del batches
    assert [part.tolist() for part in parts] == [
        block(index, KEPT)[7:9].tolist() for index in range(30)
    ]
    scene.notice()


def expect_intact(batches: Iterable[Any]) -> None:
    for due, batch in enumerate(batches):
        check(batch, due)
    assert due == 29


@row(
    "consumer writes into each batch",
    bar="second epoch unaffected",
    pools=EVERYWHERE,
    peers="EXACT | EXACT | EXACT | EXACT | EXACT",
)
def written(scene: Scene) -> None:
    with scene.loader(Blocks(30, KEPT), max_queue_size=3) as loader:
        for _ in range(3):
            for due, batch in enumerate(loader):
                check(batch, due)
                scene.strike()
                batch[1][:] = -1
            assert due == 29
        scene.notice()


@row(
    "a batch's pickle is 20 MB (1,000 times a pipe's buffer)",
    bar="exact",
    pools=EVERYWHERE,
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

    with scene.loader(Blocks(20), worker_init_fn=wait) as loader:
        scene.expect_blocks(loader)
        scene.gate.await_arrival("ready")  # and there it has waited all the time
        scene.gate.let_all()
