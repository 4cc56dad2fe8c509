"""Where a fault is played: in a process of its own, with one pool.

The fault leaves a stamp just before it happens, the consumer when it has the right batch or
the error. Stamps are files that tell the time: they work alike for threads, forked, served
and spawned processes, and survive whoever wrote them.
"""

from __future__ import annotations

import os
import re
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from feedline import Loader
from tests.datasets import Blocks, Gate, block

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

KINDS: dict[str, dict[str, Any]] = {
    "inline": {"workers": 0},
    "threads": {"workers": 2, "use_multiprocessing": False},
    **{
        method: {"workers": 2, "use_multiprocessing": True, "start_method": method}
        for method in ("fork", "forkserver", "spawn")
    },
}


class Lost(AssertionError):
    """A batch is missing, doubled, out of place or wrong."""

    outcome = "LOSS"


class Vague(AssertionError):
    """Not the error that was due, or not in the right words."""

    outcome = "VAGUE"


class Refused(Exception):
    """This machine does not allow the fault to be caused."""


@dataclass(frozen=True)
class Scene:
    """What a row has at hand. It travels to workers, as part of their dataset.

    Attributes:
        pool: One of ``KINDS``.
        folder: Empty, and the row's own.
    """

    pool: str
    folder: Path

    @property
    def gate(self) -> Gate:
        return Gate(self.folder)

    def loader(self, dataset: Any, **options: Any) -> Loader:
        """A loader with this pool; the row closes it."""
        return Loader(dataset, **{**KINDS[self.pool], **options})

    def strike(self, times: int = 1) -> bool:
        """Stamp the fault, which comes next; False if it has happened often enough."""
        return any(self._stamp(f"fault-{number}") for number in range(times))

    def notice(self) -> None:
        """Stamp the moment when the consumer has what it must get. The first one counts."""
        self._stamp("notice")

    @property
    def strikes(self) -> int:
        """How often the fault has happened."""
        return len(list(self.folder.glob("fault-*.stamp")))

    @property
    def seconds(self) -> float | None:
        """From the first stamp of the fault to that of the consumer, if there are both."""
        try:
            fault, notice = (
                float((self.folder / f"{name}.stamp").read_text())
                for name in ("fault-0", "notice")
            )
        except FileNotFoundError:
            return None
        return notice - fault

    def expect_blocks(
        self, batches: Iterable[Any], length: int = 20, at: int = 7
    ) -> None:
        """Take blocks 0 to ``length`` and no other; the one at ``at`` is the notice."""
        check_all(self._noticing(batches, at), length)

    def expect_error(
        self,
        batches: Iterable[Any],
        kind: type[BaseException],
        words: str = "",
        at: int = 7,
    ) -> Any:
        """Take blocks 0 to ``at``, in whose place an error is due; return that."""
        seen = 0
        try:
            for batch in batches:
                check(batch, seen)
                seen += 1
        except Lost:
            raise
        except BaseException as error:
            self.notice()
            if seen != at:
                raise Lost(
                    f"an error is due at batch {at}, got one at {seen}"
                ) from error
            if type(error) is not kind or (
                words and not re.search(words, str(error), re.DOTALL)
            ):
                said = f"{type(error).__name__}: {error}"
                raise Vague(f"{kind.__name__}: {words} is due, got {said}") from error
            return error
        raise Lost(f"an error is due at batch {at}, got {seen} batches and none")

    def _noticing(self, batches: Iterable[Any], at: int) -> Iterator[Any]:
        for due, batch in enumerate(batches):
            if due == at:
                self.notice()
            yield batch

    def _stamp(self, name: str) -> bool:
        now = time.monotonic()  # before anyone else may see that it has happened
        try:
            fd = os.open(
                self.folder / f"{name}.stamp", os.O_CREAT | os.O_EXCL | os.O_WRONLY
            )
        except FileExistsError:
            return False
        os.write(fd, f"{now}".encode())
        os.close(fd)
        return True


def check(batch: Any, due: int) -> None:
    """Compare a batch with the block that is due."""
    index, array = batch
    if index != due or array.tobytes() != block(due, len(array)).tobytes():
        raise Lost(f"block {due} is due, got {index}: {array[:3]!r}...")


def check_all(batches: Iterable[Any], length: int) -> None:
    """Take blocks 0 to ``length`` and no other."""
    due = 0
    for batch in batches:
        check(batch, due)
        due += 1
    if due != length:
        raise Lost(f"the epoch has {length} batches, got {due}")


def pids(loader: Loader) -> list[int]:
    """Process numbers of its workers."""
    pool: Any = loader._pool
    found: list[int] = pool.pids
    return found


def kill_all(loader: Loader) -> None:
    for pid in pids(loader):
        os.kill(pid, signal.SIGKILL)


class Struck(Blocks):
    """Blocks, before one of which something happens, once or more often.

    Args:
        scene: Where it is stamped.
        fault: Is called in ``__getitem__``, just after the stamp.
        at: Index of the batch.
        times: How often.
        length: Batches.
    """

    def __init__(
        self,
        scene: Scene,
        fault: Callable[[], object],
        *,
        at: int = 7,
        times: int = 1,
        length: int = 20,
    ) -> None:
        super().__init__(length)
        self.scene = scene
        self.fault = fault
        self.at = at
        self.times = times

    def __getitem__(self, index: int) -> Any:
        if index == self.at and self.scene.strike(self.times):
            self.fault()
        return super().__getitem__(index)


class Bomb:
    """A block which, while it is encoded, is a fault; once."""

    def __init__(self, scene: Scene, index: int, fault: Callable[[], object]) -> None:
        self.scene = scene
        self.index = index
        self.fault = fault

    def __reduce__(self) -> Any:
        if self.scene.strike():
            self.fault()
        return block, (self.index,)


class Armed(Blocks):
    """Batch 7 is a bomb."""

    def __init__(self, scene: Scene, fault: Callable[[], object]) -> None:
        super().__init__(20)
        self.scene = scene
        self.fault = fault

    def __getitem__(self, index: int) -> Any:
        if index == 7:
            return index, Bomb(self.scene, index, self.fault)
        return super().__getitem__(index)
