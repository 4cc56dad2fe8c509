"""An epoch by itself: answers in any order, stops at any place, each batch once."""

from __future__ import annotations

import json
import linecache
import os
import signal
import sys
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import feedline
from feedline import Loader
from feedline.plan import EpochPlan
from feedline.pool import InlinePool
from feedline.records import Completion
from tests.utils.differential import cases

from .test_promises import KINDS

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Iterator, Sequence
    from types import FrameType

    from feedline.records import Order


ENGINE = os.path.dirname(feedline.__file__)


class ScriptedPool(InlinePool):
    """Answers in whatever order a test draws; a batch is its index.

    Attributes:
        most: Orders that were under way at once, at the most.
    """

    def __init__(self, draw: random.Random, flaky: set[int]) -> None:
        self.most = 0
        self._draw = draw
        self._flaky = flaky  # indices that raise, once
        self._under_way: list[Order] = []

    def settle(self, timeout: float | None) -> None:
        self._under_way.clear()

    def submit(self, orders: Sequence[Order], **_: Any) -> None:
        self._under_way += orders
        self.most = max(self.most, len(self._under_way))

    def collect(self, deadline: float | None) -> list[Completion]:
        count = self._draw.randint(1, len(self._under_way))
        self._draw.shuffle(self._under_way)
        done, self._under_way[:] = self._under_way[:count], self._under_way[count:]
        return [self._answer(order) for order in done]

    def abandon(self, tickets: Collection[int]) -> None:
        self._under_way[:] = [o for o in self._under_way if o.ticket not in tickets]

    def close(self) -> None:
        self.closed = True

    def _answer(self, order: Order) -> Completion:
        if order.index in self._flaky:
            self._flaky.discard(order.index)
            return Completion(order.ticket, error=ArithmeticError(order.index))
        return Completion(order.ticket, order.index, size=1)


@cases(150)
@given(
    length=st.integers(0, 40),
    bound=st.integers(1, 12),
    in_order=st.booleans(),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**64 - 1),
    draw=st.randoms(use_true_random=False),
    flaky=st.sets(st.integers(0, 39), max_size=5),
    stops=st.lists(st.integers(0, 40), max_size=6),
)
def test_whatever_the_order_of_answers_and_stops_what_is_left_is_what_was_not_received(
    length: int,
    bound: int,
    in_order: bool,
    shuffle: bool,
    seed: int,
    draw: random.Random,
    flaky: set[int],
    stops: list[int],
) -> None:
    received: list[int] = []
    state: str | None = None
    # One more stop for each batch that raises, and then to the end.
    for stop in [*stops, *[length] * len(flaky), length + 1]:
        with Loader(
            range(length),
            workers=0,
            max_queue_size=bound,
            in_order=in_order,
            shuffle=shuffle,
            seed=seed,
        ) as loader:
            pool = loader._pool = ScriptedPool(draw, flaky)
            if state is not None:
                loader.load_state_dict(json.loads(state))
            if loader.epoch:
                break
            batches = iter(loader)
            with suppress(ArithmeticError):
                for index in islice(batches, stop):
                    received.append(index)  # noqa: PERF402 - what came before an error
            state = json.dumps(loader.state_dict())
            batches.close()
            assert json.dumps(loader.state_dict()) == state
            assert len(state) < 1000
            assert pool.most <= bound
            plan = EpochPlan(length, shuffle=shuffle, seed=seed, epoch=0)
            whole = [plan.index_at(position) for position in range(length)]
            if in_order:
                assert received == whole[: len(received)]
            assert len(set(received)) == len(received)
    assert sorted(received) == list(range(length))


class Interrupter:
    """Brings a Ctrl-C at the n-th line of the engine that is run under it.

    But for the line that returns a batch: where no call is made, the interpreter handles
    no signal between the line before and the return. And but for ``__del__``, in which
    Python ignores every exception.
    """

    def __init__(self, line: int) -> None:
        self.line = self.left = line
        self.has_raised = False
        self._process = os.getpid()

    def next(self, batches: Iterator[Any]) -> Any:
        tracer = sys.gettrace()
        sys.settrace(self._enter)
        try:
            return next(batches)
        except KeyboardInterrupt:
            self.has_raised = True
            raise
        finally:
            sys.settrace(tracer)

    def _enter(self, frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(ENGINE) or code.co_name == "__del__":
            return None
        return self._step

    def _step(self, frame: FrameType, event: str, argument: object) -> Any:
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and "return batch\n" not in line:
            self.left -= 1
            if not self.left and os.getpid() == self._process:
                signal.raise_signal(signal.SIGINT)
        return self._step


def interrupters(stride: int, least: int) -> Iterator[Interrupter]:
    """One for each so many-th line, until one comes too late.

    Args:
        stride: From line to line.
        least: Lines that there are, at least.
    """
    for line in range(1, 10_000, stride):
        interrupter = Interrupter(line)
        yield interrupter
        if interrupter.left > 0:
            assert line > least
            return
        assert interrupter.has_raised, f"the Ctrl-C at line {line} was lost"
    raise AssertionError("the lines never end")


@pytest.mark.parametrize(
    ("kind", "stride"), [("inline", 1), ("thread", 1), ("fork", 31)]
)
def test_a_ctrl_c_at_any_line_loses_no_batch_and_doubles_none(
    kind: str, stride: int
) -> None:
    for interrupter in interrupters(stride, 100):
        with Loader(range(6), max_queue_size=3, **KINDS[kind]) as loader:
            batches = iter(loader)
            received = [next(batches)]
            try:
                while len(received) < 6:
                    received.append(interrupter.next(batches))
            except KeyboardInterrupt:
                batches.close()
                loader.load_state_dict(loader.state_dict())
                received += loader
            assert received == list(range(6)), f"line {interrupter.line}"


@pytest.mark.parametrize(
    ("kind", "stride"), [("inline", 11), ("thread", 11), ("fork", 61)]
)
def test_a_ctrl_c_in_one_of_two_epochs_leaves_the_other_exact(
    kind: str, stride: int
) -> None:
    for interrupter in interrupters(stride, 100):
        with Loader(range(6), max_queue_size=3, **KINDS[kind]) as loader:
            one, other = iter(loader), iter(loader)
            next(one)
            received = [next(other), next(other)]
            with suppress(KeyboardInterrupt):
                for _ in range(5):
                    interrupter.next(one)
            received += other
            assert received == list(range(6)), f"line {interrupter.line}"


@pytest.mark.parametrize(
    ("kind", "stride"), [("inline", 1), ("thread", 1), ("fork", 47)]
)
def test_a_ctrl_c_at_any_line_of_an_epochs_beginning_does_not_lose_the_epoch(
    kind: str, stride: int
) -> None:
    for interrupter in interrupters(stride, 50):
        with Loader(range(6), max_queue_size=3, **KINDS[kind]) as loader:
            batches = iter(loader)
            with suppress(KeyboardInterrupt):
                interrupter.next(batches)
            batches.close()
            state = loader.state_dict()
            assert state["epoch"] == 0, f"line {interrupter.line}"
            received = state["position"]
            loader.load_state_dict(state)
            left = list(range(received, 6))
            assert list(loader) == left, f"line {interrupter.line}"
            assert received == (0 if interrupter.has_raised else 1)
