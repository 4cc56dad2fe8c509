"""An exception from a worker process, made to arrive in the parent as itself.

Plain pickle calls an exception's class with its ``args``, which fails for every class
whose constructor wants something else. Here the pieces travel instead: class, ``args``,
attributes, notes, cause and context; the object is put together without its constructor.
What still cannot travel arrives as a :class:`~feedline.errors.RemoteError`.
"""

from __future__ import annotations

import pickle
import traceback
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast

from .errors import RemoteError
from .pickling import pickled

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PackedError", "pack_error", "unpack_error"]

_NEVER_OUT_OF_BAND = 2**62  # bytes
_MOST_LINKS = 64  # causes, contexts and group members in one exception


@dataclass(frozen=True, slots=True)
class PackedError:
    """An exception in pieces, each of which can be pickled.

    Attributes:
        body: Pickle of (class, arguments, attributes); None if there can be none.
        stand_in: Type name, message and traceback, where ``body`` is None.
        members: Members of an exception group.
        cause: ``__cause__``.
        context: ``__context__``.
        suppress_context: ``__suppress_context__``.
        notes: ``__notes__``, the worker's traceback last.
    """

    body: bytes | None
    stand_in: tuple[str, str, str]
    members: tuple[PackedError, ...]
    cause: PackedError | None
    context: PackedError | None
    suppress_context: bool
    notes: tuple[str, ...]


def pack_error(error: BaseException, origin: str) -> PackedError:
    """Take an exception apart, in the worker.

    Args:
        error: With its traceback.
        origin: Who raised it, such as ``"worker 1 (pid 4711)"``; opens the note that
            carries the traceback.
    """
    trace = "".join(traceback.format_tb(error.__traceback__))
    packed = _pack(error, set())
    notes = (*packed.notes, f"In {origin}:\n{trace.rstrip()}")
    return PackedError(
        packed.body,
        (*packed.stand_in[:2], ""),  # the note tells the traceback already
        packed.members,
        packed.cause,
        packed.context,
        packed.suppress_context,
        notes,
    )


def unpack_error(packed: PackedError) -> BaseException:
    """Put the exception together again, in the parent."""
    error = _unpack_body(packed)
    for note in packed.notes:
        error.add_note(note)
    if packed.cause is not None:
        error.__cause__ = unpack_error(packed.cause)
    if packed.context is not None:
        error.__context__ = unpack_error(packed.context)
    error.__suppress_context__ = packed.suppress_context
    return error


def _pack(error: BaseException, seen: set[int]) -> PackedError:
    seen.add(id(error))

    def link(other: BaseException | None) -> PackedError | None:
        if other is None or id(other) in seen or len(seen) >= _MOST_LINKS:
            return None
        return _pack(other, seen)

    members: tuple[PackedError, ...] = ()
    if isinstance(error, BaseExceptionGroup):
        members = tuple(_pack(member, seen) for member in error.exceptions)
    trace = "".join(traceback.format_tb(error.__traceback__)).rstrip()
    return PackedError(
        _pack_body(error, members),
        (_name_of(type(error)), _text_of(error), trace),
        members,
        link(error.__cause__),
        link(error.__context__),
        error.__suppress_context__,
        tuple(str(note) for note in getattr(error, "__notes__", ())),
    )


def _pack_body(error: BaseException, members: tuple[PackedError, ...]) -> bytes | None:
    """The pickle of the pieces, if they survive the way there and back."""
    try:
        reduced: Any = error.__reduce__()
        make, args, *rest = reduced
        state = dict(rest[0]) if rest and rest[0] else {}
        state.pop("__notes__", None)
        if isinstance(error, BaseExceptionGroup):
            args = (error.message,)
        body = bytes(pickled((make, args, state), smallest=_NEVER_OUT_OF_BAND).body)
        rebuilt = _assemble(body, members)
    except Exception:  # noqa: BLE001 - whatever it is, the stand-in tells the story
        return None
    return body if type(rebuilt).__qualname__ == type(error).__qualname__ else None


def _unpack_body(packed: PackedError) -> BaseException:
    if packed.body is not None:
        try:
            return _assemble(packed.body, packed.members)
        except Exception:  # noqa: BLE001 - it could be unpickled there, and not here
            return RemoteError(*packed.stand_in)
    return RemoteError(*packed.stand_in)


def _assemble(body: bytes, members: tuple[PackedError, ...]) -> BaseException:
    make, args, state = pickle.loads(body)
    if members:
        args = (*args, [unpack_error(member) for member in members])
    if isinstance(make, type) and issubclass(make, BaseException):
        kind = _class_here(make)
        error: BaseException = kind.__new__(kind, *args)
        _compiled_init(kind)(error, *args)
    else:
        error = make(*args)
    for name, value in state.items():
        setattr(error, name, value)
    return error


def _compiled_init(kind: type[BaseException]) -> Callable[..., None]:
    """The constructor that sets what the interpreter knows of, such as ``errno``."""
    for base in kind.__mro__:
        init = vars(base).get("__init__")
        if init is not None and not isinstance(init, FunctionType):
            return cast("Callable[..., None]", init)
    return BaseException.__init__


def _class_here(kind: type[BaseException]) -> type[BaseException]:
    """This process's own class of that name, if cloudpickle brought a copy of it.

    A class made inside a function travels by value. The consumer's ``except`` names the
    original, which lives here too wherever the worker was forked.
    """
    if "<locals>" not in kind.__qualname__:
        return kind
    for base in kind.__mro__[1:]:
        same: list[type[BaseException]] = [
            other
            for other in cast("list[type[BaseException]]", base.__subclasses__())
            if other is not kind
            and (other.__module__, other.__qualname__)
            == (kind.__module__, kind.__qualname__)
        ]
        if same:
            return same[0]
    return kind


def _name_of(kind: type) -> str:
    module = kind.__module__
    return (
        kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"
    )


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as failure:  # noqa: BLE001 - a broken __str__ is the user's
        return f"<its __str__ raised {failure!r}>"
