"""Many times over: descriptors, threads, processes and memory stay what they were."""

from __future__ import annotations

import os
from typing import Any

import pytest

from feedline import Loader
from tests import datasets

from .growth import expect_no_growth

KINDS: dict[str, dict[str, Any]] = {
    "inline": {"workers": 0},
    "thread": {"workers": 2},
    "fork": {"workers": 2, "use_multiprocessing": True, "start_method": "fork"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_20_exceptions_grow_nothing(kind: str) -> None:
    def fail() -> None:
        with pytest.raises(ValueError, match="outer"):
            list(loader)

    with Loader(datasets.Raises(5, "chained"), **KINDS[kind]) as loader:
        expect_no_growth(fail, times=20)
        loader.dataset.at = 99
        assert list(loader) == list(range(8))


def test_epochs_that_change_a_large_array_hold_no_more_than_a_few_states() -> None:
    large = 500_000
    with Loader(datasets.Stateful(4, large=large), **KINDS["fork"]) as loader:
        list(loader)
        expect_no_growth(lambda: list(loader), times=20)
        pool: Any = loader._pool
        used = os.fstat(pool._dispatch.crew.slots.arena.fd).st_blocks * 512
        # The one in use, the one that is written next, and what batches need.
        assert used < 3 * large * 8 + 2 * 2**20
