"""An exception arrives as itself, whatever its class, or as a stand-in that tells all."""

from __future__ import annotations

import dataclasses
import errno
import json
import multiprocessing
import pickle
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from feedline import RemoteError
from feedline.remote import PackedError, pack_error, unpack_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from pathlib import Path


def raised(make: Callable[[], Any]) -> BaseException:
    """What ``make`` raises or returns, with a traceback."""
    try:
        raise make()  # noqa: TRY301 - what it says is what this is for
    except BaseException as error:  # noqa: BLE001 - any may travel
        return error


def sent(error: BaseException) -> BaseException:
    """``error`` after its way through a worker's pickle."""
    packed = pickle.loads(pickle.dumps(pack_error(error, "worker 1 (pid 4711)")))
    assert isinstance(packed, PackedError)
    return unpack_error(packed)


def trip(make: Callable[[], Any]) -> Any:
    return sent(raised(make))


class TwoArguments(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code
        self.text = text


class OnlyKeywords(ValueError):
    def __init__(self, *, path: str) -> None:
        super().__init__(f"cannot read {path}")
        self.path = path


class Reduced(Exception):
    """Tells pickle how to make it, as the manual advises."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code
        self.text = text

    def __reduce__(self) -> Any:
        return type(self), (self.code, self.text)


class Stateful(Exception):
    """Has a state that is no dict."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code

    def __reduce__(self) -> Any:
        return _make_stateful, (self.code,), [self.code, "more"]

    def __setstate__(self, state: Any) -> None:
        self.code, self.more = state


def _make_stateful(code: int) -> Stateful:
    return Stateful(code)


class Slotted(Exception):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__("slotted")
        self.code = code


@dataclass(frozen=True)
class Frozen(Exception):
    code: int
    text: str


@dataclass
class Thawed(Exception):
    code: int
    text: str


class OwnGroup(ExceptionGroup[Exception]):
    def derive(self, excs: Any) -> Any:
        return OwnGroup(self.message, excs)


class OwnBase(BaseException):
    pass


class FileGone(FileNotFoundError):
    def __init__(self, name: str) -> None:
        super().__init__(errno.ENOENT, "gone", name)
        self.name = name


@pytest.mark.parametrize(
    "make",
    [
        lambda: ValueError("plain"),
        lambda: ValueError(),
        lambda: KeyError("seven"),
        lambda: KeyboardInterrupt(),
        lambda: OwnBase("own", 3),
        lambda: MemoryError("no memory"),
        lambda: IndexError(7),
        lambda: RuntimeError({"a": [1, 2]}),
        lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        lambda: StopIteration(3),
        lambda: ImportError("no module", name="numpy.nothing", path="/x"),
        lambda: SyntaxError("bad", ("f.py", 3, 4, "x =", 3, 5)),
        lambda: TwoArguments(3, "three"),
        lambda: OnlyKeywords(path="a.png"),
        lambda: Thawed(3, "three"),
    ],
)
def test_an_exception_arrives_as_itself(make: Callable[[], BaseException]) -> None:
    error = raised(make)
    twin = sent(error)
    assert type(twin) is type(error)
    assert twin.args == error.args
    assert str(twin) == str(error)
    for name, value in vars(error).items():
        assert getattr(twin, name) == value, name


def test_a_class_that_tells_pickle_how_to_make_it_is_made_that_way() -> None:
    twin = trip(lambda: Reduced(3, "three"))
    assert type(twin) is Reduced
    assert (twin.code, twin.text) == (3, "three")
    assert str(twin) == "three (3)"


def test_a_json_error_keeps_its_document_and_place() -> None:
    error = raised(lambda: json.loads('{"a": }'))
    twin = sent(error)
    assert isinstance(error, json.JSONDecodeError)
    assert isinstance(twin, json.JSONDecodeError)
    assert str(twin) == str(error)
    assert (twin.doc, twin.pos, twin.lineno, twin.colno) == ('{"a": }', 6, 1, 7)


def test_a_state_that_is_no_dict_goes_through_setstate() -> None:
    twin = trip(lambda: Stateful(3))
    assert type(twin) is Stateful
    assert (twin.code, twin.more) == (3, "more")


def test_an_attribute_in_a_slot_arrives() -> None:
    twin = trip(lambda: Slotted(3))
    assert twin.code == 3


def test_a_frozen_dataclass_arrives_with_its_fields() -> None:
    twin = trip(lambda: Frozen(3, "three"))
    assert type(twin) is Frozen
    assert (twin.code, twin.text) == (3, "three")


def test_a_frozen_dataclass_with_a_cause_is_never_another_error() -> None:
    def make() -> None:
        raise Frozen(3, "three") from KeyError("root")

    twin = trip(make)
    if isinstance(twin, RemoteError):
        assert twin.type_name.endswith("Frozen")
    else:
        assert type(twin) is Frozen


def test_an_oserror_keeps_errno_text_and_file_names() -> None:
    twin = trip(lambda: FileNotFoundError(errno.ENOENT, "no such", "a.png"))
    assert type(twin) is FileNotFoundError
    assert (twin.errno, twin.strerror, twin.filename) == (
        errno.ENOENT,
        "no such",
        "a.png",
    )
    twin = trip(lambda: OSError(errno.EXDEV, "across", "a", None, "b"))
    assert (twin.errno, twin.filename, twin.filename2) == (errno.EXDEV, "a", "b")


def test_a_real_missing_file_is_the_error_of_the_inline_pool(tmp_path: Path) -> None:
    error = raised((tmp_path / "missing.png").read_bytes)
    twin = sent(error)
    assert isinstance(error, OSError)
    assert isinstance(twin, FileNotFoundError)
    assert (twin.errno, twin.filename) == (error.errno, error.filename)
    assert str(twin) == str(error)


def test_a_subclass_of_oserror_with_a_constructor_of_its_own_arrives() -> None:
    twin = trip(lambda: FileGone("a.png"))
    assert type(twin) is FileGone
    assert (twin.errno, twin.filename, twin.name) == (errno.ENOENT, "a.png", "a.png")


def test_the_traceback_travels_as_the_last_note() -> None:
    def deep_inside() -> None:
        raise ValueError("wrong")

    error = raised(deep_inside)
    error.add_note("first")
    twin = sent(error)
    assert twin.__notes__[0] == "first"
    assert len(twin.__notes__) == 2
    assert twin.__notes__[1].startswith("In worker 1 (pid 4711):\n")
    assert "deep_inside" in twin.__notes__[1]


def test_packing_leaves_the_original_alone() -> None:
    error = raised(lambda: ValueError("wrong"))
    error.add_note("first")
    sent(error)
    assert error.__notes__ == ["first"]


def test_cause_and_its_own_notes_travel() -> None:
    def make() -> None:
        root = KeyError("root")
        root.add_note("of the root")
        raise ValueError("top") from root

    twin = trip(make)
    assert type(twin.__cause__) is KeyError
    assert twin.__cause__.args == ("root",)
    assert twin.__cause__.__notes__ == ["of the root"]
    assert twin.__suppress_context__ is True


def test_context_travels_and_is_shown_as_before() -> None:
    def make() -> None:
        try:
            raise KeyError("first")  # noqa: TRY301 - a context in the making
        except KeyError:
            raise ValueError("second")  # noqa: B904 - the context is what is tested

    twin = trip(make)
    assert twin.__cause__ is None
    assert type(twin.__context__) is KeyError
    assert twin.__suppress_context__ is False


def test_from_none_still_hides_the_context() -> None:
    def make() -> None:
        try:
            raise KeyError("first")  # noqa: TRY301 - a context in the making
        except KeyError:
            raise ValueError("second") from None

    twin = trip(make)
    assert twin.__cause__ is None
    assert twin.__suppress_context__ is True


def test_a_cause_that_is_the_context_too_is_both_after_the_way() -> None:
    def make() -> None:
        try:
            raise KeyError("first")  # noqa: TRY301 - a context in the making
        except KeyError as first:
            raise ValueError("second") from first

    twin = trip(make)
    assert type(twin.__cause__) is KeyError
    assert type(twin.__context__) is KeyError


def test_a_cause_that_cannot_travel_is_stood_in_for_and_the_rest_is_itself() -> None:
    def make() -> None:
        raise ValueError("top") from HoldsLock()

    twin = trip(make)
    assert type(twin) is ValueError
    assert isinstance(twin.__cause__, RemoteError)
    assert twin.__cause__.type_name.endswith("HoldsLock")


def test_a_cycle_of_causes_ends() -> None:
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    first.__context__ = first
    twin = sent(first)
    assert type(twin.__cause__) is KeyError


def test_a_very_long_chain_of_causes_ends() -> None:
    error: Exception = ValueError(0)
    for number in range(1, 5000):
        upper = ValueError(number)
        upper.__cause__ = error
        error = upper
    twin: BaseException | None = sent(error)
    for number in range(4999, 4989, -1):
        assert twin is not None
        assert twin.args == (number,)
        twin = twin.__cause__


def test_a_group_keeps_its_members_and_their_attributes() -> None:
    inner = ExceptionGroup("inner", [TwoArguments(3, "three")])
    members: list[Exception] = [ValueError(1), inner, OSError(2, "no", "f")]
    error = ExceptionGroup("outer", members)
    error.exceptions[0].add_note("of the first")
    twin: Any = trip(lambda: error)
    assert type(twin) is ExceptionGroup
    assert twin.message == "outer"
    assert [type(member) for member in twin.exceptions] == [
        ValueError,
        ExceptionGroup,
        FileNotFoundError,
    ]
    assert twin.exceptions[0].__notes__ == ["of the first"]
    travelled: list[Any] = list(twin.exceptions)
    assert travelled[1].exceptions[0].code == 3
    assert travelled[2].filename == "f"


def test_a_large_group_keeps_every_member() -> None:
    members = [ValueError(number) for number in range(300)]
    twin = trip(lambda: ExceptionGroup("many", members))
    assert [member.args for member in twin.exceptions] == [(n,) for n in range(300)]


def test_a_group_of_base_exceptions_and_one_s_own_kind_of_group_arrive() -> None:
    twin = trip(lambda: BaseExceptionGroup("base", [KeyboardInterrupt(), OwnBase()]))
    assert type(twin) is BaseExceptionGroup
    assert type(trip(lambda: OwnGroup("own", [ValueError()]))) is OwnGroup


def test_a_member_that_cannot_travel_is_stood_in_for() -> None:
    twin = trip(lambda: ExceptionGroup("two", [ValueError(1), HoldsLock()]))
    assert type(twin) is ExceptionGroup
    assert type(twin.exceptions[0]) is ValueError
    assert isinstance(twin.exceptions[1], RemoteError)


class HoldsLock(Exception):
    def __init__(self) -> None:
        super().__init__("it holds a lock")
        self.lock = threading.Lock()


def test_an_exception_that_holds_a_lock_has_a_stand_in_that_tells_all() -> None:
    def deep_inside() -> None:
        raise HoldsLock

    twin = trip(deep_inside)
    assert type(twin) is RemoteError
    assert twin.type_name == f"{__name__}.HoldsLock"
    assert twin.message == "it holds a lock"
    told = str(twin) + "".join(twin.__notes__)
    assert told.count("deep_inside\n") == 1


def test_a_class_defined_in_a_function_arrives_as_itself() -> None:
    class Local(Exception):
        def __init__(self, code: int, text: str) -> None:
            super().__init__(text)
            self.code = code

    twin = trip(lambda: Local(3, "three"))
    assert type(twin) is Local
    assert twin.code == 3


def _raise_and_send(end: Connection, error: Exception) -> None:
    packed = pack_error(raised(lambda: error), "a child")
    end.send_bytes(pickle.dumps(packed))


def test_a_local_class_of_a_forked_child_is_the_parent_s_own() -> None:
    class Local(Exception):
        pass

    class Lower(Local):
        pass

    for error in (Local("three"), Lower("four")):
        ours, theirs = multiprocessing.Pipe(duplex=False)
        context = multiprocessing.get_context("fork")
        child = context.Process(target=_raise_and_send, args=(theirs, error))
        child.start()
        theirs.close()
        twin = unpack_error(pickle.loads(ours.recv_bytes()))
        child.join()
        child.close()
        ours.close()
        assert type(twin) is type(error)
        assert isinstance(twin, Local)


class BrokenStr(Exception):
    def __init__(self) -> None:
        super().__init__("told")
        self.lock = threading.Lock()

    def __str__(self) -> str:
        raise ZeroDivisionError


class BrokenReduce(Exception):
    def __reduce__(self) -> Any:
        raise ZeroDivisionError


class BrokenNew(Exception):
    """Can be pickled and never be put together."""

    def __reduce__(self) -> Any:
        return _explode, ("boom",)


def _explode(text: str) -> Any:
    raise ZeroDivisionError(text)


class Wrapper(Exception):
    """Answers to every name, as errors of remote services do."""

    def __getattr__(self, name: str) -> None:
        return None


class Recursive(Exception):
    """Looks for every name in a part that an object without ``__init__`` lacks."""

    def __init__(self, inner: Any) -> None:
        super().__init__("outer")
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (BrokenStr, "BrokenStr"),
        (BrokenReduce, "BrokenReduce"),
        (BrokenNew, "BrokenNew"),
        (Wrapper, "Wrapper"),
        (lambda: Recursive("a text"), "Recursive"),
    ],
)
def test_the_most_broken_exception_still_arrives_under_its_name(
    make: Callable[[], BaseException], name: str
) -> None:
    twin = trip(make)
    if isinstance(twin, RemoteError):
        assert twin.type_name == f"{__name__}.{name}"
    else:
        assert type(twin).__name__ == name


