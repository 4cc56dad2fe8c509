"""A batch raises: what arrives, where, and what it still knows."""

from __future__ import annotations

import asyncio
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

import numpy as np

from feedline import RemoteError
from tests.datasets import Blocks, HoldsLock, OwnBase, TwoArguments

from .rows import EVERYWHERE, POOLS, row
from .rows_deaths import check_all, pids
from .scene import Scene, Struck, Vague

if TYPE_CHECKING:
    from collections.abc import Callable

WHERE = "at batch 7, after batches 0-6: "
ITSELF = f"{WHERE}itself"
REMOTE = f"{WHERE}RemoteError with type name, message, traceback"
PROCESSES = ("fork", "forkserver", "spawn")
NEIGHBOURS = ("threads", "fork", "spawn")


def raising(kind: Callable[..., BaseException], *args: object) -> Callable[[], Never]:
    def fault() -> Never:
        raise kind(*args)

    return fault


def raised(
    scene: Scene,
    fault: Callable[[], object],
    kind: type[BaseException],
    words: str = "",
    at: int = 7,
) -> Any:
    """The error of the one epoch in which a batch raises; the next one is whole."""
    with scene.loader(Struck(scene, fault, at=at)) as loader:
        error = scene.expect_error(loader, kind, words, at)
        workers = pids(loader) if scene.pool in PROCESSES else []
        scene.expect_blocks(loader)
        if workers and workers != pids(loader):
            raise AssertionError("an exception cost a worker")
    notes = "\n".join(getattr(error, "__notes__", ()))
    if not isinstance(error, RuntimeError) and f"__getitem__({at})" not in notes:
        raise Vague(f"the notes do not name the batch: {notes!r}")
    return error


def told(scene: Scene, error: BaseException) -> str:
    """All that a user sees of it."""
    text = "".join(traceback.format_exception(error))
    if scene.pool in PROCESSES and "In worker " not in text:
        raise Vague(f"the worker is not named: {text}")
    return text


def expect_remote(
    scene: Scene, fault: Callable[[], object], name: str, words: str
) -> None:
    """A stand-in from processes, itself in threads."""
    with scene.loader(Struck(scene, fault)) as loader:
        error = scene.expect_error(loader, RemoteError, f"{name}: {words}")
        assert error.type_name.endswith(name)
        assert "rows_exceptions.py" in told(scene, error)
        scene.expect_blocks(loader)


@row(
    "ValueError with `__cause__` and a note",
    bar=f"{ITSELF}, cause and notes kept, worker traceback attached",
    outcome="CLEAN",
    pools=POOLS,
    peers="CLEAN 0.1s | CLEAN 0.0s | CLEAN 0.0s | CLEAN 1.4s | CLEAN 0.0s",
)
def chained(scene: Scene) -> None:
    def fault() -> Never:
        error = ValueError("outer")
        error.add_note("a note of the user's")
        raise error from KeyError("inner")

    error = raised(scene, fault, ValueError, "^outer$")
    assert repr(error.__cause__) == "KeyError('inner')"
    assert error.__notes__[0] == "a note of the user's"
    assert "rows_exceptions.py" in told(scene, error)


@row(
    "class with two required constructor arguments",
    bar=f"{ITSELF}, or where that is impossible a RemoteError that carries type name, "
    "message and traceback; never a hang, never a TypeError about the constructor",
    outcome="CLEAN",
    pools=POOLS,
    peers="HANG | CLEAN 0.0s | CLEAN 0.0s | VAGUE 1.3s | VAGUE 0.0s",
)
def two_arguments(scene: Scene) -> None:
    fault = raising(TwoArguments, 7, "seven")
    error = raised(scene, fault, TwoArguments, r"^seven \(7\)$")
    assert (error.code, error.text) == (7, "seven")


def raise_with_lock() -> Never:
    raise HoldsLock("held")


