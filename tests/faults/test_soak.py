"""The soak's short form: random kills, every batch right, nothing left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .soak import soak

if TYPE_CHECKING:
    from feedline.options import StartMethod


@pytest.mark.parametrize(
    ("start_method", "kills"), [("fork", 40), ("forkserver", 4), ("spawn", 4)]
)
def test_every_batch_is_right_while_workers_are_killed_at_random(
    start_method: StartMethod, kills: int
) -> None:
    summary = soak(start_method, workers=2, kills=kills, seed=1)
    assert summary.kills >= kills
    assert summary.left_behind == []
