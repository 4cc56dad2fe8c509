"""What a worker process sets for itself."""

from __future__ import annotations

import resource

import numpy as np
import pytest

from feedline import Loader
from tests.datasets import Numbers

from .test_promises import KINDS, PROCESSES


class _Faults(Numbers):
    """How many pages of new memory a batch of 64 MB touches."""

    def __getitem__(self, index: int) -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        np.ones(2**23)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.parametrize("kind", PROCESSES)
def test_a_worker_s_large_arrays_lie_in_the_memory_of_those_before(kind: str) -> None:
    with Loader(_Faults(8), **KINDS[kind] | {"workers": 1}) as loader:
        assert min(loader) < 10


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MALLOC_TRIM_THRESHOLD_", "131072"),
        ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=131072"),
    ],
)
def test_what_the_user_chose_for_freed_memory_stands(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with Loader(_Faults(8), **KINDS["fork"] | {"workers": 1}) as loader:
        assert min(loader) >= 10
