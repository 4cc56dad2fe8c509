"""Objects to bytes: pickle, without the copies that plain pickle makes.

Protocol 5 keeps large buffers out of the stream. Arrays and torch's CPU tensors are
reduced here rather than by their own classes: strided ones too, without a detour through
``bytes``. What plain pickle refuses (lambdas, classes of a function or a notebook) goes
through cloudpickle, which carries code by value; that is the exception and never the hot
path. Runs in workers and in the parent; keeps no state.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from .default_seed import import_framework

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Place: TypeAlias = Callable[[int], NDArray[np.uint8]]
    Home: TypeAlias = Callable[[int, int], NDArray[np.uint8] | None]

__all__ = ["REFUSALS", "Pickled", "allocate", "find_refused", "pickled"]

# What pickle and cloudpickle raise for something they cannot pickle.
REFUSALS = (pickle.PicklingError, TypeError, AttributeError)

_PLAIN_KINDS = "biufc"  # dtypes whose arrays export the buffer protocol as they are


@dataclass(slots=True)
class Pickled:
    """An object as bytes.

    Attributes:
        body: The pickle stream.
        buffers: What it left out, each contiguous, in the order in which
            ``pickle.loads(body, buffers=...)`` wants it back.
    """

    body: memoryview
    buffers: list[memoryview]


def allocate(size: int) -> NDArray[np.uint8]:
    """Room for ``size`` bytes on the heap."""
    return np.empty(size, np.uint8)


def nowhere(address: int, size: int) -> None:
    """No memory is where its reader will look for it."""


def pickled(
    value: Any,
    *,
    smallest: int,
    place: Place = allocate,
    home: Home = nowhere,
    prefer_value: bool = False,
    files: bool = False,
) -> Pickled:
    """Pickle ``value``.

    Args:
        value: Anything.
        smallest: Buffers of at least this many bytes stay out of the stream.
        place: Gives room for the one copy that a strided array needs.
        home: Gives back the bytes from an address on if they are where the reader will
            look, so that an array there travels as it lies, strided or not.
        prefer_value: Whether cloudpickle tries first, and plain pickle what that one
            refuses: for a reader that may not have this process's ``__main__``.
        files: Whether arrays mapped from a file travel as the file's name.

    Raises:
        PicklingError, TypeError, AttributeError: It cannot be pickled.
        Exception: Whatever a ``__reduce__`` inside it raises.
    """
    reduce = _Reductions(place, home, files)
    with suppress(*REFUSALS):
        return _dump(value, smallest, reduce, by_value=prefer_value)
    return _dump(value, smallest, reduce, by_value=not prefer_value)


def find_refused(value: Any, name: str) -> tuple[str, str]:
    """Find what keeps ``value`` from being pickled.

    Args:
        value: Something that :func:`pickled` refuses.
        name: What to call it, such as ``"batch"``.

    Returns:
        The path to the innermost refused part, and its type with the refusal.
    """
    path, seen = name, {id(value)}
    while True:
        refusal = _refusal(value)
        for step, part in _parts(value):
            if id(part) not in seen and _refusal(part) is not None:
                seen.add(id(part))
                path, value = path + step, part
                break
        else:
            return path, f"of type {type(value).__qualname__!r} ({refusal})"


@dataclass(slots=True)
class _Reductions:
    """How either pickler takes arrays and tensors apart."""

    place: Place
    home: Home
    files: bool

    def __call__(self, value: Any) -> Any:
        kind = type(value)
        if self.files and kind in (np.ndarray, np.memmap):
            by_name = _reduce_mapped_file(value)
            if by_name is not None:
                return by_name
        if kind is np.ndarray:
            return _reduce_array(value, self.place, self.home)
        if kind is np.memmap:
            return np.ndarray.view, (np.asarray(value), np.memmap)
        torch = sys.modules.get("torch")
        if torch is not None and kind is getattr(torch, "Tensor", None):
            return _reduce_tensor(value, self.place)
        return NotImplemented


class _PlainPickler(pickle.Pickler):
    """Plain pickle; ``reducer_override`` is set on each, with no method in between."""


@cache
def _by_value_pickler() -> Any:
    import cloudpickle

    class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
        reduce: _Reductions

        def reducer_override(self, value: Any) -> Any:
            reduced = self.reduce(value)
            return (
                super().reducer_override(value)
                if reduced is NotImplemented
                else reduced
            )

    return ByValuePickler


def _dump(value: Any, smallest: int, reduce: _Reductions, *, by_value: bool) -> Pickled:
    file = io.BytesIO()
    buffers: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < smallest:
            return True
        buffers.append(raw)
        return False

    pickler: Any
    if by_value:
        pickler = _by_value_pickler()(file, 5, buffer_callback=keep)
        pickler.reduce = reduce
    else:
        pickler = _PlainPickler(file, 5, buffer_callback=keep)
        pickler.reducer_override = reduce
    pickler.dump(value)
    return Pickled(file.getbuffer(), buffers)


def _reduce_array(array: NDArray[Any], place: Place, home: Home) -> Any:
    dtype = array.dtype
    if dtype.hasobject or not dtype.itemsize:
        return NotImplemented
    flags, order = array.flags, "C"
    if flags.f_contiguous and not flags.c_contiguous:
        order = "F"
    elif not flags.c_contiguous:
        if (lying := _reduce_lying(array, home)) is not None:
            return lying
        copy = place(array.nbytes).view(dtype).reshape(array.shape)
        np.copyto(copy, array)
        copy.flags.writeable = _is_writable(array)
        array = copy
    if dtype.kind in _PLAIN_KINDS and dtype.isbuiltin == 1:
        return np.ndarray, (array.shape, dtype.str, _buffer(array), 0, None, order)
    flat = (array.T if order == "F" else array).reshape(-1).view(np.uint8)
    return np.ndarray, (array.shape, dtype, _buffer(flat), 0, None, order)


def _reduce_lying(array: NDArray[Any], home: Home) -> Any:
    """The strides of an array, and the bytes that it is spread over, if they are home."""
    start = array.__array_interface__["data"][0]
    spans = [
        (size - 1) * stride
        for size, stride in zip(array.shape, array.strides, strict=True)
    ]
    before = -sum(span for span in spans if span < 0)
    nbytes = before + sum(span for span in spans if span > 0) + array.itemsize
    spread = home(start - before, nbytes)
    if spread is None:
        return None
    spread.flags.writeable = _is_writable(array)
    place = _buffer(spread), before, array.strides
    return np.ndarray, (array.shape, array.dtype, *place)


def _is_writable(array: NDArray[Any]) -> bool:
    # Not flags.writeable, which warns where an array was broadcast.
    return not array.__array_interface__["data"][1]


def _buffer(array: Any) -> pickle.PickleBuffer:
    return pickle.PickleBuffer(array)


def _reduce_mapped_file(array: NDArray[Any]) -> Any:
    """The file behind a memory-mapped array and the place in it, if there is one."""
    root: Any = array
    while isinstance(root, np.ndarray) and not isinstance(root, np.memmap):
        root = root.base
    mapped = getattr(root, "_mmap", None)
    if mapped is None or root.mode == "c" or not array.size:
        return None
    if root.filename is None or not os.path.exists(root.filename):
        return None
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        return None
    order: Literal["C", "F"] = "C" if array.flags.c_contiguous else "F"
    mode = "r" if root.mode == "r" else "r+"
    start = np.frombuffer(mapped, np.uint8).__array_interface__["data"][0]
    inside = array.__array_interface__["data"][0] - start
    offset = root.offset - root.offset % mmap.ALLOCATIONGRANULARITY + inside
    place = os.fspath(root.filename), mode, offset
    return _open_mapped_file, (*place, array.dtype, array.shape, order, type(array))


def _open_mapped_file(
    name: str,
    mode: Literal["r", "r+"],
    offset: int,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    order: Literal["C", "F"],
    kind: type[NDArray[Any]],
) -> NDArray[Any]:
    array = np.memmap(name, dtype, mode, offset, shape, order)
    return array if kind is np.memmap else np.asarray(array)


def _reduce_tensor(tensor: Any, place: Place) -> Any:
    import torch

    if tensor.device.type != "cpu" or tensor.layout is not torch.strided:
        return NotImplemented
    if tensor.is_quantized or tensor.is_nested or vars(tensor):
        return NotImplemented
    plain = tensor.detach().resolve_conj().resolve_neg()
    # Any dense order of the axes (channels_last, a transpose) travels as it lies.
    axes = sorted(range(plain.ndim), key=plain.stride, reverse=True)
    dense = plain.permute(axes)
    if not dense.is_contiguous():
        axes = list(range(plain.ndim))
        room = torch.from_numpy(place(plain.nbytes))
        dense = room.view(plain.dtype).reshape(plain.shape).copy_(plain)
    raw = dense.reshape(-1).view(torch.uint8).numpy() if dense.numel() else None
    name = str(plain.dtype).removeprefix("torch.")
    return _tensor, (raw, name, tuple(dense.shape), axes, tensor.requires_grad)


def _tensor(
    raw: NDArray[np.uint8] | None,
    dtype: str,
    shape: tuple[int, ...],
    axes: list[int],
    requires_grad: bool,
) -> Any:
    """Rebuild a tensor over the memory of ``raw``."""
    if "torch" not in sys.modules:
        import_framework("torch")
    import torch

    kind = getattr(torch, dtype)
    flat = (
        torch.empty(0, dtype=kind) if raw is None else torch.from_numpy(raw).view(kind)
    )
    back = sorted(range(len(axes)), key=axes.__getitem__)
    tensor = flat.reshape(shape).permute(back)
    return tensor.requires_grad_() if requires_grad else tensor


def _refusal(value: Any) -> str | None:
    try:
        pickled(value, smallest=1)
    except Exception as error:  # noqa: BLE001 - any refusal is an answer here
        return str(error)
    return None


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What ``value`` is made of, each with the step that leads to it."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield f"[{key!r}]", part
    elif isinstance(value, (list, tuple, set, frozenset)):
        for number, part in enumerate(value):
            yield f"[{number}]", part
    with suppress(Exception):  # what it does to be pickled may be what fails
        reduced = value.__reduce_ex__(5)
        states = reduced[2] if isinstance(reduced, tuple) and len(reduced) > 2 else None
        for state in states if isinstance(states, tuple) else (states,):
            if isinstance(state, dict):
                yield from ((f".{name}", part) for name, part in state.items())
