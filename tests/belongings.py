"""What a process has at one moment, to be compared with what it had before."""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Belongings:
    """What this process has at one moment."""

    children: frozenset[int]
    threads: frozenset[threading.Thread]
    descriptors: frozenset[tuple[int, str]]
    mappings: int
    files: frozenset[str]

    @classmethod
    def now(cls) -> Belongings:
        return cls(
            frozenset(_children()),
            frozenset(threading.enumerate()),
            frozenset(_descriptors()),
            _arena_mappings(),
            frozenset(_named_files()),
        )

    def beyond(self, before: Belongings) -> list[str]:
        """What is here and was not there."""
        more = [f"process {describe(pid)}" for pid in self.children - before.children]
        more += [f"thread {thread.name}" for thread in self.threads - before.threads]
        more += [f"file {name}" for name in self.files - before.files]
        new = self.descriptors - before.descriptors
        more += [f"descriptor {fd} -> {target}" for fd, target in sorted(new)]
        if self.mappings > before.mappings:
            more.append(f"{self.mappings - before.mappings} mappings of an arena")
        return more


def memory() -> int:
    """Bytes of memory that this process has in use; what it has freed is not."""
    # Of freed memory the C library keeps as much as twice the largest piece of it.
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    used: int = psutil.Process().memory_info().rss
    return used


def describe(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        return f"{pid} ({process.status()}: {' '.join(process.cmdline())[:100]})"
    except psutil.Error:
        return f"{pid} (ended just now)"


def _children() -> list[int]:
    """Our processes, but for the two helpers that Python keeps to its end."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            line = " ".join(child.cmdline())
            if child.name() in {"ps", "git"} or _is_helper(line):
                # A served worker has its server's command line, and is one level below.
                parent = child.ppid()
                if parent == os.getpid():
                    continue
            found.append(child.pid)
    return found


def _is_helper(line: str) -> bool:
    return "multiprocessing.resource_tracker" in line or (
        "multiprocessing.forkserver" in line
    )


def _descriptors() -> Iterator[tuple[int, str]]:
    helpers: set[Any] = {
        getattr(forkserver._forkserver, "_forkserver_alive_fd", None),
        getattr(resource_tracker._resource_tracker, "_fd", None),
    }
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if int(name) not in helpers and not target.startswith("/proc/"):
                yield int(name), target


def _arena_mappings() -> int:
    maps = Path("/proc/self/maps").read_text()
    return len(re.findall(r"/memfd:feedline|/feedline-\S* \(deleted\)", maps))


def _named_files() -> Iterator[str]:
    for folder in {"/dev/shm", tempfile.gettempdir()}:
        for name in os.listdir(folder):
            if "feedline" in name:
                yield f"{folder}/{name}"
