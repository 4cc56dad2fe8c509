"""Tests for examples/jax_cnn.py. Collected only where JAX is installed."""

from __future__ import annotations

from tests.examples.program import Program, accuracy

PROGRAM = Program("jax_cnn.py")


def test_weights_are_the_same_with_every_kind_of_worker() -> None:
    PROGRAM.expect_the_same_weights("--epochs", 2)


def test_as_it_comes_it_reaches_95_percent_and_copies_no_images() -> None:
    lines = PROGRAM.print_lines()
    assert accuracy(lines) >= 95
    assert lines[-2] == "images not copied for JAX: 540 of 540 batches"


def test_ctrl_c_ends_it_with_one_line_and_status_130() -> None:
    ended = PROGRAM.interrupt_after("epoch 2: ", "--epochs", 9999)
    assert ended == (130, "interrupted\n")


def test_wrong_numbers_are_refused_with_status_2() -> None:
    assert PROGRAM.refuse("--batch-size", 0).endswith(
        "error: epochs and batch-size must be 1 or more, workers and seed 0 or more"
    )
