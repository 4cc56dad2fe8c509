"""Plays a row in a process of its own, and counts what is left when that is gone.

Every process that comes of it carries a mark in its environment, by which it is found
wherever it went: in a session of its own, or adopted by another parent.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from tests.belongings import describe
from tests.datasets import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .rows import Row

ROOT = Path(__file__).parents[2]
MARK = "FEEDLINE_FAULT"
FOLDERS = ("scene", "tmp", "shm")  # of a row; the latter two must be empty in the end
SETTLING = 3.0  # seconds that what is ending may take to end; most need none
LOADED = 5.0  # how many times slower than the bar a slow, busy machine may be
SLACK = 0.5  # seconds on top of that


@dataclass(frozen=True)
class Report:
    """What came of a row with one pool.

    Attributes:
        outcome: EXACT, CLEAN or OK as the row says, or what came instead.
        seconds: From the fault to the consumer's knowing; None if that is not measured.
        left: What was left behind.
        detail: Of what went wrong.
    """

    outcome: str
    seconds: float | None
    left: tuple[str, ...]
    detail: str


def allowed(row: Row) -> float:
    """Seconds to notice at the most, on a slow machine that is busy with other tests."""
    return row.within * LOADED + SLACK


def judge(module: str, row: Row, pool: str) -> Report:
    """Play a row of a module with one pool."""
    named = names()
    mark = uuid.uuid4().hex
    # No feedline in the name: what the loader leaves in there is looked for by that.
    with tempfile.TemporaryDirectory(prefix="fault-") as place:
        folder, temporary, shared = (Path(place, name) for name in FOLDERS)
        for own in (folder, temporary, shared):
            own.mkdir()
        verdict = Path(place, "verdict.json")
        said: dict[str, Any] = {"outcome": "HANG", "seconds": None, "left": []}
        with process(
            [module, row.name, pool, str(folder), str(verdict), str(shared)],
            environment={MARK: mark, "TMPDIR": str(temporary)},
            output=Path(place, "output"),
        ) as child:
            try:
                code = child.wait(timeout=row.limit)
                said["outcome"] = f"ENDED with {code}"
            except subprocess.TimeoutExpired:
                said["detail"] = stacks(mark)
        if verdict.exists():
            said = json.loads(verdict.read_text())
        left = [*said["left"], *leftovers(mark, (temporary, shared), named)]
        end_all(mark)
        output = Path(place, "output").read_bytes()[-3000:].decode(errors="replace")
        detail = "\n".join(filter(None, [said.get("detail"), output]))
        return Report(said["outcome"], said["seconds"], tuple(left), detail)


@contextmanager
def process(
    arguments: list[str], *, environment: dict[str, str], output: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """The child, in a session of its own; killed at the end if it is still there."""
    with (
        output.open("wb") as out,
        subprocess.Popen(
            # The child's module is not __main__, which spawned workers would import.
            [
                sys.executable,
                "-c",
                "from tests.faults.child import main; main()",
                *arguments,
            ],
            cwd=ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as child,
    ):
        try:
            yield child
        finally:
            child.kill()


def leftovers(
    mark: str, folders: tuple[Path, Path], named: frozenset[str]
) -> list[str]:
    """What is left of a child that has ended, when it had time to go."""
    deadline = time.monotonic() + SETTLING
    while True:
        left = [f"process {describe(pid)}" for pid in marked(mark)]
        left += [
            f"{path.parent.name}/{path.name}" for f in folders for path in f.iterdir()
        ]
        left += [f"/dev/shm/{name}" for name in names() - named]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.01)


def names() -> frozenset[str]:
    """What the loader has under a name that the whole system sees."""
    return frozenset(name for name in os.listdir("/dev/shm") if "feedline" in name)


def marked(mark: str) -> list[int]:
    """Processes that come of one child, itself included."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for pid in psutil.pids():
        with suppress(OSError):
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(pid)
    return found


def end_all(mark: str) -> None:
    """Kill whatever is left, until nothing is."""

    def none_is_left() -> bool:
        pids = marked(mark)
        for pid in pids:
            with suppress(psutil.Error):
                psutil.Process(pid).kill()
        return not pids

    wait_until(none_is_left, "what a row left is killed")


def stacks(mark: str) -> str:
    """Which processes hang, and in which system call."""
    said = []
    for pid in marked(mark):
        with suppress(OSError):
            where = Path(f"/proc/{pid}/wchan").read_text()
            said.append(f"{describe(pid)} waits in {where}")
    return "\n".join(said)
