"""Tests for examples/jax_cnn.py. Collected only where JAX is installed."""

from __future__ import annotations

from tests.examples.program import Program, accuracy

PROGRAM = Program("jax_cnn.py")


def test_eight_epochs_reach_95_percent_and_the_same_weights_with_every_kind_of_worker() -> (
    None
):
    printed = PROGRAM.expect_the_same_weights("--epochs", 8)
    assert accuracy(printed["2 processes"]) >= 95
    # Only what worker processes build is sure to lie as JAX wants it.
    told = "images not copied for JAX: 360 of 360 batches"
    assert printed["2 processes"][-2] == told


def test_ctrl_c_ends_it_with_one_line_and_status_130() -> None:
    ended = PROGRAM.interrupt_after("epoch 2: ", "--epochs", 9999)
    assert ended == (130, "interrupted\n")


def test_wrong_numbers_are_refused_with_status_2() -> None:
    assert PROGRAM.refuse("--batch-size", 0).endswith(
        "error: epochs and batch-size must be 1 or more, workers and seed 0 or more"
    )
