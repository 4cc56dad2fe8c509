"""Tests for examples/jax_cnn.py. Collected only where JAX is installed."""

from __future__ import annotations

import pytest

from .programs import (
    KINDS,
    accuracy,
    expect_the_same_weights,
    interrupt_after,
    run,
)

EXAMPLE = "jax_cnn.py"


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_the_same_without_workers_and_with(kind: str) -> None:
    expect_the_same_weights(EXAMPLE, kind, "--epochs", 2)


def test_as_it_comes_it_reaches_95_percent_and_copies_no_images() -> None:
    lines = run(EXAMPLE).stdout.splitlines()
    assert accuracy(lines) >= 95
    assert lines[-2] == "images not copied for JAX: 540 of 540 batches"


def test_ctrl_c_ends_it_with_one_line_and_status_130() -> None:
    ended = interrupt_after("epoch 2: ", EXAMPLE, "--epochs", 9999)
    assert ended == (130, "interrupted\n")


def test_wrong_numbers_are_refused_with_status_2() -> None:
    done = run(EXAMPLE, "--batch-size", 0)
    assert done.stderr.endswith(
        "error: epochs and batch-size must be 1 or more, workers and seed 0 or more\n"
    )
    assert done.returncode == 2
