"""Workers that the kernel ends for want of memory, and workers that something else ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from feedline import WorkerDiedError
from tests import datasets
from tests.datasets import PATIENCE

from .groups import groups_can_be_made, memory_group
from .test_death import fork

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT = (
    160_000_000  # bytes, of a group; a process without frameworks needs a third of it
)

TRIES = 6

PROGRAM = """
import os, sys
from pathlib import Path
from feedline import Loader, WorkerDiedError
from tests.faults.test_memory import Hungry

if __name__ == "__main__":
    group, method = sys.argv[1:]
    (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
    with Loader(
        Hungry(8), workers=2, use_multiprocessing=True, start_method=method
    ) as loader:
        batches = iter(loader)
        assert [next(batches) for _ in range(3)] == [0, 1, 2]
        try:
            next(batches)
        except WorkerDiedError as error:
            assert error.oom_killed is True
            print(error)
        loader.dataset.index = 99
        assert list(loader) == list(range(8))
"""


class Hungry(datasets.Numbers):
    """One batch takes all the memory that it can get."""

    index = 3

    def __getitem__(self, index: int) -> Any:
        if index == self.index:
            # It is this process that the kernel is to choose, not the one that judges.
            Path("/proc/self/oom_score_adj").write_text("1000")
            held = [bytearray(b"x") * 10_000_000 for _ in range(100)]
            del held
        return index


def run_with_little_memory(
    script: Path, method: str
) -> subprocess.CompletedProcess[str]:
    with memory_group(LIMIT) as group:
        return subprocess.run(
            [sys.executable, str(script), str(group), method],
            cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, timeout=PATIENCE, text=True,
            capture_output=True, check=False,
        )  # fmt: skip


if groups_can_be_made():

    @pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
    def test_a_worker_that_the_kernel_ended_for_want_of_memory_is_said_to_be_one(
        method: str, tmp_path: Path
    ) -> None:
        script = tmp_path / "program.py"
        script.write_text(PROGRAM)
        for _ in range(TRIES):
            done = run_with_little_memory(script, method)
            if done.returncode != -signal.SIGKILL:
                break  # else the kernel chose the program itself, which proves nothing
        assert done.returncode == 0, done.stderr
        assert "batch 3 ended its worker process 3 times" in done.stdout
        assert (
            "SIGKILL (signal 9); the kernel's out-of-memory killer did it: lower"
            in (done.stdout)
        )
        assert ("its memory peaked at" in done.stdout) == (method != "forkserver")
        assert ("of memory are available" in done.stdout) == (method == "forkserver")
        assert "try 1 of 3: it was killed by SIGKILL" in done.stderr

    def test_a_kill_that_came_from_elsewhere_is_not_laid_to_the_kernel(
        tmp_path: Path,
    ) -> None:
        dataset = datasets.Dies(tmp_path, "SIGKILL", times=99)
        with fork(dataset) as loader, pytest.raises(WorkerDiedError) as caught:
            list(loader)
        assert caught.value.oom_killed is False
        assert "did not do it: something else sent SIGKILL" in str(caught.value)
        assert "its memory peaked at" in caught.value.memory
