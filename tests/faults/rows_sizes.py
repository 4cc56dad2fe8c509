"""Batches of every size and type, and what the consumer does with them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

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

    from feedline import PyDataset

    from .scene import Scene

LARGE = int(os.environ.get("FEEDLINE_EXAMPLES", "1")) > 1

GIANT = 1_500_000_000 if LARGE else 200_000_000  # bytes of a batch

KEPT = 20_000  # numbers of 8 bytes in a batch that is kept


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
    import torch

    made = torch_batches()
    arrived = expect_all(
        scene, made, OddBatches(with_torch=True), same_tensors, workers=1
    )
    assert arrived["channels last"].is_contiguous(memory_format=torch.channels_last)
    arrived["float64"].mul_(2)
    assert torch.equal(arrived["float64"], made["float64"] * 2)


def expect_all(
    scene: Scene,
    made: dict[str, Any],
    dataset: PyDataset,
    alike: Callable[[Any, Any], bool],
    workers: int = 2,
) -> dict[str, Any]:
    with scene.loader(dataset, workers=workers) as loader:
        scene.strike()
        arrived = list(loader)
        scene.notice()
    assert [name for name, _ in arrived] == list(made)
    assert [name for name, got in arrived if not alike(got, made[name])] == []
    return dict(arrived)


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
