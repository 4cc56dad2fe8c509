"""Checks that run in a process of their own, and what is heard of them.

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

__all__ = ["tell", "told"]

ROOT = Path(__file__).parents[2]


def tell(checks: Iterable[Callable[[], object]]) -> None:
    """Run the checks, or those that the command line names; print what failed."""
    wanted = sys.argv[1:]
    failures = {}
    for check in checks:
        if not wanted or check.__name__ in wanted:
            try:
                check()
                failures[check.__name__] = ""
            except Exception:  # noqa: BLE001 - told to the test that runs this
                failures[check.__name__] = traceback.format_exc()[-5000:]
    sys.stdout.write("\n" + json.dumps(failures) + "\n")  # after what a bar wrote


def told(module: str, *arguments: str, patience: float, **environment: str) -> Any:
    """Run a module of this folder; the lines of JSON that it prints.

    Args:
        module: Its name; it has a ``main``.
        *arguments: Of its command line.
        patience: Seconds until it is taken for hung.
        **environment: What it has beside this process's.
    """
    done = subprocess.run(
        # No module of it is __main__, which new processes would import, Keras with it.
        [
            sys.executable,
            "-c",
            f"from tests.loader.{module} import main; main()",
            *arguments,
        ],
        cwd=ROOT,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | environment,
        capture_output=True,
        text=True,
        timeout=patience,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{"]
