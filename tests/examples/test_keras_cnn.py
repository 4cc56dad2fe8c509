"""Tests for examples/keras_cnn.py, on every backend that is installed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from .programs import (
    KINDS,
    accuracy,
    expect_the_same_weights,
    interrupt_after,
    run,
)

for name in ("keras", "skimage", "sklearn"):
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed", allow_module_level=True)

EXAMPLE = "keras_cnn.py"
BACKENDS = [name for name in ("torch", "jax", "tensorflow") if find_spec(name)]
# TensorFlow tells of itself.
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}

backends = pytest.mark.parametrize("backend", BACKENDS)


@backends
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_the_same_without_workers_and_with(kind: str, backend: str) -> None:
    expect_the_same_weights(
        EXAMPLE, kind, "--epochs", 2, KERAS_BACKEND=backend, **QUIET
    )


@backends
def test_five_epochs_reach_95_percent_on_the_backend_that_was_chosen(
    backend: str,
) -> None:
    done = run(EXAMPLE, "--epochs", 5, KERAS_BACKEND=backend, **QUIET)
    assert accuracy(done.stdout.splitlines()) >= 95
    assert f"\nbackend {backend}\n" in done.stdout


@backends
def test_ctrl_c_ends_it_with_one_line_and_status_130(backend: str) -> None:
    ended = interrupt_after(
        "Epoch 2/", EXAMPLE, "--epochs", 9999, KERAS_BACKEND=backend, **QUIET
    )
    assert ended == (130, "interrupted\n")


@pytest.mark.parametrize(
    ("option", "value"), [("--workers", "-1"), ("--epochs", "0"), ("--batch-size", "0")]
)
def test_wrong_numbers_are_refused_with_status_2(option: str, value: str) -> None:
    done = run(EXAMPLE, option, value)
    assert done.stderr.endswith(
        "error: epochs and batch-size must be 1 or more, workers and seed 0 or more\n"
    )
    assert done.returncode == 2
