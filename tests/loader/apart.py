"""Promises that are checked in a process of their own, and what is heard of it.

A module of such checks calls :func:`tell` when it is run; a test calls :func:`told`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ROOT = Path(__file__).parents[2]
PATIENCE = 95  # seconds; above it, a hang


def tell(checks: Iterable[Callable[[], object]]) -> None:
    """Run the checks, or those of them that the command line names; print what failed."""
    wanted = sys.argv[1:]
    failures = {}
    for check in checks:
        if not wanted or check.__name__ in wanted:
            try:
                check()
                failures[check.__name__] = ""
            except Exception:  # noqa: BLE001 - told to the test that runs this
                failures[check.__name__] = traceback.format_exc()
    sys.stdout.write("\n" + json.dumps(failures) + "\n")  # after what Keras wrote


def told(module: str, *arguments: str, **environment: str) -> list[Any]:
    """Run a module of this folder; the lines of JSON that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.loader.{module}", *arguments],
        cwd=ROOT,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{"]


def expect_all_kept(
    module: str, checks: Iterable[Callable[[], object]], **environment: str
) -> None:
    """Fail with the traceback of each check that failed."""
    (failures,) = told(module, **environment)
    assert failures.keys() == {check.__name__ for check in checks}
    assert [text for text in failures.values() if text] == []
