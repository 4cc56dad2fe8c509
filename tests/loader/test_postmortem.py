"""What is found out about a worker's end, from files like those of the kernel."""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING

import pytest

from feedline.postmortem import (
    OomKills,
    WorkerEnd,
    memory_left,
    memory_peak,
    peak_of_children,
)

if TYPE_CHECKING:
    from pathlib import Path

KILLED = -signal.SIGKILL
OURS = "jobs/7"
# By version of control groups: what the kernel says of our group and of where such groups
# are mounted, and the name of the file in which it counts.
VERSIONS = {
    "v1": (
        "9:cpu:/elsewhere\n4:memory,hugetlb:/jobs/7\n0::/unified\n",
        "30 1 0:2 / {point} rw shared:5 - cgroup cgroup rw,hugetlb,memory\n",
        "memory.oom_control",
    ),
    "v1 in a container": (
        "4:memory:/host/9/jobs/7\n",
        "30 1 0:2 /host/9 {point} rw - cgroup cgroup rw,memory\n",
        "memory.oom_control",
    ),
    "v2": (
        "0::/jobs/7\n",
        "30 1 0:2 / {point} rw - cgroup2 cgroup2 rw,nsdelegate\n",
        "memory.events",
    ),
}


class Kernel:
    """A folder for /proc/self, and one for the groups."""

    def __init__(self, folder: Path, version: str) -> None:
        groups, mounts, name = VERSIONS[version]
        self.proc = folder / "proc"
        self.proc.mkdir()
        self.counter = folder / "groups" / OURS / name
        self.counter.parent.mkdir(parents=True)
        (self.proc / "cgroup").write_text(groups)
        other = "29 1 0:1 / /proc rw - proc proc rw\n"
        point = folder / "groups"
        (self.proc / "mountinfo").write_text(other + mounts.format(point=point))
        self.count(0)

    def count(self, kills: int) -> None:
        self.counter.write_text(f"low 0\noom 9\noom_kill {kills}\noom_group_kill 5\n")


@pytest.fixture(params=VERSIONS)
def kernel(request: pytest.FixtureRequest, tmp_path: Path) -> Kernel:
    return Kernel(tmp_path, request.param)


def test_a_kill_that_the_kernel_counted_explains_one_end(kernel: Kernel) -> None:
    kernel.count(3)
    kills = OomKills(kernel.proc)
    kernel.count(4)
    assert kills.explain(KILLED) is True
    assert kills.explain(KILLED) is False


def test_two_kills_explain_two_ends_though_they_are_heard_one_by_one(
    kernel: Kernel,
) -> None:
    kills = OomKills(kernel.proc)
    kernel.count(2)
    assert [kills.explain(KILLED) for _ in range(3)] == [True, True, False]


def test_a_count_that_stands_still_says_that_something_else_did_it(
    kernel: Kernel,
) -> None:
    kernel.count(5)
    assert OomKills(kernel.proc).explain(KILLED) is False


@pytest.mark.parametrize("exitcode", [0, 1, -signal.SIGSEGV, -signal.SIGTERM])
def test_another_end_than_sigkill_is_not_explained_and_uses_no_kill_up(
    kernel: Kernel, exitcode: int
) -> None:
    kills = OomKills(kernel.proc)
    kernel.count(1)
    assert kills.explain(exitcode) is None
    assert kills.explain(KILLED) is True


@pytest.mark.parametrize(
    "text", ["", "oom_kill_disable 0\nunder_oom 0\n", "oom_kill\n", "oom_kill x\n"]
)
def test_a_kernel_that_does_not_count_leaves_it_open(kernel: Kernel, text: str) -> None:
    kernel.counter.write_text(text)
    assert OomKills(kernel.proc).explain(KILLED) is None


def test_a_counter_that_is_gone_leaves_it_open(kernel: Kernel) -> None:
    kills = OomKills(kernel.proc)
    kernel.counter.unlink()
    assert kills.explain(KILLED) is None


@pytest.mark.parametrize(
    "mounts",
    [
        "",
        "30 1 0:2 / /nowhere rw - tmpfs tmpfs rw\n",
        "30 1 0:2 /another {point} rw - cgroup2 cgroup2 rw\n",
        "31 1 0:2 /another {point} rw - cgroup cgroup rw,memory\n",
    ],
    ids=["none", "no groups", "another's of v2", "another's of v1"],
)
def test_where_our_group_is_not_mounted_it_stays_open(
    kernel: Kernel, mounts: str
) -> None:
    point = kernel.counter.parent
    (kernel.proc / "mountinfo").write_text(mounts.format(point=point))
    assert OomKills(kernel.proc).explain(KILLED) is None


def test_a_system_without_proc_leaves_it_open(tmp_path: Path) -> None:
    assert OomKills(tmp_path / "none").explain(KILLED) is None


def test_the_files_of_this_system_are_read_without_an_error() -> None:
    assert OomKills().explain(KILLED) in (False, None)


def test_an_end_is_said_with_signal_cause_and_memory() -> None:
    said = str(WorkerEnd(KILLED, "frames", False, "its memory peaked at 5 MB"))
    assert "killed by SIGKILL (signal 9)" in said
    assert "out-of-memory killer did not do it" in said
    assert said.endswith("; its memory peaked at 5 MB")
    assert str(WorkerEnd(3)).endswith("in it")


def test_the_peak_of_a_forked_child_is_what_it_had() -> None:
    before = peak_of_children()
    size = before + 50_000_000
    pid = os.fork()
    if not pid:
        held = bytearray(b"x") * size
        os._exit(len(held) == 0)
    os.waitpid(pid, 0)
    after = peak_of_children()
    assert size < after < size + 2**30
    assert memory_peak(before, after, own=True).endswith(f"{after / 1e9:.1f} GB") or (
        memory_peak(before, after, own=True).endswith(f"{after / 1e6:.0f} MB")
    )


@pytest.mark.parametrize(
    ("before", "own"), [(5_000_000, True), (4_000_000, False), (5_000_000, False)]
)
def test_a_peak_that_may_be_another_s_is_said_to_be_a_bound(
    before: int, own: bool
) -> None:
    assert memory_peak(before, 5_000_000, own=own) == (
        "its memory peaked at 5 MB or less"
    )
    assert memory_peak(4_000_000, 5_000_000, own=True) == "its memory peaked at 5 MB"


def test_what_the_system_has_left_is_no_more_than_it_has() -> None:
    found = re.search(r"end (\S+) (\w+) of the system's (\S+) (\w+)", memory_left())
    assert found is not None
    left, unit, whole, whole_unit = found.groups()
    sizes = {"MB": 1, "GB": 1000}
    assert 0 < float(left) * sizes[unit] <= float(whole) * sizes[whole_unit]
