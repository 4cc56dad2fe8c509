"""Where JAX is in use, it computes on the memory that workers wrote, and nothing forks.

Collected only where JAX is installed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.limits import PROCESS_HANGS

LENGTH = 6


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    done = subprocess.run(
        # No module of it is __main__, which new processes would import.
        [sys.executable, "-c", "from tests.loader.jax_runs import main; main()"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=PROCESS_HANGS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(
    "batches",
    [
        "float32", "float16", "int32", "uint8", "bool", "in place",
        "4096 bytes",
    ],
)  # fmt: skip
def test_device_put_shares_the_memory_that_a_worker_process_wrote(
    found: dict[str, Any], batches: str
) -> None:
    assert found[batches] == [True] * LENGTH


def test_device_put_shares_every_array_of_a_nested_batch(found: dict[str, Any]) -> None:
    assert found["nested"] == [True] * 3 * LENGTH


@pytest.mark.parametrize("batches", ["float64", "int64", "fortran"])
def test_what_jax_holds_otherwise_is_copied(
    found: dict[str, Any], batches: str
) -> None:
    assert found[batches] == [False] * LENGTH


@pytest.mark.parametrize("way", ["inline", "threads", "processes"])
def test_an_array_made_by_empty_is_shared_with_every_kind_of_worker(
    found: dict[str, Any], way: str
) -> None:
    assert found[f"in place {way}"] == [True] * LENGTH


def test_memory_that_jax_shares_is_not_written_again_while_jax_has_it(
    found: dict[str, Any],
) -> None:
    assert found["kept"] == [[0, 1, 2, 3, 4, 5]] * 2


def test_computation_under_way_keeps_the_batch_that_it_reads(
    found: dict[str, Any],
) -> None:
    assert found["dispatched"] == [0, 1, 2, 3, 4, 5] * 2


def test_processes_start_by_forkserver_and_it_is_said_once(
    found: dict[str, Any],
) -> None:
    started = found["started"]
    assert started["methods"] == ["forkserver"] * 2
    assert started["seen"] == [[0, 1, 2, 3, 4, 5]] * 2
    assert len(started["said"]) == 1
    assert "forkserver, because JAX is in use" in started["said"][0]


def test_a_start_method_that_is_given_is_kept(found: dict[str, Any]) -> None:
    assert found["started"]["asked for"] == "fork"
