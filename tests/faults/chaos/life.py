"""One dataset's life among faults, every batch compared with the undisturbed run's."""

from __future__ import annotations

import gc
import os
import random
import time
import weakref
from contextlib import suppress
from itertools import cycle
from typing import TYPE_CHECKING, Any

from feedline import Loader, LoaderBusyError, WorkerDiedError, WorkerStartError
from feedline.errors import BatchTimeoutError
from tests.datasets import Gate

from .dataset import Stormy, Struck, digest
from .reference import Reference
from .script import PAUSES, PROCESSES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .log import Log
    from .outside import Moments, Outside
    from .script import Part
    from .tally import Tally

_FALSE_STARTS = 10  # in a row, ended by signals, that the engine puts up with
_LARGE = 5_000_000  # bytes
_SHARE = 0.04  # of the moments between two batches at which the consumer does something


class Wrong(AssertionError):
    """Something was not as it had to be."""


class PortableLoader(Loader):
    """Does without what only Linux has."""

    _portable = True


class Life:
    """The life of one dataset: pass after pass, by one loader or several."""

    def __init__(
        self, part: Part, signs: Path, tally: Tally, log: Log, outside: Outside
    ) -> None:
        self.part = part
        self.struck: Moments = []  # from outside
        self._gate = Gate(signs)
        self._tally = tally
        self._log = log
        self._outside = outside
        self._random = random.Random(part.seed)
        self._dataset = Stormy(part, self._gate)
        self._reference = Reference(part)
        self._openings = cycle(part.openings)
        self._opening = part.openings[0]
        self._loader: Loader | None = None
        self._epoch = 0  # that the loader must be in
        self._received: set[int] = set()  # positions of that epoch
        self._kept: list[tuple[str, Any]] = []
        self._arrivals: list[float] = []  # moments of this pass at which something came
        self._told: set[str] = set()  # signs that were counted

    def may_have(self, pid: int) -> int:
        """How likely it is that a process builds for this one, from 0 to 2."""
        loader = self._loader
        if loader is None or not loader.options.processes:
            return 0
        with suppress(RuntimeError, ValueError):  # it is being changed at this moment
            return 2 if pid in getattr(loader._pool, "pids", ()) else 1
        return 1

    @property
    def pause(self) -> float:
        """Mean seconds between two signals that this one stands."""
        return PAUSES[self._opening.pool]

    def steps(self) -> Iterator[None]:
        """Go on by a batch at a time."""
        for _ in range(self.part.passes):
            yield from self._pass()
            self._between_epochs()
        self.close()

    def close(self) -> None:
        """Close what is open; what was kept must outlive it."""
        loader, self._loader = self._loader, None
        if loader is not None:
            self._outside.settle()
            loader.close()
        self._reference.close()
        self._drop_kept(1.0)

    def _open(self) -> Loader:
        if self._loader is None:
            self._opening = opening = next(self._openings)
            self._dataset.may_hang = "timeout" in opening.options
            make = PortableLoader if opening.portable else Loader
            self._loader = make(
                self._dataset,
                seed=self.part.seed,
                shuffle=self.part.shuffle,
                **opening.options,
            )
            self._tally.loaders[opening.pool] += 1
        return self._loader

    # One pass

    def _pass(self) -> Iterator[None]:
        batches = iter(self._open())
        self._reference.begin(self._epoch)
        self._arrivals.clear()
        self._tally.passes[self._opening.pool] += 1
        left = [
            position
            for position in range(len(self._dataset))
            if position not in self._received
        ]
        ending: BaseException | str = "break"
        while True:
            self._log.forget()
            try:
                self._outside.listener = self.struck
                batch = next(batches)
            except BaseException as error:  # noqa: BLE001 - every kind is judged below
                ending = error
                break
            finally:
                self._outside.listener = None
                self._arrivals.append(time.time())
                self._leave_out_skipped(left)
            self._check(batch, left)
            self._consume(batch)
            del batch
            yield
            deed = self._deed()
            if deed in ("break", "reopen", "drop unclosed"):
                ending = deed
                break
        whole = isinstance(ending, StopIteration)
        if whole and left:
            raise Wrong(f"the epoch ended without the positions {left}")
        self._reference.end(whole=whole)
        if isinstance(ending, BaseException) and not whole:
            self._judge(ending, left)
            self._tally.errors[type(ending).__name__] += 1
        self._count_faults()
        self._leave(ending, batches, whole=whole)

    def _check(self, batch: Any, left: list[int]) -> None:
        if self._open().epoch != self._epoch:
            raise Wrong(f"in epoch {self._open().epoch}, and not in {self._epoch}")
        index, found = batch["index"], digest(batch)
        position = self._reference.places[index]
        if position not in left:
            raise Wrong(f"batch {index} came twice, or where it was not to come")
        if self._opening.options["in_order"] and left[0] != position:
            raise Wrong(f"position {position} came where {left[0]} was due")
        if found != self._reference.digests[position]:
            raise Wrong(
                f"batch {index} is not what an inline run builds: {batch!r:.500}"
            )
        left.remove(position)
        self._received.add(position)
        self._tally.batches[self._opening.pool] += 1
        self._tally.megabytes += sum(array.nbytes for array in batch["x"]) / 1e6

    def _leave_out_skipped(self, left: list[int]) -> None:
        """Do not expect what the engine says that it left out, if it had reason to."""
        for index, why in self._log.skipped:
            position = self._reference.places[index]
            if why == "Struck" and not self._has_struck("exception", index):
                raise Wrong(f"batch {index} was left out without reason")
            if why not in ("Struck", "WorkerDiedError"):
                raise Wrong(f"batch {index} was left out because of {why}")
            left.remove(position)
            self._received.add(position)

    def _has_struck(self, kind: str, index: int) -> bool:
        return self._gate.has_arrived(f"{kind}+{self._dataset.begun}+{index}")

    def _judge(self, error: BaseException, left: list[int]) -> None:
        """Find whether an error had to come, and came in its place."""
        options = self._opening.options
        index: int | None = None
        match error:
            case Struck():
                index, right = error.index, self._has_struck("exception", error.index)
            case WorkerDiedError():
                index, right = error.index, error.attempts == 3
            case BatchTimeoutError():
                right = options.get("timeout") == error.seconds
            case WorkerStartError():  # hit again and again before it was ready
                right = error.exitcode < 0 and self._outside.sent > _FALSE_STARTS
            case SystemExit():
                right = self._opening.pool not in PROCESSES
            case KeyboardInterrupt():
                right = any(kind == "SIGINT" for kind, _ in self.struck)
            case _:
                right = False
        if not right:
            raise Wrong(f"an error that nothing calls for: {error!r}") from error
        if index is not None and options["in_order"]:
            position = self._reference.places[index]
            if left[:1] != [position]:
                raise Wrong(f"{error!r} came where position {left[:1]} was due")

    def _leave(
        self, ending: BaseException | str, batches: Iterator[Any], *, whole: bool
    ) -> None:
        """Leave a pass as it ended, for the next epoch or for the rest of this one."""
        loader = self._open()
        batches.close()  # type: ignore[attr-defined]
        if isinstance(ending, KeyboardInterrupt):
            # What a hook had done by then is the dataset's to tell.
            twin = self._reference.dataset
            twin.begun, twin.ended = self._dataset.begun, self._dataset.ended
            twin.table[:] = self._dataset.table
        state = loader.state_dict()
        if state["epoch"] != self._epoch and isinstance(ending, KeyboardInterrupt):
            return  # it fell before the epoch had begun, which is the next one still
        # Either of these may have come before the epoch, or the rest of it, had begun.
        early = isinstance(ending, (KeyboardInterrupt, WorkerStartError))
        go_on = not whole and (
            early
            or ending in ("reopen", "drop unclosed")
            or self._random.random() < 0.5
        )
        if ending == "reopen":
            self._outside.settle()
            loader.close()
            self._loader = None
        elif ending == "drop unclosed":
            self._outside.settle()
            watch, self._loader = weakref.ref(loader), None
            del loader
            gc.collect()
            if watch() is not None:
                raise Wrong("a loader that was dropped lives on")
        if go_on:
            self._open().load_state_dict(state)
        else:
            self._epoch += 1
            self._received.clear()

    # Between two batches, and between two epochs

    def _consume(self, batch: Any) -> None:
        random_ = self._random
        size = sum(array.nbytes for array in batch["x"])
        held = sum(x.nbytes for _, kept in self._kept for x in kept["x"])
        keeps = "kept batch" in self.part.deeds and random_.random() < 0.3
        if keeps and held + size <= self.part.room:
            self._kept.append((digest(batch), batch))
            self._count("kept batch")
            if size > _LARGE:
                self._count("large batches")
        elif "written batch" in self.part.deeds and random_.random() < 0.2:
            for array in batch["x"]:
                array[...] = 0xFFFFFFFF
            self._count("written batch")

    def _deed(self) -> str:
        """Do something, or tell that the pass is to be left."""
        random_ = self._random
        if random_.random() < 0.05:
            self._drop_kept(random_.random())
        if not self.part.deeds or random_.random() >= _SHARE:
            return ""
        deed = random_.choice(self.part.deeds)
        if deed == "second iterator":
            try:
                next(iter(self._open()))
            except LoaderBusyError:
                pass
            else:
                raise Wrong("a second epoch began while hooks belong to the first")
        elif deed == "collection":
            gc.collect()
        elif deed == "fork of the parent":
            pid = os.fork()
            if not pid:
                os._exit(0)
            os.waitpid(pid, 0)
        elif deed not in ("break", "reopen", "drop unclosed"):
            return ""
        self._count(deed)
        return deed

    def _between_epochs(self) -> None:
        if "change between epochs" in self.part.deeds and self._random.random() < 0.4:
            change = self._random.getrandbits(20)
            self._dataset.offset = self._reference.dataset.offset = change
            self._count("change between epochs")
        self._drop_kept(self._random.random())

    def _drop_kept(self, share: float) -> None:
        """Let some of the kept batches go; none may have changed."""
        for right, batch in self._kept:
            if digest(batch) != right:
                raise Wrong(f"a kept batch has changed: {batch!r:.500}")
        self._kept = [kept for kept in self._kept if self._random.random() >= share]

    # Counting

    def _count(self, kind: str) -> None:
        self._tally.fault(kind, self._opening.pool)

    def _count_faults(self) -> None:
        """Count what struck in this pass, and how long the consumer then waited."""
        self._outside.settle()
        struck, self.struck = self.struck, []
        for name in self._gate.arrived() - self._told:
            when = (self._gate.folder / f"{name}.here").stat().st_mtime
            struck.append((name.partition("+")[0], when))
            self._told.add(name)
        for kind, when in struck:
            later = [moment for moment in self._arrivals if moment >= when]
            stall = min(later) - when if later else 0.0
            self._tally.fault(kind, self._opening.pool, stall)
