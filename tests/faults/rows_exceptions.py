"""A batch raises: what arrives, where, and what it still knows."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

from feedline import RemoteError
from tests.datasets import Blocks, HoldsLock, OwnBase, TwoArguments

from .rows import EVERYWHERE, POOLS, PROCESSES, row
from .scene import Scene, Struck, Vague, check_all, pids

if TYPE_CHECKING:
    from collections.abc import Callable

WHERE = "at batch 7, after batches 0-6: "
ITSELF = f"{WHERE}itself"
REMOTE = f"{WHERE}RemoteError with type name, message, traceback"
NEIGHBOURS = ("threads", "fork")


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
        assert f"in {fault.__name__}" in told(scene, error)
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
    assert "in fault" in told(scene, error)


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


@row(
    "the first batch raises",
    bar="at batch 0: itself",
    outcome="CLEAN",
    pools=NEIGHBOURS,
)
def first_batch(scene: Scene) -> None:
    raised(scene, raising(ValueError, "first"), ValueError, "^first$", at=0)


@row(
    "the last batch raises",
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