def test_a_broken_str_says_so_in_the_stand_in() -> None:
    twin = trip(BrokenStr)
    assert isinstance(twin, RemoteError)
    assert "ZeroDivisionError" in twin.message


def test_what_can_be_pickled_there_and_not_here_becomes_a_stand_in() -> None:
    packed = pack_error(raised(lambda: ValueError("there")), "worker 1")
    other = dataclasses.replace(packed, body=b"not a pickle")
    twin = unpack_error(other)
    assert isinstance(twin, RemoteError)
    assert twin.type_name == "ValueError"
    assert twin.message == "there"


def test_a_message_of_20_mb_arrives_whole() -> None:
    text = "x" * 20_000_000
    twin = trip(lambda: ValueError(text))
    assert twin.args == (text,)


def test_a_message_with_half_a_character_arrives() -> None:
    text = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert trip(lambda: OSError(2, "no such", text)).filename == text


def test_a_recursion_error_of_a_thousand_frames_arrives() -> None:
    def down() -> None:
        down()

    twin = trip(down)
    assert type(twin) is RecursionError
    assert sum(map(len, twin.__notes__)) < 100_000


def test_a_stand_in_that_is_sent_again_stays_what_it_is() -> None:
    once = trip(HoldsLock)
    twice = trip(lambda: once)
    assert type(twice) is RemoteError
    assert (twice.type_name, twice.message) == (once.type_name, once.message)
