"""A loader's life in any order of steps, against a model of what it must deliver."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from feedline import (
    Loader,
    LoaderBusyError,
    LoaderClosedError,
    LoaderError,
    LoaderForkedError,
    PyDataset,
)
from feedline.plan import EpochPlan
from tests.utils.differential import generated

from .test_promises import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator

_ITEMS = 700  # in a batch's array: more than is sent within the stream
# Runs of the machine and steps of each; starting Python anew takes so much longer.
_RUNS = {
    "inline": (60, 40), "thread": (30, 40), "fork": (20, 30),
    "forkserver": (2, 12), "spawn": (2, 12),
}  # fmt: skip


class Plain(PyDataset):
    """Each batch tells what the dataset was when it was built."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.begun = 0
        self.ended = 0
        self.offset = 0
        self.spoilt = -1  # index of a batch that raises

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        if index == self.spoilt:
            raise LookupError(index)
        return self.value(index)

    def value(self, index: int) -> Any:
        stamp = index, self.begun, self.ended, self.offset
        return stamp, np.full(_ITEMS, hash(stamp))


class Hooked(Plain):
    """Its hooks change it, and belong to one epoch at a time."""

    def on_epoch_begin(self) -> None:
        self.begun += 1

    def on_epoch_end(self) -> None:
        self.ended += 1


@dataclass(eq=False)
class Pass:
    """An iterator, and what it must still deliver.

    Attributes:
        batches: The iterator; None once it was dropped.
        epoch: Which epoch; None until its first batch was asked for.
        left: Positions to come.
        start: What was left when it began.
        over: Whether nothing comes any more.
    """

    batches: Iterator[Any] | None
    epoch: int | None
    left: list[int]
    over: bool = False
    start: tuple[int, ...] = ()

    @property
    def running(self) -> bool:
        return self.epoch is not None and not self.over


