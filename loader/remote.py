"""An exception from a worker process, made to arrive in the parent as itself.

Plain pickle calls an exception's class with its ``args``, which fails for every class
whose constructor wants something else. Here the pieces travel instead: class, ``args``,
attributes, notes, cause and context; the object is put together without its constructor.
A class that tells pickle how it is made is made that way. What still cannot travel
arrives as a :class:`~feedline.errors.RemoteError`.
"""

from __future__ import annotations

import pickle
import traceback
from contextlib import suppress
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast

from .errors import RemoteError, add_note
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
        body: Pickle of (class, arguments, attributes) or of the exception whole; None if
            there can be none.
        module: Where its class is defined.
        qualname: Name of its class.
        message: What it says.
        trace: Its traceback as text, where no note tells it.
        members: Members of an exception group.
        cause: ``__cause__``.
        context: ``__context__``.
        context_is_cause: Whether the two are one object; ``context`` is None then.
        suppress_context: ``__suppress_context__``.
        notes: ``__notes__``, the worker's traceback last.
    """

    body: bytes | None
    module: str
    qualname: str
    message: str
    trace: str
    members: tuple[PackedError, ...]
    cause: PackedError | None
    context: PackedError | None
    context_is_cause: bool
    suppress_context: bool
    notes: tuple[str, ...]


def pack_error(error: BaseException, origin: str) -> PackedError:
    """Take an exception apart, in the worker.

    Args:
        error: With its traceback.
        origin: Who raised it, such as ``"worker 1 (pid 4711)"``; opens the note that
            carries the traceback.
    """
    return _pack(error, set(), origin)


def unpack_error(packed: PackedError) -> BaseException:
    """Put the exception together again, in the parent."""
    error = _unpack_body(packed)
    for note in packed.notes:
        add_note(error, note)
    with suppress(Exception):  # a frozen exception takes none of these
        if packed.cause is not None:
            error.__cause__ = unpack_error(packed.cause)
        if packed.context_is_cause:
            error.__context__ = error.__cause__
        elif packed.context is not None:
            error.__context__ = unpack_error(packed.context)
        error.__suppress_context__ = packed.suppress_context
    return error


def _pack(error: BaseException, seen: set[int], origin: str | None) -> PackedError:
    seen.add(id(error))

    def link(other: BaseException | None) -> PackedError | None:
        if other is None or id(other) in seen or len(seen) >= _MOST_LINKS:
            return None
        return _pack(other, seen, None)

    members: tuple[PackedError, ...] = ()
    if isinstance(error, BaseExceptionGroup):
        members = tuple(_pack(member, seen, None) for member in error.exceptions)
    trace = "".join(traceback.format_tb(error.__traceback__)).rstrip()
    own = getattr(error, "__notes__", ())
    notes = [str(note) for note in own] if isinstance(own, (list, tuple)) else []
    if origin is not None:
        notes.append(f"In {origin}:\n{trace}")
        trace = ""
    same = error.__cause__ is not None and error.__context__ is error.__cause__
    return PackedError(
        body=_pack_body(error, members),
        module=type(error).__module__,
        qualname=type(error).__qualname__,
        message=_text_of(error),
        trace=trace,
        members=members,
        cause=link(error.__cause__),
        context=None if same else link(error.__context__),
        context_is_cause=same,
        suppress_context=error.__suppress_context__,
        notes=tuple(notes),
    )


def _pack_body(error: BaseException, members: tuple[PackedError, ...]) -> bytes | None:
    """The pickle of the pieces, if they survive the way there and back."""
    kind = type(error)
    try:
        whole: Any = error
        if not isinstance(kind.__reduce__, FunctionType):
            reduced: Any = error.__reduce__()
            args = reduced[1]
            if isinstance(error, BaseExceptionGroup):
                args = (error.message,)
            state = dict(reduced[2]) if len(reduced) > 2 and reduced[2] else {}
            whole = kind, args, _slots_of(error) | state
        body = bytes(pickled(whole, smallest=_NEVER_OUT_OF_BAND).body)
        rebuilt = _assemble(body, members, kind.__module__, kind.__qualname__)
    except Exception:  # noqa: BLE001 - whatever it is, the stand-in tells the story
        return None
    return body if type(rebuilt).__name__ == kind.__name__ else None


def _unpack_body(packed: PackedError) -> BaseException:
    module, qualname = packed.module, packed.qualname
    with suppress(Exception):  # it could be put together there, and not here
        if packed.body is not None:
            return _assemble(packed.body, packed.members, module, qualname)
    name = qualname if module == "builtins" else f"{module}.{qualname}"
    return RemoteError(name, packed.message, packed.trace)


def _assemble(
    body: bytes, members: tuple[PackedError, ...], module: str, qualname: str
) -> BaseException:
    whole = pickle.loads(body)
    if isinstance(whole, BaseException):
        return whole
    kind, args, state = whole
    kind = _class_here(kind, module, qualname)
    if members:
        args = (*args, [unpack_error(member) for member in members])
    error: BaseException = kind.__new__(kind, *args)
    _compiled_init(kind)(error, *args)
    state.pop("__notes__", None)
    for name, value in state.items():
        object.__setattr__(error, name, value)  # a frozen exception's own would refuse
    return error


def _compiled_init(kind: type[BaseException]) -> Callable[..., None]:
    """The constructor that sets what the interpreter knows of, such as ``errno``."""
    for base in kind.__mro__:
        init = vars(base).get("__init__")
        if init is not None and not isinstance(init, FunctionType):
            return cast("Callable[..., None]", init)
    return BaseException.__init__


def _class_here(
    kind: type[BaseException], module: str, qualname: str
) -> type[BaseException]:
    """This process's own class of that name, if cloudpickle brought a copy of it.

    A class made inside a function travels by value. The consumer's ``except`` names the
    original, which lives here too wherever the worker was forked.
    """
    if "<locals>" not in qualname:
        return kind
    waiting: list[type[BaseException]] = [BaseException]
    while waiting:
        other = waiting.pop()
        if other is not kind and (other.__module__, other.__qualname__) == (
            module,
            qualname,
        ):
            return other
        waiting += other.__subclasses__()
    return kind


def _slots_of(error: BaseException) -> dict[str, Any]:
    names = {
        name
        for base in type(error).__mro__
        for name in vars(base).get("__slots__", ())
        if isinstance(name, str) and not name.startswith("__")
    }
    return {name: getattr(error, name) for name in names if hasattr(error, name)}


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as failure:  # noqa: BLE001 - a broken __str__ is the user's
        return f"<its __str__ raised {failure!r}>"