@row(
    "exception that holds a lock",
    bar=REMOTE,
    outcome="CLEAN",
    peers="VAGUE 0.1s | CLEAN 0.0s | CLEAN 0.0s | HANG | VAGUE 0.1s",
)
def holds_lock(scene: Scene) -> None:
    expect_remote(scene, raise_with_lock, "HoldsLock", "held")


@row(
    "class defined in a function",
    bar=f"{ITSELF} (cloudpickle)",
    outcome="CLEAN",
    pools=POOLS,
    peers="VAGUE 0.1s | HANG | HANG | HANG | CLEAN 0.0s",
)
def local_class(scene: Scene) -> None:
    class Local(Exception):
        pass

    def fault() -> Never:
        raise Local("here")

    raised(scene, fault, Local, "^here$")


@row(
    "StopIteration",
    bar=f"{WHERE}RuntimeError from it (never a silent end)",
    outcome="CLEAN",
    pools=EVERYWHERE,
    peers="CLEAN 0.1s | LOSS | LOSS | LOSS | CLEAN 0.0s",
)
def stop_iteration(scene: Scene) -> None:
    words = r"__getitem__\(7\) raised StopIteration"
    error = raised(scene, raising(StopIteration), RuntimeError, words)
    assert isinstance(error.__cause__, StopIteration)


@row(
    "IndexError inside the length",
    bar=ITSELF,
    outcome="CLEAN",
    pools=EVERYWHERE,
    peers="CLEAN 0.1s | CLEAN 0.0s | CLEAN 0.0s | CLEAN 1.4s | CLEAN 0.0s",
)
def index_error(scene: Scene) -> None:
    raised(scene, raising(IndexError, "inside"), IndexError, "^inside$")


@row(
    "KeyboardInterrupt raised in a worker",
    bar=ITSELF,
    outcome="CLEAN",
    pools=POOLS,
    peers="HANG | VAGUE 0.0s | VAGUE 0.0s | VAGUE 1.6s | CLEAN 0.0s",
)
def keyboard_interrupt(scene: Scene) -> None:
    fault = raising(KeyboardInterrupt, "in a batch")
    raised(scene, fault, KeyboardInterrupt, "^in a batch$")


@row(
    "GeneratorExit",
    bar=f"{ITSELF} or RuntimeError from it",
    outcome="CLEAN",
    pools=EVERYWHERE,
    peers="HANG | VAGUE 0.0s | VAGUE 0.0s | VAGUE 1.5s | CLEAN 0.0s",
)
def generator_exit(scene: Scene) -> None:
    words = r"__getitem__\(7\) raised GeneratorExit"
    error = raised(scene, raising(GeneratorExit), RuntimeError, words)
    assert isinstance(error.__cause__, GeneratorExit)


@row(
    "own BaseException subclass",
    bar=ITSELF,
    outcome="CLEAN",
    pools=POOLS,
    peers="HANG | VAGUE 0.0s | VAGUE 0.0s | VAGUE 1.2s | CLEAN 0.0s",
)
def own_base(scene: Scene) -> None:
    raised(scene, raising(OwnBase, "base"), OwnBase, "^base$")


def recurse(depth: int) -> int:
    return recurse(depth + 1)


@row(
    "RecursionError, 1,000 frames",
    bar=ITSELF,
    outcome="CLEAN",
    pools=POOLS,
    peers="CLEAN 0.1s | CLEAN 0.0s | CLEAN 0.1s | CLEAN 1.5s | CLEAN 0.0s",
)
def recursion(scene: Scene) -> None:
    raised(scene, lambda: recurse(0), RecursionError, "maximum recursion")


@row(
    "ExceptionGroup",
    bar=f"{ITSELF}, members kept",
    outcome="CLEAN",
    pools=POOLS,
    peers="CLEAN 0.1s | VAGUE 0.0s | VAGUE 0.0s | CLEAN 1.6s | CLEAN 0.0s",
)
def group(scene: Scene) -> None:
    fault = raising(ExceptionGroup, "group", [ValueError("one"), KeyError("two")])
    error = raised(scene, fault, ExceptionGroup, "^group")
    assert [repr(member) for member in error.exceptions] == [
        "ValueError('one')",
        "KeyError('two')",
    ]


