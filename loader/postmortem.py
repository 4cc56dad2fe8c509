"""What is known of a worker process that has ended, and how it is found out.

The kernel tells three things, none of them for nothing: the exit code, the largest amount
of memory that any child of ours has had, and how many processes of our control group its
out-of-memory killer has ended. Each is looked at when a worker has died, and never for a
batch.
"""

from __future__ import annotations

import resource
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .errors import describe_end, likely_cause

__all__ = [
    "NO_GUARD",
    "OomKills",
    "WorkerEnd",
    "memory_left",
    "memory_peak",
    "peak_of_children",
    "start_trouble",
]

NO_GUARD = """a script needs a main guard, because each new process runs its top level:

    if __name__ == "__main__":
        main()

if it has one, what the worker wrote to stderr says more"""
_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes, of what getrusage tells


@dataclass(frozen=True, slots=True)
class WorkerEnd:
    """How a worker process ended.

    Attributes:
        exitcode: Negative is the number of the signal that ended it.
        stack: Its last Python frames; empty if it left none.
        oom_killed: Whether the kernel's out-of-memory killer did it; None if nobody can
            tell, or it was no SIGKILL.
        memory: What is known of its memory, in words.
    """

    exitcode: int
    stack: str = ""
    oom_killed: bool | None = None
    memory: str = ""

    def __str__(self) -> str:
        return describe_end(self.exitcode, self.oom_killed, self.memory)


def start_trouble(end: WorkerEnd, *, forked: bool) -> str:
    """Say why a worker ended before it was ready, and the way out.

    Args:
        end: How it did.
        forked: Whether it was made by a fork; else it ran the top level of the script.
    """
    if end.exitcode < 0:
        return likely_cause(end.exitcode, end.oom_killed)
    if end.exitcode == 1 and not forked:
        return NO_GUARD
    return (
        "something ends the process before its first batch: look at worker_init_fn "
        "and at how the dataset is unpickled"
    )


class OomKills:
    """The kernel's own count of what its out-of-memory killer ended in our control group.

    Args:
        proc: What the kernel tells of this process: ``cgroup`` and ``mountinfo``.
    """

    def __init__(self, proc: Path = Path("/proc/self")) -> None:
        self._file = _find_counter(proc)
        self._explained = self._read()

    def explain(self, exitcode: int) -> bool | None:
        """Tell whether a worker's end was one of them.

        Each kill explains one end. One that is left over explains a later one: two may be
        killed before the first is heard.

        Args:
            exitcode: The worker's.

        Returns:
            None if there is no such count, or the worker was not ended by SIGKILL.
        """
        kills = self._read()
        if exitcode != -signal.SIGKILL or kills is None or self._explained is None:
            return None
        if kills <= self._explained:
            return False
        self._explained += 1
        return True

    def _read(self) -> int | None:
        if self._file is not None:
            with suppress(OSError, ValueError):
                for line in self._file.read_text().splitlines():
                    name, _, count = line.partition(" ")
                    if name == "oom_kill":
                        return int(count)
        return None


def _find_counter(proc: Path) -> Path | None:
    """The file in which the kernel counts, of version 1 or 2 of control groups."""
    try:
        groups = (proc / "cgroup").read_text().splitlines()
        mounts = (proc / "mountinfo").read_text().splitlines()
    except OSError:
        return None
    ours = {}  # path of our group, by controller; "" is version 2
    for line in groups:
        _, controllers, path = line.split(":", 2)
        ours.update(dict.fromkeys(controllers.split(","), path))
    first = "memory" in ours
    for line in mounts:
        place, _, what = line.partition(" - ")
        kind, _, options = what.split(" ", 2)
        if first and kind == "cgroup" and "memory" in options.split(","):
            path, name = ours["memory"], "memory.oom_control"
        elif not first and kind == "cgroup2" and "" in ours:
            path, name = ours[""], "memory.events"
        else:
            continue
        root, point = place.split(" ")[3:5]
        with suppress(ValueError):  # our group is not below what is mounted here
            return Path(point) / Path(path).relative_to(root) / name
    return None


def peak_of_children() -> int:
    """The most memory that any child of this process had which has been waited for.

    Returns:
        Bytes, resident at one time, with what it shared with others.
    """
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * _UNIT


def memory_peak(before: int, after: int, *, own: bool) -> str:
    """Say how much memory a child had at the most.

    Args:
        before: :func:`peak_of_children` before the child was waited for.
        after: The same after it.
        own: Whether the child began with a count of its own; one that was started by
            ``exec`` began with its parent's.
    """
    exact = own and after > before
    return f"its memory peaked at {_said(after)}{'' if exact else ' or less'}"


def memory_left() -> str:
    """Say how much memory the system has, for a process that was nobody's child here."""
    import psutil

    memory = psutil.virtual_memory()
    return (
        f"after its end {_said(memory.available)} of the system's {_said(memory.total)} "
        "of memory are available"
    )


def _said(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{size / 1e6:.0f} MB"
