"""Control groups with little memory, where the machine lets us make them."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tests.datasets import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

_VERSION_1 = Path("/sys/fs/cgroup/memory")
_VERSION_2 = Path("/sys/fs/cgroup")


@contextmanager
def memory_group(size: int) -> Iterator[Path]:
    """A group whose processes have ``size`` bytes in all, and no swap.

    Raises:
        OSError: This machine lets us make none.
    """
    first = _VERSION_1.is_dir()
    group = (_VERSION_1 if first else _VERSION_2) / f"feedline-{os.getpid()}"
    group.mkdir()
    try:
        limit = group / ("memory.limit_in_bytes" if first else "memory.max")
        if not limit.exists():  # writing would raise something else
            raise FileNotFoundError(f"memory is not bounded in {group}")
        limit.write_text(str(size))
        with suppress(OSError):  # where the kernel does not bound it, there may be none
            if first:
                (group / "memory.memsw.limit_in_bytes").write_text(str(size))
            else:
                (group / "memory.swap.max").write_text("0")
        yield group
    finally:
        wait_until(lambda: _removed(group), "its processes have ended")


def groups_can_be_made() -> bool:
    """Whether this machine lets us; tests that need one are left out where not."""
    try:
        with memory_group(2**30):
            return True
    except OSError:
        return False


def _removed(group: Path) -> bool:
    with suppress(OSError):
        group.rmdir()
    return not group.exists()
