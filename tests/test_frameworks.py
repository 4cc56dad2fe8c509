"""Datasets written for another framework run in a ``Loader`` as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from feedline import Loader

WAYS: dict[str, dict[str, Any]] = {
    "inline": {"workers": 0},
    "thread": {"workers": 2, "use_multiprocessing": False},
    "fork": {"workers": 2, "use_multiprocessing": True},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_keras_dataset_runs_unchanged_hooks_included(way: str) -> None:
    base: Any = pytest.importorskip("keras").utils.PyDataset

    class Counting(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(workers=3, use_multiprocessing=True, max_queue_size=4)
            self.epoch = 0

        @property
        def num_batches(self) -> int:
            return 5

        def on_epoch_begin(self) -> None:
            self.epoch += 1

        def __getitem__(self, index: int) -> Any:
            return np.full((2, 3), index), self.epoch

    dataset = Counting()
    assert Loader(dataset).options.workers == 3
    assert Loader(dataset).options.processes
    assert Loader(dataset).options.max_queue_size == 4
    with Loader(dataset, **WAYS[way]) as loader:
        for epoch in (1, 2):
            seen = [(int(x[0, 0]), number) for x, number in loader]
            assert seen == [(index, epoch) for index in range(5)]


@pytest.mark.parametrize("way", WAYS)
def test_a_torch_dataset_of_batches_runs_unchanged(way: str) -> None:
    torch = pytest.importorskip("torch")
    base: Any = torch.utils.data.Dataset

    class Rows(base):  # type: ignore[misc]
        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> Any:
            return {"x": torch.full((2, 2000), float(index)), "y": torch.tensor(index)}

    with Loader(Rows(), **WAYS[way]) as loader:
        for index, batch in enumerate(loader):
            assert torch.equal(batch["x"], torch.full((2, 2000), float(index)))
            assert batch["y"].dtype == torch.int64
            assert int(batch["y"]) == index
