"""Exceptions that hardly travel from a worker process, or that travel with a lot."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Never

import numpy as np

from feedline import RemoteError
from tests.datasets import Blocks, HoldsLock

from .rows import row
from .rows_exceptions import (
    ITSELF,
    NEIGHBOURS,
    REMOTE,
    expect_remote,
    raised,
    raising,
    told,
)
from .scene import Struck

if TYPE_CHECKING:
    from .scene import Scene


@row(
    "exception whose arguments hold a lock",
    bar=REMOTE,
    outcome="CLEAN",
    pools=("fork", "spawn"),
)
def lock_in_arguments(scene: Scene) -> None:
    def fault() -> Never:
        raise ValueError("mine", threading.Lock())

    expect_remote(scene, fault, "ValueError", r"\('mine', <unlocked")


class Reduces(Exception):
    """Pickle asks it how it is made, and it raises."""

    def __reduce__(self) -> Any:
        raise ArithmeticError("cannot be taken apart")


class Unmakes(Exception):
    """Can be taken apart, and not be put together again."""

    def __reduce__(self) -> Any:
        return refuse, ()


class Lies(Exception):
    """Pickle makes something else of it."""

    def __reduce__(self) -> Any:
        return int, ("42",)


class Mute(Exception):
    """Cannot say what it is."""

    def __str__(self) -> str:
        raise ArithmeticError("cannot be printed")

    __repr__ = __str__


def refuse() -> Never:
    raise ArithmeticError("cannot be put together")


@row(
    "... whose `__reduce__` raises",
    bar=REMOTE,
    outcome="CLEAN",
    pools=("fork",),
)
def reduce_raises(scene: Scene) -> None:
    def fault() -> Never:
        raise Reduces("mine")

    expect_remote(scene, fault, "Reduces", "mine")


@row(
    "... that raises when it is unpickled",
    bar=REMOTE,
    outcome="CLEAN",
    pools=("fork",),
)
def unpickling_raises(scene: Scene) -> None:
    def fault() -> Never:
        raise Unmakes("mine")

    expect_remote(scene, fault, "Unmakes", "mine")


@row(
    "... that is no exception any more when it is unpickled",
    bar=REMOTE,
    outcome="CLEAN",
    pools=("fork",),
)
def unpickled_as_a_number(scene: Scene) -> None:
    def fault() -> Never:
        raise Lies("mine")

    expect_remote(scene, fault, "Lies", "mine")


@row("... whose `__str__` raises", bar=ITSELF, outcome="CLEAN", pools=NEIGHBOURS)
def mute(scene: Scene) -> None:
    error = raised(scene, raising(Mute, "mine"), Mute)
    assert error.args == ("mine",)


@dataclass(frozen=True)
class Frozen(Exception):
    """Takes no note, no cause, no attribute."""

    code: int


@row(
    "frozen dataclass",
    bar=f"{ITSELF} with its fields",
    outcome="CLEAN",
    pools=NEIGHBOURS,
)
def frozen(scene: Scene) -> None:
    with scene.loader(Struck(scene, raising(Frozen, 7))) as loader:
        assert scene.expect_error(loader, Frozen).code == 7
        scene.expect_blocks(loader)


class Slotted(Exception):
    __slots__ = ("code",)
    code: int


@row(
    "class with `__slots__`",
    bar=f"{ITSELF} with them",
    outcome="CLEAN",
    pools=NEIGHBOURS,
)
def slotted(scene: Scene) -> None:
    def fault() -> Never:
        error = Slotted("mine")
        error.code = 7
        raise error

    assert raised(scene, fault, Slotted, "^mine$").code == 7


@row(
    "exception whose cause and context form a cycle",
    bar=f"{ITSELF}; the cycle is cut",
    outcome="CLEAN",
    pools=NEIGHBOURS,
)
def cyclic(scene: Scene) -> None:
    def fault() -> Never:
        one, two = ValueError("one"), KeyError("two")
        one.__cause__, two.__cause__ = two, one
        one.__context__, two.__context__ = two, one
        raise one

    error = raised(scene, fault, ValueError, "^one$")
    assert repr(error.__cause__) == "KeyError('two')"


@row(
    "exception with 5,000 causes, one of the other",
    bar=f"{ITSELF}, with the causes next to it",
    outcome="CLEAN",
    pools=("fork",),
)
def many_causes(scene: Scene) -> None:
    def fault() -> Never:
        last: BaseException | None = None
        for number in range(5000):
            error = ValueError(number)
            error.__cause__, last = last, error
        raise error

    error = raised(scene, fault, ValueError, "^4999$")
    assert repr(error.__cause__) == "ValueError(4998)"


@row(
    "exception that holds an array of 20 MB",
    bar=f"{ITSELF} with the array; nothing of it is kept",
    outcome="CLEAN",
    pools=NEIGHBOURS,
)
def holds_array(scene: Scene) -> None:
    def fault() -> Never:
        error = ValueError("mine")
        error.array = np.full(20_000_000, 7, np.uint8)  # type: ignore[attr-defined]
        raise error

    error = raised(scene, fault, ValueError, "^mine$")
    assert error.array.nbytes == 20_000_000
    assert error.array.min() == error.array.max() == 7


@row(
    "UnicodeDecodeError, whose constructor wants five arguments",
    bar=ITSELF,
    outcome="CLEAN",
    pools=NEIGHBOURS,
)
def unicode_error(scene: Scene) -> None:
    fault = raising(UnicodeDecodeError, "utf-8", b"\xff", 0, 1, "bad")
    assert raised(scene, fault, UnicodeDecodeError, "bad").object == b"\xff"


@row("asyncio.CancelledError", bar=ITSELF, outcome="CLEAN", pools=NEIGHBOURS)
def cancelled(scene: Scene) -> None:
    fault = raising(asyncio.CancelledError, "mine")
    raised(scene, fault, asyncio.CancelledError, "^mine$")


class Fussy(Blocks):
    """Cannot be unpickled, and says so with an exception that cannot travel either."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(20)
        self.scene = scene

    def __setstate__(self, state: dict[str, Any]) -> None:
        state["scene"].strike()
        raise HoldsLock("no state")


@row(
    "unpickling the dataset raises an exception that holds a lock",
    bar="at the epoch's begin: RemoteError with type name, message, traceback; no restart "
    "loop",
    outcome="CLEAN",
    pools=("forkserver", "spawn"),
)
def unpickling_the_dataset(scene: Scene) -> None:
    with scene.loader(Fussy(scene)) as loader:
        error = scene.expect_error(loader, RemoteError, "HoldsLock: no state", at=0)
        assert "before the first batch" in told(scene, error)
