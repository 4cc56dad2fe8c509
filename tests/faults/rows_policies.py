"""What options make of failures: another try, another worker, a batch less."""

from __future__ import annotations

import ctypes
import logging
from typing import Any

from feedline import SkipLimitError, WorkerDiedError
from tests.datasets import wait_until

from .programs import ended
from .rows import EVERYWHERE, POOLS, PROCESSES, row
from .rows_deaths import heard, kill_this
from .rows_hangs import LIMIT, freeze, hang, hang_stubbornly, stuck
from .scene import Lost, Scene, Struck, check

REPLACED = (
    "the stuck stack is logged, another worker builds it, all batches once and in order"
)
SOON = LIMIT + 0.5  # seconds until another worker has built what one hung in
DELAY = 0.1  # seconds


def expect_replaced(scene: Scene, fault: Any, *words: str, times: int = 1) -> None:
    """Time-outs, which the log tells in these words, and two epochs without a loss."""
    dataset = Struck(scene, fault, times=times)
    options = {"timeout": LIMIT, "on_timeout": "replace"}
    with heard() as said, scene.loader(dataset, **options) as loader:
        scene.expect_blocks(loader)
        assert loader.stats().timeouts == scene.strikes == times
        scene.expect_blocks(loader)
        scene.gate.let_all()
    assert len(said) == times, said
    for line in said:
        for word in (f"batch 7 of epoch 0 took longer than timeout={LIMIT}", *words):
            assert word in line, line


@row(
    "item 7 sleeps for ever; timeout=0.5, on_timeout='replace'",
    bar=REPLACED,
    pools=POOLS,
    within=SOON,
)
def replaced(scene: Scene) -> None:
    expect_replaced(scene, lambda: hang(scene), "in hang")


@row(
    "... with SIGTERM and SIGINT ignored, replaced",
    bar=REPLACED,
    pools=("fork", "forkserver"),
    within=SOON,
)
def replaced_stubborn(scene: Scene) -> None:
    expect_replaced(scene, lambda: hang_stubbornly(scene), "in hang")
    assert ended(stuck(scene))


@row(
    "... in C, with the interpreter's lock held, replaced",
    bar=REPLACED,
    pools=("fork", "spawn"),
    within=SOON,
)
def replaced_in_c(scene: Scene) -> None:
    expect_replaced(scene, lambda: ctypes.PyDLL(None).sleep(60), "in <lambda>")


@row("... frozen by SIGSTOP, replaced", bar=REPLACED, pools=("fork",), within=SOON)
def replaced_frozen(scene: Scene) -> None:
    expect_replaced(scene, lambda: freeze(scene), "SIGSTOP")
    assert ended(stuck(scene))


@row(
    "... twice, replaced",
    bar=REPLACED,
    pools=("threads", "fork"),
    within=SOON + LIMIT,
)
def replaced_twice(scene: Scene) -> None:
    expect_replaced(scene, lambda: hang(scene), "in hang", times=2)


def fail() -> None:
    raise OSError("busy")


@row(
    "item 7 raises twice; retries=2, retry_delay=0.1",
    bar="the others go on; built at the third try, after 0.1 and 0.2 s; all batches once "
    "and in order",
    pools=EVERYWHERE,
)
def tried_again(scene: Scene) -> None:
    dataset = Struck(scene, fail, times=2)
    with scene.loader(dataset, retries=2, retry_delay=DELAY) as loader:
        scene.expect_blocks(loader)
        assert loader.stats().retries == scene.strikes == 2
        assert scene.seconds is not None
        assert scene.seconds >= DELAY + 2 * DELAY, "a try before its time"


@row(
    "the loop is left while item 7 waits 60 s for its next try",
    bar="the next epoch is complete, at once",
    pools=("threads", "fork"),
    limit=10.0,
)
def left_waiting(scene: Scene) -> None:
    with scene.loader(Struck(scene, fail), retries=1, retry_delay=60) as loader:
        batches = iter(loader)
        for index in range(7):
            check(next(batches), index)
        wait_until(lambda: scene.strikes, "it has failed")
        del batches
        scene.expect_blocks(loader)


@row(
    "item 7 always raises; on_error='skip'",
    bar="left out, logged and listed; all others once and in order",
    pools=EVERYWHERE,
)
def skipped(scene: Scene) -> None:
    with (
        heard() as said,
        scene.loader(Struck(scene, fail, times=99), on_error="skip") as loader,
    ):
        expect_all_but_7(scene, loader)
        (left_out,) = loader.skipped
        assert (left_out.epoch, left_out.index) == (0, 7)
        assert left_out.error == "OSError('busy')"
    assert said == ["batch 7 of epoch 0 is left out: OSError('busy')"]


@row(
    "... it kills every worker; on_error='skip'",
    bar="left out after three, logged and listed; all others once and in order",
    pools=("fork",),
)
def skipped_deaths(scene: Scene) -> None:
    with scene.loader(Struck(scene, kill_this, times=99), on_error="skip") as loader:
        expect_all_but_7(scene, loader)
        assert "WorkerDiedError" in loader.skipped[0].error
        assert scene.strikes == loader.stats().deaths == 3


@row(
    "... and max_errors=0",
    bar="SkipLimitError at batch 7, from its own error, with count, limit, indices; the "
    "loader stays usable",
    outcome="CLEAN",
    pools=("threads", "fork"),
)
def too_many(scene: Scene) -> None:
    deadly = scene.pool in PROCESSES
    dataset = Struck(scene, kill_this if deadly else fail, times=99)
    with scene.loader(dataset, on_error="skip", max_errors=0) as loader:
        logging.getLogger("feedline").setLevel(logging.ERROR)
        error = scene.expect_error(loader, SkipLimitError, "^1 batch of epoch 0 failed")
        assert (error.count, error.limit, error.indices) == (1, 0, (7,))
        assert type(error.__cause__) is (WorkerDiedError if deadly else OSError)
        dataset.at = 99
        scene.expect_blocks(loader)


def expect_all_but_7(scene: Scene, batches: Any) -> None:
    due = [index for index in range(20) if index != 7]
    for batch in batches:
        if not due:
            raise Lost(f"no batch is due, got {batch[0]}")
        check(batch, due.pop(0))
        if batch[0] == 8:
            scene.notice()
    if due:
        raise Lost(f"blocks {due} are due")
