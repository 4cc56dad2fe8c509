"""What a machine may be short of."""

from __future__ import annotations

import errno
import os
import resource
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from tests.datasets import Blocks

from . import mounts
from .rows import EVERYWHERE, POOLS, row
from .scene import Struck, check

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from feedline import Loader

    from .scene import Scene

MEGABYTE = 2**20


def fill(folder: str) -> int:
    """Write into a file system until it is full; how much that took."""
    written = 0
    with open(Path(folder, "full"), "wb", buffering=0) as file, suppress(OSError):
        while True:
            written += file.write(bytes(MEGABYTE // 16))
    return written


@contextmanager
def limited(kind: int, most: int) -> Iterator[None]:
    """Lower a limit of this process, and of those that it starts."""
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


@row(
    "/dev/shm of 4 MB, batches of 8 MB",
    bar="exact: it is not used",
    peers="EXACT | HANG | HANG | VAGUE 1.0s | EXACT",
)
def tiny_shared_memory(scene: Scene) -> None:
    mounts.small("/dev/shm", "4m")
    assert fill("/dev/shm") == 4 * MEGABYTE
    os.unlink("/dev/shm/full")
    with scene.loader(Blocks(20, MEGABYTE)) as loader:
        scene.strike()
        scene.expect_blocks(loader)


@row(
    "/dev/shm of 16 MB, 30 batches of 2 MB kept",
    bar="exact",
    peers="EXACT | HANG | HANG | VAGUE 1.6s | EXACT",
    memory=96 * MEGABYTE,
)
def full_shared_memory(scene: Scene) -> None:
    mounts.small("/dev/shm", "16m")
    assert fill("/dev/shm") == 16 * MEGABYTE
    with scene.loader(Blocks(30, MEGABYTE // 4)) as loader:
        scene.strike()
        batches = list(loader)
        for due, batch in enumerate(batches):
            check(batch, due)
        assert due == 29
        scene.notice()


@row(
    "no file system can be written to, nor the temporary folder",
    bar="exact",
    pools=("threads", "fork", "spawn"),
)
def read_only(scene: Scene) -> None:
    pid = os.fork()  # what it mounts, it alone sees
    if pid == 0:
        code = 1
        try:
            code = in_a_world_without_writing(scene)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    scene.notice()


def in_a_world_without_writing(scene: Scene) -> int:
    scene.strike()
    for folder in ("/", "/dev/shm", "/tmp"):
        if os.path.ismount(folder):
            mounts.read_only(folder)
    with suppress(OSError):
        scene.strike(times=2)
        return 2  # it can be written to
    with scene.loader(Blocks(20)) as loader:
        for due, batch in enumerate(loader):
            check(batch, due)
    return 0 if due == 19 else 3


@row(
    "MemoryError in the worker",
    bar="at batch 7, after batches 0-6: itself",
    outcome="CLEAN",
    pools=EVERYWHERE,
    peers="CLEAN 0.1s | CLEAN 0.0s | CLEAN 0.0s | CLEAN 1.2s | CLEAN 0.0s",
)
def memory_error(scene: Scene) -> None:
    dataset = Struck(scene, lambda: bytearray(2**46), times=2)
    with scene.loader(dataset) as loader:
        for _ in range(2):
            scene.expect_error(loader, MemoryError)
        scene.expect_blocks(loader)


class Outgrown(Struck):
    """One of its batches is larger than its worker may map a second time."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene, lambda: None)

    def __getitem__(self, index: int) -> Any:
        if index != self.at or not self.scene.strike():
            return super().__getitem__(index)
        batch = np.zeros(40 * MEGABYTE, np.uint8)
        most = psutil.Process().memory_info().vms + 48 * MEGABYTE
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
        return index, batch


@row(
    "batch 7 is built, and there is no memory left to send it in (RLIMIT_AS)",
    bar="at batch 7: MemoryError that says how much was asked for, and names the batch",
    outcome="CLEAN",
)
def no_memory_to_send(scene: Scene) -> None:
    with scene.loader(Outgrown(scene)) as loader:
        error = scene.expect_error(loader, MemoryError, r"cannot map \d+ bytes")
        assert any("batch 7 of epoch 0" in note for note in error.__notes__)
        scene.expect_blocks(loader)


class Filling(Struck):
    """The disk is full when a batch of 8 MB is to be written."""

    def __getitem__(self, index: int) -> Any:
        batch = super().__getitem__(index)
        if index == self.at and self.scene.strikes == 1:
            self.scene.strike(times=2)
            return index, np.zeros(8 * MEGABYTE, np.uint8)
        return batch


def _keeping(batches: Iterable[Any], kept: list[Any]) -> Iterator[Any]:
    for batch in batches:
        kept.append(batch)
        yield batch


@row(
    "the disk is full where there is no anonymous memory",
    bar="at batch 7: MemoryError that says why, and names the batch",
    outcome="CLEAN",
    pools=("fork", "spawn"),
)
def full_disk(scene: Scene) -> None:
    folder = os.environ["TMPDIR"]
    mounts.small(folder, "12m")
    with scene.loader(Filling(scene, lambda: fill(folder))) as loader:
        loader._portable = True
        # Memory of what is kept is not used again, so that there is none for the error.
        kept: list[Any] = []
        scene.expect_error(
            _keeping(loader, kept),
            MemoryError,
            r"^no shared memory is left for batch 7 of epoch 0",
        )
        kept.clear()
        os.unlink(f"{folder}/full")
        scene.expect_blocks(loader)


@row(
    "no file may be larger than 1 MB (ulimit -f)",
    bar="at the start: that error, and what to do",
    outcome="CLEAN",
)
def small_files(scene: Scene) -> None:
    with scene.loader(Blocks(20)) as loader:
        with limited(resource.RLIMIT_FSIZE, MEGABYTE):
            scene.strike()
            error = scene.expect_error(loader, OSError, "File too large", at=0)
            assert any("load in threads" in note for note in error.__notes__)
        scene.expect_blocks(loader)


@row(
    "ulimit -n 64, 200 batches",
    bar="exact",
    pools=POOLS,
    peers="EXACT | EXACT | EXACT | CLEAN 1.2s | EXACT",
)
def few_descriptors(scene: Scene) -> None:
    with (
        limited(resource.RLIMIT_NOFILE, 64),
        scene.loader(Blocks(200)) as loader,
    ):
        scene.strike()
        scene.expect_blocks(loader, 200)


@row(
    "... all 200 kept",
    bar="exact",
    pools=POOLS,
    peers="EXACT | CLEAN 0.1s | CLEAN 0.1s | CLEAN 1.1s | EXACT",
)
def few_descriptors_all_kept(scene: Scene) -> None:
    with (
        limited(resource.RLIMIT_NOFILE, 64),
        scene.loader(Blocks(200)) as loader,
    ):
        scene.strike()
        batches = list(loader)
        for due, batch in enumerate(batches):
            check(batch, due)
        assert due == 199
        scene.notice()


@row(
    "the last descriptor is taken at any step of the start",
    bar="`OSError: Too many open files` each time, nothing left; then exact",
    outcome="CLEAN",
)
def no_descriptors(scene: Scene) -> None:
    with scene.loader(Blocks(20)) as loader:
        scene.expect_blocks(loader, at=99)  # multiprocessing has its helpers
    refused = 0
    for spare in range(0, 60, 1 if scene.pool == "fork" else 4):
        most = max(int(name) for name in os.listdir("/proc/self/fd")) + spare
        with scene.loader(Blocks(20)) as loader:
            if starts_with(most, loader, scene):
                break
            refused += 1
            if spare == 8:
                scene.expect_blocks(loader)
    assert refused >= 3, refused


def starts_with(most: int, loader: Loader, scene: Scene) -> bool:
    """Whether an epoch needs no more than so many descriptors."""
    try:
        scene.strike(times=99)
        with limited(resource.RLIMIT_NOFILE, most):
            scene.expect_blocks(loader, at=99)
    except OSError as error:
        scene.notice()
        if error.errno != errno.EMFILE:
            raise
        return False
    return True
