"""Tests for examples/keras_cnn.py, on every backend that is installed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.examples.program import Program, accuracy

for name in ("keras", "skimage", "sklearn"):
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed", allow_module_level=True)

BACKENDS = [name for name in ("torch", "jax", "tensorflow") if find_spec(name)]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def program(backend: str) -> Program:
    # TensorFlow tells of itself.
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
    return Program("keras_cnn.py", KERAS_BACKEND=backend, **quiet)


def test_five_epochs_reach_95_percent_and_the_same_weights_with_every_kind_of_worker(
    program: Program, backend: str
) -> None:
    lines = program.expect_the_same_weights("--epochs", 5)["2 processes"]
    assert accuracy(lines) >= 95
    assert f"backend {backend}" in lines


def test_ctrl_c_ends_it_with_one_line_and_status_130(program: Program) -> None:
    ended = program.interrupt_after("Epoch 2/", "--epochs", 9999)
    assert ended == (130, "interrupted\n")


def test_wrong_numbers_are_refused_with_status_2() -> None:
    assert (
        Program("keras_cnn.py")
        .refuse("--epochs", 0)
        .endswith(
            "error: epochs and batch-size must be 1 or more, workers and seed 0 or more"
        )
    )
