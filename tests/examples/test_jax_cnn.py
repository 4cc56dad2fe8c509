"""Tests for examples/jax_cnn.py. Collected only where JAX is installed."""

from __future__ import annotations

from .programs import (
    accuracy,
    expect_the_loaders_named,
    interrupt_after,
    run,
    train_in_every_way,
    weights,
)

EXAMPLE = "jax_cnn.py"


def test_every_kind_of_worker_trains_to_the_same_weights() -> None:
    printed = train_in_every_way(EXAMPLE, "--epochs", 2)
    expect_the_loaders_named(printed)
    assert len(set(map(weights, printed.values()))) == 1, printed


def test_as_it_comes_it_reaches_95_percent_and_copies_no_images() -> None:
    lines = run(EXAMPLE).stdout.splitlines()
    assert accuracy(lines) >= 95
    assert lines[-2] == "images not copied for JAX: 540 of 540 batches"


def test_other_seed_gives_other_weights() -> None:
    first, second = (
        weights(
            run(EXAMPLE, "--epochs", 1, "--threads", "--seed", seed).stdout.split("\n")
        )
        for seed in (1, 2)
    )
    assert first != second


def test_ctrl_c_ends_it_with_one_line_and_status_130() -> None:
    ended = interrupt_after("epoch 2: ", EXAMPLE, "--epochs", 9999)
    assert ended == (130, "interrupted\n")


def test_wrong_numbers_are_refused_with_status_2() -> None:
    done = run(EXAMPLE, "--batch-size", 0)
    assert done.stderr.endswith(
        "error: epochs and batch-size must be 1 or more, workers and seed 0 or more\n"
    )
    assert done.returncode == 2
