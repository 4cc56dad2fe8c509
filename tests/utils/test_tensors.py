"""Tensors of libraries that start threads obey too, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.utils.tensors import THREADED

HERE = Path(__file__).parent
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]


def test_libraries_that_start_threads_obey_the_rules_too() -> None:
    for name in THREADED:
        done = subprocess.run(
            [*PYTEST, "-k", name, HERE / "test_labels.py", HERE / "test_arrays.py"],
            cwd=HERE.parents[1],
            env={**os.environ, "FEEDLINE_TENSORS": name},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        assert "passed" in done.stdout
