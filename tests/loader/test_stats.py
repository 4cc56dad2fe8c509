"""Counts become a frozen picture whose shares are right."""

from __future__ import annotations

import dataclasses

import pytest

from feedline import LoaderStats
from feedline.stats import Counts


def test_a_picture_does_not_move_with_the_counts() -> None:
    counts = Counts(epochs=1, batches=5)
    picture = counts.picture(workers=2, processes=False, deaths=0)
    counts.batches += 1
    assert picture.batches == 5
    assert counts.picture(workers=2, processes=False, deaths=0).batches == 6


def test_a_picture_tells_every_count_in_seconds() -> None:
    counts = Counts(
        epochs=1, batches=2, skipped=3, retries=4, timeouts=6,
        wait=5 * 10**8, busy=2 * 10**9, elapsed=10**9,
    )  # fmt: skip
    assert counts.picture(workers=4, processes=True, deaths=5) == LoaderStats(
        epochs=1, batches=2, skipped=3, retries=4, timeouts=6, deaths=5, workers=4,
        processes=True, wait_seconds=0.5, busy_seconds=2.0, elapsed_seconds=1.0,
    )  # fmt: skip


def test_a_picture_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        LoaderStats().batches = 3  # type: ignore[misc]


def test_shares_are_parts_of_the_elapsed_time() -> None:
    stats = LoaderStats(
        workers=4, wait_seconds=0.5, busy_seconds=6.0, elapsed_seconds=2
    )
    assert stats.wait_share == pytest.approx(0.25)
    assert stats.busy_share == pytest.approx(0.75)


def test_the_calling_thread_counts_as_one_worker() -> None:
    stats = LoaderStats(workers=0, busy_seconds=1.0, elapsed_seconds=2.0)
    assert stats.busy_share == pytest.approx(0.5)


def test_before_the_first_batch_every_share_is_zero() -> None:
    assert LoaderStats().wait_share == 0.0
    assert LoaderStats(workers=3).busy_share == 0.0
    assert "0 batches" in str(LoaderStats())


@pytest.mark.parametrize(
    ("stats", "said"),
    [
        (LoaderStats(batches=3, workers=1), "1 thread worker busy"),
        (LoaderStats(batches=3, workers=2), "2 thread workers busy"),
        (LoaderStats(workers=1, processes=True), "1 process worker busy"),
        (LoaderStats(workers=2, processes=True), "2 process workers busy"),
        (LoaderStats(), "built in the calling thread"),
        (LoaderStats(skipped=2), "2 skipped"),
        (LoaderStats(retries=3), "3 tried again"),
        (LoaderStats(timeouts=2), "2 timed out"),
        (LoaderStats(deaths=4), "4 workers replaced"),
    ],
)
def test_the_text_tells_what_happened(stats: LoaderStats, said: str) -> None:
    assert said in str(stats)


def test_the_text_leaves_out_what_did_not_happen() -> None:
    said = str(LoaderStats(batches=3, workers=2))
    for word in ("skipped", "tried again", "timed out", "replaced"):
        assert word not in said
