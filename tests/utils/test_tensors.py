"""Tensors of libraries that start threads obey too, in processes of their own.

Collected only where there is such a library.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.limits import PROCESS_HANGS
from tests.utils.tensors import THREADED

HERE = Path(__file__).parent
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]


@pytest.mark.parametrize("name", THREADED)
def test_a_library_that_starts_threads_obeys_the_rules_too(name: str) -> None:
    done = subprocess.run(
        [*PYTEST, "-k", name, HERE / "test_labels.py", HERE / "test_arrays.py"],
        cwd=HERE.parents[1],
        env={**os.environ, "FEEDLINE_TENSORS": name},
        capture_output=True,
        text=True,
        timeout=PROCESS_HANGS,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