class Life(RuleBasedStateMachine):
    """One loader after the other over one dataset.

    Attributes:
        kind: Of the loaders.
    """

    kind: str

    def __init__(self) -> None:
        super().__init__()
        self.passes: list[Pass] = []
        self.kept: list[tuple[Any, Any]] = []
        self.saved: tuple[dict[str, Any], int, list[int]] | None = None

    @initialize(
        length=st.integers(0, 7),
        hooks=st.booleans(),
        shuffle=st.booleans(),
        bound=st.integers(1, 5),
    )
    def begin(self, length: int, hooks: bool, shuffle: bool, bound: int) -> None:
        self.dataset = (Hooked if hooks else Plain)(length)
        self.hooks, self.shuffle, self.bound = hooks, shuffle, bound
        self.begun = self.ended = 0  # how often each hook must have run
        self.open()

    def open(self) -> None:
        self.loader = Loader(
            self.dataset,
            shuffle=self.shuffle,
            seed=5,
            max_queue_size=self.bound,
            **KINDS[self.kind],
        )
        self.latest: Pass | None = None  # begun last, and not consumed whole
        self.next = 0, self.all_positions()
        self.has_begun = False  # whether the hook of that one has run

    def all_positions(self) -> list[int]:
        return list(range(self.dataset.length))

    def index_at(self, epoch: int, position: int) -> int:
        length, shuffle = self.dataset.length, self.shuffle
        plan = EpochPlan(length, shuffle=shuffle, seed=5, epoch=epoch)
        return plan.index_at(position)

    @property
    def under_way(self) -> bool:
        return any(one.running for one in self.passes)

    def progress(self) -> tuple[int, list[int]]:
        if self.latest is None:
            return self.next
        assert self.latest.epoch is not None
        return self.latest.epoch, self.latest.left

    # Iterators

    @rule(which=st.sampled_from([0, 0, 0, 1, 2]), steps=st.integers(0, 9))
    def ask_for_batches(self, which: int, steps: int) -> None:
        self.passes[:] = [one for one in self.passes if not one.over]
        if which >= len(self.passes):
            self.passes.append(Pass(iter(self.loader), None, []))
        one = self.passes[min(which, len(self.passes) - 1)]
        for _ in range(steps):
            self.ask(one)

    @rule(steps=st.integers(1, 4))
    def ask_for_a_few(self, steps: int) -> None:
        self.ask_for_batches(0, steps)

    def ask(self, one: Pass) -> None:
        assert one.batches is not None
        if one.over:
            assert next(one.batches, "over") == "over"
        elif one.epoch is None and self.hooks and self.under_way:
            self.expect(one, LoaderBusyError)
        else:
            if one.epoch is None:
                self.start(one)
            self.take(one)

    def expect(self, one: Pass, error: type[Exception]) -> None:
        assert one.batches is not None
        with pytest.raises(error):
            next(one.batches)
        one.over = True

    def start(self, one: Pass) -> None:
        """What the first ``next()`` does."""
        epoch, left = self.next
        one.epoch, one.left, one.start = epoch, list(left), tuple(left)
        self.begun += self.hooks and not self.has_begun
        self.has_begun = False
        self.next = epoch + 1, self.all_positions()
        self.latest = one

    def take(self, one: Pass) -> None:
        assert one.batches is not None
        assert one.epoch is not None
        if not one.left:
            assert next(one.batches, "over") == "over"
            one.over = True
            self.ended += self.hooks
            if self.latest is one:
                self.latest = None
            return
        index = self.index_at(one.epoch, one.left[0])
        if index == self.dataset.spoilt:
            self.expect(one, LookupError)
            return
        batch = next(one.batches)
        self.expect_equal(batch, self.dataset.value(index))
        one.left.pop(0)
        self.kept = [*self.kept[-5:], (batch, self.dataset.value(index))]

    def expect_equal(self, batch: Any, right: Any) -> None:
        assert batch[0] == right[0]
        assert batch[1].tobytes() == right[1].tobytes()

    @precondition(lambda self: self.passes)
    @rule(how=st.sampled_from(["close", "drop", "drop in a cycle"]))
    def leave(self, how: str) -> None:
        one = self.passes.pop()
        if how == "close":
            one.batches.close()  # type: ignore[union-attr]
        elif how == "drop in a cycle":
            ring: list[Any] = [one.batches]
            ring.append(ring)
            del ring
        one.batches, one.over = None, True
        gc.collect(1)

    # Between epochs

    @precondition(lambda self: not self.under_way)
    @rule(offset=st.integers(0, 3), spoilt=st.integers(-5, 7))
    def change(self, offset: int, spoilt: int) -> None:
        self.dataset.offset, self.dataset.spoilt = offset, spoilt

    # State

    @rule()
    def save(self) -> None:
        epoch, left = self.progress()
        self.saved = self.loader.state_dict(), epoch, list(left)

    @precondition(lambda self: self.saved is not None)
    @rule()
    def load(self) -> None:
        assert self.saved is not None
        state, epoch, left = self.saved
        if self.under_way:
            with pytest.raises(LoaderBusyError):
                self.loader.load_state_dict(state)
            return
        self.loader.load_state_dict(state)
        self.next, self.latest = (epoch, left), None
        self.has_begun = False

    @rule()
    def take_back(self) -> None:
        if self.under_way or self.latest is None:
            with pytest.raises(LoaderError):
                self.loader.restart()
            return
        self.loader.restart()
        assert self.latest.epoch is not None
        self.next = self.latest.epoch, list(self.latest.start)
        self.latest, self.has_begun = None, True

    # The end, and what may come in between

    @precondition(lambda self: self.latest is not None)
    @rule(go_on=st.booleans())
    def close_and_open_another(self, go_on: bool) -> None:
        self.save()
        self.loader.close()
        for one in self.passes:
            if not one.over:
                self.expect(one, LoaderClosedError)
        with pytest.raises(LoaderClosedError):
            iter(self.loader)
        self.passes.clear()
        self.open()
        if go_on:
            self.load()

    @precondition(lambda self: self.under_way)
    @rule()
    def fork(self) -> None:
        """A copy of the process is told; this one is not disturbed."""
        pid = os.fork()
        if not pid:
            os._exit(self.is_refused_here())
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0

    def is_refused_here(self) -> int:
        running = [one.batches for one in self.passes if one.running]
        try:
            next(running[0], None)  # type: ignore[arg-type]
        except LoaderForkedError:
            return 0 if self.kind != "inline" else 1
        except LookupError:
            pass
        return 0 if self.kind == "inline" else 2

    @invariant()
    def what_was_kept_is_what_it_was(self) -> None:
        for batch, right in self.kept:
            self.expect_equal(batch, right)

    @invariant()
    def the_state_tells_what_was_received(self) -> None:
        if hasattr(self, "loader"):
            epoch, left = self.progress()
            state = self.loader.state_dict()
            assert state["epoch"] == self.loader.epoch == epoch
            received = set(range(state["position"])) - set(state["missing"])
            assert received == set(self.all_positions()) - set(left)

    @invariant()
    def each_hook_ran_once_for_each_epoch(self) -> None:
        if hasattr(self, "dataset"):
            seen = self.dataset.begun, self.dataset.ended
            assert seen == (self.begun, self.ended)

    def teardown(self) -> None:
        if hasattr(self, "loader"):
            self.loader.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_loader_delivers_what_is_due_whatever_comes_before(kind: str) -> None:
    runs, steps = _RUNS[kind]
    chosen = generated(runs, stateful_step_count=steps, derandomize=True)
    run_state_machine_as_test(type("Life", (Life,), {"kind": kind}), settings=chosen)
