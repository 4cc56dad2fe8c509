"""Which tests of the engine there are, where a framework is missing; what they share."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from feedline.arena import Arena

if TYPE_CHECKING:
    from collections.abc import Iterator

# Not skipped but left out: where everything is installed, a skip is a failure.
collect_ignore = []
if not (find_spec("lightning") and find_spec("accelerate")):
    collect_ignore.append("test_training_loops.py")
if not find_spec("jax"):
    collect_ignore.append("test_jax.py")


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each ``os.write`` of this process is given, from now on."""
    sizes: list[int] = []
    write = os.write

    def noting(fd: int, data: bytes) -> int:
        sizes.append(len(data))
        return write(fd, data)

    monkeypatch.setattr("os.write", noting)
    return sizes


@pytest.fixture(params=["anonymous", "file"])
def arena(request: pytest.FixtureRequest) -> Iterator[Arena]:
    """Shared memory, of both kinds."""
    made = Arena.create(anonymous=request.param == "anonymous")
    yield made
    made.close()