@row(
    "20 MB message",
    bar=ITSELF,
    outcome="CLEAN",
    pools=POOLS,
    peers="CLEAN 0.4s | CLEAN 0.3s | CLEAN 0.3s | CLEAN 1.4s | CLEAN 0.4s",
    memory=64 * 2**20,
)
def long_message(scene: Scene) -> None:
    def fault() -> Never:
        raise ValueError("x" * 20_000_000)

    error = raised(scene, fault, ValueError)
    assert error.args == ("x" * 20_000_000,)


@row(
    "FileNotFoundError(errno, text, name)",
    bar=f"{ITSELF} with errno and filename",
    outcome="CLEAN",
    pools=POOLS,
    peers="CLEAN 0.1s | CLEAN 0.0s | CLEAN 0.0s | CLEAN 1.1s | CLEAN 0.0s",
)
def file_not_found(scene: Scene) -> None:
    error = raised(scene, Path("/nowhere").read_text, FileNotFoundError, "/nowhere")
    assert (error.errno, error.filename) == (2, "/nowhere")


@row(
    "UnicodeDecodeError, whose constructor wants five arguments",
    bar=ITSELF,
    outcome="CLEAN",
    pools=NEIGHBOURS,
)
def unicode_error(scene: Scene) -> None:
    fault = raising(UnicodeDecodeError, "utf-8", b"\xff", 0, 1, "bad")
    assert raised(scene, fault, UnicodeDecodeError, "bad").object == b"\xff"


@row(
    "raises in epoch 1, two more epochs on the same loader",
    bar="both complete and exact, same workers",
    outcome="CLEAN",
    pools=POOLS,
    peers="CLEAN 0.1s | CLEAN 0.0s | CLEAN 0.0s | CLEAN 1.2s | CLEAN 0.0s",
)
def two_more_epochs(scene: Scene) -> None:
    with scene.loader(Struck(scene, raising(ValueError, "once"))) as loader:
        scene.expect_error(loader, ValueError, "^once$")
        workers = pids(loader) if scene.pool in PROCESSES else []
        for _ in range(2):
            check_all(loader, 20)
        assert not workers or pids(loader) == workers


@row("... the first batch", bar="at batch 0: itself", outcome="CLEAN", pools=NEIGHBOURS)
def first_batch(scene: Scene) -> None:
    raised(scene, raising(ValueError, "first"), ValueError, "^first$", at=0)


@row(
    "... the last batch",
    bar="at batch 19, after all others: itself",
    outcome="CLEAN",
    pools=NEIGHBOURS,
)
def last_batch(scene: Scene) -> None:
    raised(scene, raising(ValueError, "last"), ValueError, "^last$", at=19)


@row(
    "every batch raises, in two epochs",
    bar="at batch 0: itself, in each",
    outcome="CLEAN",
    pools=NEIGHBOURS,
)
def every_batch(scene: Scene) -> None:
    class Failing(Blocks):
        def __getitem__(self, index: int) -> Any:
            scene.strike()
            raise ValueError(index)

    with scene.loader(Failing(20)) as loader:
        for _ in range(2):
            scene.expect_error(loader, ValueError, "^0$", at=0)


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
    pools=("fork", "spawn"),
)
def reduce_raises(scene: Scene) -> None:
    def fault() -> Never:
        raise Reduces("mine")

    expect_remote(scene, fault, "Reduces", "mine")


@row(
    "... that raises when it is unpickled",
    bar=REMOTE,
    outcome="CLEAN",
    pools=("fork", "spawn"),
)
def unpickling_raises(scene: Scene) -> None:
    def fault() -> Never:
        raise Unmakes("mine")

    expect_remote(scene, fault, "Unmakes", "mine")


@row(
    "... that is no exception any more when it is unpickled",
    bar=REMOTE,
    outcome="CLEAN",
    pools=("fork", "spawn"),
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
    pools=("fork", "spawn"),
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
