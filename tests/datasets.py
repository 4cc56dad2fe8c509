"""Datasets that spawned workers can import by name, and the gates that tests open.

A gate is a folder: who arrives leaves a file there, and goes on when another file lets it
through. Files work alike for threads, forked, served and spawned processes, and leave
nothing behind but the test's own temporary folder.
"""

from __future__ import annotations

import ctypes
import enum
import os
import random
import signal
import threading
import time
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Never

import numpy as np

from feedline import Loader, PyDataset, get_worker_info

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PATIENCE = 20.0  # seconds; only how long a broken build takes to fail
_STEP = 0.002  # seconds between two looks at a folder


def wait_until(
    true: Callable[[], object], what: str, seconds: float = PATIENCE
) -> None:
    """Wait for a fact."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s in vain: {what}")
        time.sleep(_STEP)


class Gate:
    """A place where workers report and wait."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def arrive(self, name: object) -> bool:
        """Leave a sign; False if it was there already."""
        try:
            os.close(os.open(self.folder / f"{name}.here", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def pass_through(self, name: object) -> None:
        """Leave a sign and wait to be let through."""
        self.arrive(name)
        wait_until(
            lambda: self._is_open(name) or self._is_open("all"), f"gate {name!r} opens"
        )

    def let(self, name: object) -> None:
        (self.folder / f"{name}.open").touch()

    def let_all(self) -> None:
        self.let("all")

    def has_arrived(self, name: object) -> bool:
        return (self.folder / f"{name}.here").exists()

    def await_arrival(self, name: object, seconds: float = PATIENCE) -> None:
        wait_until(lambda: self.has_arrived(name), f"{name!r} arrives", seconds)

    def arrived(self) -> set[str]:
        return {path.stem for path in self.folder.glob("*.here")}

    def _is_open(self, name: object) -> bool:
        return (self.folder / f"{name}.open").exists()


def block(index: int, size: int = 2000) -> Any:
    """What a batch of these datasets holds: a function of its index alone."""
    return np.arange(size, dtype=np.int64) * 31 + index * 1_000_003


class Blocks(PyDataset):
    """Batches known by their index."""

    def __init__(self, length: int | None = 12, size: int = 2000) -> None:
        super().__init__()
        self.length = length
        self.size = size

    @property
    def num_batches(self) -> int | None:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return index, block(index, self.size)


class Numbers(PyDataset):
    """Batch i is the number i."""

    def __init__(self, length: int = 12) -> None:
        super().__init__()
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return index


class Bare:
    """Neither a PyDataset nor with attributes of one."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> int:
        return index * 10


class Gated(Numbers):
    """Batches that report and wait."""

    def __init__(self, folder: Path, length: int = 12) -> None:
        super().__init__(length)
        self.gate = Gate(folder)

    def __getitem__(self, index: int) -> Any:
        self.gate.pass_through(index)
        return index


class Reporting(Numbers):
    """Batches that report; large enough to be counted."""

    def __init__(self, folder: Path, length: int = 24, size: int = 10_000) -> None:
        super().__init__(length)
        self.gate = Gate(folder)
        self.size = size

    def __getitem__(self, index: int) -> Any:
        self.gate.arrive(index)
        return np.full(self.size, index, np.uint8)


class Uneven(Reporting):
    """Small batches, and after a few of them some that are a thousand times as large.

    The first large one is finished only after the next has begun.
    """

    def bytes_of(self, index: int) -> int:
        return 1_000_000 if index > 4 and index % 3 else 1000

    def __getitem__(self, index: int) -> Any:
        self.gate.arrive(index)
        if index == 5:
            self.gate.await_arrival(7)
        return np.full(self.bytes_of(index), index % 256, np.uint8)


class Reversing(Numbers):
    """Batch 0 is finished only after all others have begun."""

    def __init__(self, folder: Path, length: int = 6) -> None:
        super().__init__(length)
        self.gate = Gate(folder)

    def __getitem__(self, index: int) -> Any:
        self.gate.arrive(index)
        if not index:
            self.gate.await_arrival(self.length - 1)
        return index


class RngDraws(Numbers):
    """What the batch's own generator gives, in two ways."""

    def __getitem__(self, index: int) -> Any:
        info = get_worker_info()
        assert info is not None
        return index, self.rng.integers(0, 2**62, 4), info.rng.random(300), info.seed


class GlobalDraws(Numbers):
    """What the global generators give."""

    def __getitem__(self, index: int) -> Any:
        return index, random.random(), np.random.random(3).tolist()


class TorchDraws(Numbers):
    """What torch's global generator gives."""

    def __getitem__(self, index: int) -> Any:
        import torch

        return index, *torch.rand(3).tolist()


class Stateful(Numbers):
    """Both hooks change the state; each batch tells it, and who built it."""

    def __init__(self, length: int = 8, large: int = 40_000) -> None:
        super().__init__(length)
        self.begun = 0
        self.ended = 0
        self.large = np.zeros(large)  # changed in place
        self.calls: list[tuple[str, int]] = []

    def on_epoch_begin(self) -> None:
        self.begun += 1
        self.calls.append(("begin", os.getpid()))
        self.large += 1

    def on_epoch_end(self) -> None:
        self.ended += 1
        self.calls.append(("end", os.getpid()))
        self.large += 1000

    def __getitem__(self, index: int) -> Any:
        low, high = float(self.large.min()), float(self.large.max())
        return index, self.begun, self.ended, low, high, os.getpid()


class Unpicklable(Stateful):
    """A dataset that only a fork can copy."""

    def __init__(self, length: int = 8) -> None:
        super().__init__(length)
        self.lock = threading.Lock()


class Growing(Numbers):
    """A hook changes the length."""

    def on_epoch_begin(self) -> None:
        self.length += 1


class HookRaises(Numbers):
    """A hook raises in one epoch."""

    def __init__(self, hook: str, epoch: int) -> None:
        super().__init__()
        self.hook = hook
        self.left = epoch

    def _step(self, hook: str) -> None:
        if hook == self.hook:
            self.left -= 1
            if self.left == -1:
                raise LookupError(f"{hook} failed")

    def on_epoch_begin(self) -> None:
        self._step("on_epoch_begin")

    def on_epoch_end(self) -> None:
        self._step("on_epoch_end")


class TwoArguments(Exception):
    """Cannot be rebuilt from its message."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code
        self.text = text


class HoldsLock(Exception):
    """Cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class OwnBase(BaseException):
    """No Exception."""


class Raises(Numbers):
    """One batch raises."""

    def __init__(self, at: int, kind: str, length: int = 8) -> None:
        super().__init__(length)
        self.at = at
        self.kind = kind

    def __getitem__(self, index: int) -> Any:
        if index == self.at:
            self._raise()
        return index

    def _raise(self) -> Never:
        match self.kind:
            case "chained":
                error = ValueError("outer")
                error.add_note("a note of the user's")
                raise error from KeyError("inner")
            case "KeyboardInterrupt":
                raise KeyboardInterrupt("in a batch")
            case _:
                raise AssertionError(self.kind)


class RaisesTwice(Numbers):
    """Each batch fails twice before it succeeds."""

    def __init__(self, folder: Path, length: int = 6) -> None:
        super().__init__(length)
        self.gate = Gate(folder)

    def __getitem__(self, index: int) -> Any:
        for attempt in range(2):
            if self.gate.arrive(f"{index}-{attempt}"):
                raise OSError(f"attempt {attempt}")
        return index


class Infos(Numbers):
    """What get_worker_info tells."""

    def __getitem__(self, index: int) -> Any:
        info = get_worker_info()
        assert info is not None
        return index, info.id, info.num_workers, info.epoch, info.index, info.seed


class Nested(Numbers):
    """Each batch is an epoch of another loader, inside the worker."""

    def __init__(self, multiprocessing: bool) -> None:
        super().__init__(4)
        self.multiprocessing = multiprocessing

    def __getitem__(self, index: int) -> Any:
        inner = Blocks(5)
        with Loader(
            inner, workers=2, use_multiprocessing=self.multiprocessing
        ) as loader:
            return index, [(i, int(array.sum())) for i, array in loader]


class Calls(Numbers):
    """Batch i is what a function makes of i."""

    def __init__(self, function: Callable[[int], Any], length: int = 8) -> None:
        super().__init__(length)
        self.function = function

    def __getitem__(self, index: int) -> Any:
        return self.function(index)


class Stamped(PyDataset):
    """x tells the batch's index, y in which pass it was built."""

    def __init__(self, length: int = 5) -> None:
        super().__init__()
        self.length = length
        self.begun = 0
        self.ended = 0

    def __len__(self) -> int:
        return self.length

    def on_epoch_begin(self) -> None:
        self.begun += 1

    def on_epoch_end(self) -> None:
        self.ended += 1

    def __getitem__(self, index: int) -> Any:
        size = 3 if index == self.length - 1 else 4  # the last batch is a partial one
        return (
            np.full((size, 3), index, "float32"),
            np.full((size, 1), self.begun, "float32"),
        )


class Named(PyDataset):
    """Two inputs and two outputs by name."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        x = {"a": np.ones((4, 2), "float32"), "b": np.ones((4, 1), "float32")}
        y = {name: np.ones((4, 1), "float32") for name in "pq"}
        return x, y


class Weighted(PyDataset):
    """Classes in y; with weights of the samples, or without."""

    def __init__(self, *, own: bool) -> None:
        super().__init__()
        self.own = own

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        y = np.array([0, 1, 2, 1], "float32")
        x = np.arange(12, dtype="float32").reshape(4, 3) + index
        batch = x, y[:, None]
        weight = np.array([2.0, 0.5, 1.0, 0.5], "float32")
        return (*batch, weight) if self.own else batch


Pair = namedtuple("Pair", ["left", "right"])  # noqa: PYI024 - as users write them


@dataclass
class Record:
    """A dataclass batch."""

    name: str
    values: Any


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


def _read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


def odd_batches() -> dict[str, Any]:
    """NumPy's and Python's types of batches, by name."""
    wide = np.arange(6000, dtype=np.float64).reshape(60, 100)
    return {
        "int": 5,
        "big int": 2**200,
        "float": 0.1,
        "complex": 1j,
        "bool": True,
        "none": None,
        "str": "text ü",
        "bytes": b"raw",
        "large bytes": b"0123456789" * 3000,
        "bytearray": bytearray(b"abc" * 3000),
        "empty list": [],
        "tuple": (1, "two", 3.0),
        "set": {1, 2},
        "frozenset": frozenset({3}),
        "dict": {"x": wide, "y": [wide, 1]},
        "ordered": OrderedDict(b=1, a=2),
        "namedtuple": Pair(wide, 2),
        "dataclass": Record("n", wide),
        "enum": Colour.BLUE,
        "range": range(3),
        "slice": slice(1, 2),
        "numpy scalar": np.float32(1.5),
        "numpy bool": np.bool_(True),
        "datetime64": np.datetime64("2026-01-02"),
        "zero-d": np.array(3.5),
        "empty": np.empty((0, 4), np.float32),
        "empty middle": np.empty((3, 0, 2)),
        "small": np.arange(3),
        "wide": wide,
        "fortran": np.asfortranarray(wide),
        "transposed": wide.T,
        "strided": wide[::2, 1::3],
        "reversed": wide[::-1],
        "broadcast": np.broadcast_to(np.arange(3000.0), (4, 3000)),
        "read only": _read_only(wide.copy()),
        "small read only": _read_only(np.arange(3)),
        "read only strided": _read_only(wide.copy())[::2],
        "big endian": wide.astype(">f8"),
        "float16": wide.astype(np.float16),
        "longdouble": wide.astype(np.longdouble),
        "complex64": wide.astype(np.complex64),
        "bools": wide > 3,
        "strings": np.array(["a", "bcd"] * 2000),
        "byte strings": np.array([b"a", b"bcd"] * 2000),
        "objects": np.array([1, "two", None, [3]], dtype=object),
        "times": np.arange("2020-01", "2021-01", dtype="datetime64[D]").repeat(20),
        "deltas": np.arange(3000).astype("timedelta64[s]"),
        "structured": np.zeros(2000, dtype=[("a", "i4"), ("b", "f8", (2,))]),
        "aligned": np.zeros(
            2000, dtype=np.dtype([("a", "i1"), ("b", "f8")], align=True)
        ),
        "record array": np.zeros(900, "i4,f8").view(np.recarray),
        "masked": np.ma.masked_less(wide.copy(), 5),
        "void": np.zeros(3000, dtype="V5"),
        "same twice": [wide, wide],
        "view and base": [wide, wide[:10]],
        "deep": [[[[[[wide]]]]]],
    }


def torch_batches() -> dict[str, Any]:
    """Torch's types of batches, by name."""
    import torch

    wide = torch.arange(6000, dtype=torch.float32).reshape(60, 100)
    named = "float64 float16 bfloat16 int8 uint8 int16 int32 int64 bool complex64"
    made: dict[str, Any] = {
        name: wide.to(getattr(torch, name)) for name in named.split()
    }
    made |= {
        "zero-d": torch.tensor(3),
        "empty": torch.empty(0, 3),
        "transposed": wide.T,
        "strided": wide[::2, ::3],
        "expanded": torch.arange(3000.0).expand(4, 3000),
        "channels last": torch.arange(9600.0)
        .reshape(2, 3, 40, 40)
        .contiguous(memory_format=torch.channels_last),
        "gradient": torch.ones(2000, requires_grad=True),
        "conj": torch.view_as_complex(torch.arange(4000.0).reshape(2000, 2)).conj(),
        "float8": wide.to(torch.float8_e4m3fn),
        "sparse": torch.eye(50).to_sparse(),
        "parameter": torch.nn.Parameter(torch.ones(2000)),
        "generator state": torch.Generator().get_state(),
        "in dict": {"x": wide, "y": torch.arange(3)},
    }
    return made


class OddBatches(PyDataset):
    """One odd batch after another."""

    def __init__(self, with_torch: bool) -> None:
        super().__init__()
        self.with_torch = with_torch
        self._made: dict[str, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}

    def _get(self) -> dict[str, Any]:
        if self._made is None:
            self._made = torch_batches() if self.with_torch else odd_batches()
        return self._made

    def __len__(self) -> int:
        return len(self._get())

    def __getitem__(self, index: int) -> Any:
        return list(self._get().items())[index]


class Dies(PyDataset):
    """One batch ends its worker, some times, in some way."""

    def __init__(
        self, folder: Path, how: str, at: int = 7, times: int = 1, length: int = 20
    ) -> None:
        super().__init__()
        self.gate = Gate(folder)
        self.how = how
        self.at = at
        self.times = times
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        if index == self.at and any(
            self.gate.arrive(f"death-{number}") for number in range(self.times)
        ):
            die(self.how)
        return index, block(index)


def die(how: str) -> Never:
    """End this process by a signal, or by a crash in C that has the same end."""
    if how == "null pointer":
        ctypes.string_at(0)
    os.kill(os.getpid(), getattr(signal, how))
    time.sleep(PATIENCE)
    raise AssertionError(f"survived {how}")


class Slow(Numbers):
    """One batch hangs."""

    def __init__(self, folder: Path, at: int = 3, length: int = 8) -> None:
        super().__init__(length)
        self.gate = Gate(folder)
        self.at = at

    def __getitem__(self, index: int) -> Any:
        if index == self.at and not self.gate.has_arrived("over"):
            self.gate.arrive(os.getpid())
            self.gate.arrive("hanging")
            hang_here(self.gate)
        return index


class Hangs(Numbers):
    """Some batches hang, the first times, each in one of these ways:

    ``"Python"``, ``"C"`` with the interpreter's lock held; ``"SIGKILL"`` ends the worker.
    """

    def __init__(
        self, folder: Path, ways: dict[int, list[str]], length: int = 8
    ) -> None:
        super().__init__(length)
        self.gate = Gate(folder)
        self.ways = ways

    def __getitem__(self, index: int) -> Any:
        for number, way in enumerate(self.ways.get(index, ())):
            if self.gate.arrive(f"{index}-{number}"):
                self.gate.arrive(os.getpid())
                self._hang(way)
                break
        return index

    def _hang(self, way: str) -> None:
        if way == "C":
            ctypes.PyDLL(None).sleep(60)
        elif way == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        hang_here(self.gate)


def hang_here(gate: Gate) -> None:
    """A name to look for in a stack."""
    wait_until(lambda: gate.has_arrived("over"), "the hang is over", 60.0)


class Pids(Numbers):
    """Who built what."""

    def __init__(self, folder: Path, length: int = 12) -> None:
        super().__init__(length)
        self.gate = Gate(folder)

    def __getitem__(self, index: int) -> Any:
        self.gate.arrive(f"{os.getpid()}-{index}")
        return index, os.getpid()


def fail_in_worker(worker: int) -> None:
    """A worker_init_fn that fails."""
    raise OSError(f"no licence for worker {worker}")


def import_torch(worker: int) -> None:
    """A worker_init_fn that loads a framework."""
    import torch  # noqa: F401


@dataclass
class Remember:
    """A worker_init_fn that leaves its number where batches find it."""

    offset: int

    def __call__(self, worker: int) -> None:
        remembered.number = worker + self.offset


remembered = threading.local()


class Remembered(Numbers):
    """What worker_init_fn left."""

    def __getitem__(self, index: int) -> Any:
        info = get_worker_info()
        assert info is not None
        return remembered.number - info.id
