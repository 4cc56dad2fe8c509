"""Options are checked once, and a wrong one says rule, value and way out."""

from __future__ import annotations

import dataclasses
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from feedline import Loader, LoaderOptions, PyDataset, options
from feedline.options import length_of
from tests import datasets

NAN, INFINITY = float("nan"), float("inf")


def made(**options: Any) -> LoaderOptions:
    return LoaderOptions(**options)


def test_the_defaults_are_those_of_the_field() -> None:
    options = LoaderOptions()
    assert options == LoaderOptions(
        workers=1,
        use_multiprocessing=False,
        start_method=None,
        max_queue_size=10,
        max_bytes=None,
        shuffle=False,
        seed=0,
        in_order=True,
        timeout=None,
        on_timeout="raise",
        on_error="raise",
        max_errors=None,
        retries=0,
        retry_delay=0.0,
        worker_init_fn=None,
    )


def test_options_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        LoaderOptions().workers = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("workers", -1, r"workers must be from 0 to 1024"),
        ("workers", 1025, r"workers must be from 0 to 1024"),
        ("max_queue_size", 0, r"max_queue_size must be 1 or more"),
        ("max_queue_size", -5, r"max_queue_size must be 1 or more"),
        ("seed", -1, r"seed must be from 0 to"),
        ("seed", 2**64, r"seed must be from 0 to"),
        ("retries", -1, r"retries must be from 0 to 100"),
        ("retries", 101, r"retries must be from 0 to 100"),
        ("max_bytes", 0, r"^max_bytes must be 1 "),
        ("max_bytes", -1, r"^max_bytes must be 1 "),
        ("max_bytes", "plenty", r"^max_bytes must be .*'2GB'"),
        ("max_bytes", "", r"^max_bytes must be .*'2GB'"),
        ("max_bytes", "GB", r"^max_bytes must be .*'2GB'"),
        ("max_bytes", "2XB", r"^max_bytes must be .*'2GB'"),
        ("max_bytes", "2 G B", r"^max_bytes must be .*'2GB'"),
        ("max_bytes", "nanGB", r"^max_bytes must be .*'2GB'"),
        ("max_bytes", "infGB", r"^max_bytes must be .*'2GB'"),
        ("timeout", 0, r"^timeout must be "),
        ("timeout", -0.5, r"^timeout must be "),
        ("timeout", NAN, r"^timeout must be "),
        ("timeout", INFINITY, r"^timeout must be "),
        ("timeout", 1e7, r"^timeout must be .*at most 1000000 seconds"),
        ("retry_delay", -1, r"^retry_delay must be 0 or more"),
        ("retry_delay", 61, r"^retry_delay must be .*at most 60 seconds"),
        ("retry_delay", NAN, r"^retry_delay must be 0 or more"),
        ("max_errors", -1, r"^max_errors must be 0 or more"),
        ("max_errors", -0.1, r"^max_errors as a share must be from 0.0 to 1.0"),
        ("max_errors", 1.5, r"^max_errors as a share must be from 0.0 to 1.0"),
        ("max_errors", NAN, r"^max_errors as a share must be from 0.0 to 1.0"),
        ("on_timeout", "kill", r"on_timeout must be 'raise' or 'replace'"),
        ("on_timeout", None, r"on_timeout must be 'raise' or 'replace'"),
        ("on_error", "ignore", r"on_error must be 'raise' or 'skip'"),
        ("on_error", None, r"on_error must be 'raise' or 'skip'"),
        ("on_error", [], r"on_error must be 'raise' or 'skip'"),
        ("start_method", "thread", r"start_method must be 'fork', 'forkserver'"),
        ("start_method", [], r"start_method must be 'fork', 'forkserver'"),
    ],
)
def test_a_wrong_value_is_refused_with_rule_and_value(
    name: str, value: Any, rule: str
) -> None:
    with pytest.raises(ValueError, match=rule) as caught:
        made(**{name: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name in ("workers", "max_queue_size", "seed", "retries")
        for value in (2.0, "2", None, True, np.True_, np.float64(2), [2])
    ]
    + [("workers", np.array([1, 2])), ("max_queue_size", np.array([3]))]
    + [
        (name, value)
        for name in ("use_multiprocessing", "shuffle", "in_order")
        for value in (0, 1, "yes", None, np.int64(1))
    ]
    + [("retry_delay", value) for value in (None, "1", True, [1])]
    + [("max_errors", value) for value in ("2", True, [2], 1j)]
    + [("timeout", value) for value in ("3", True, [3], 3j, np.complex128(1))]
    + [("max_bytes", value) for value in (2.5, True, b"2GB", [2])]
    + [("worker_init_fn", 3), ("worker_init_fn", "f")],
    ids=repr,
)
def test_a_wrong_type_is_refused_with_rule_and_value(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be ") as caught:
        made(**{name: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("workers", -1, "0 builds batches in the calling thread"),
        ("workers", "2", "0 builds batches in the calling thread"),
        ("max_queue_size", 0, "in flight or ready"),
        ("seed", -1, "None draws a fresh one"),
        ("retries", -1, "0 never tries again"),
        ("max_bytes", 0, "None sets no bound"),
        ("max_bytes", "two", "'2GB'"),
        ("timeout", 0, "None waits for ever"),
        ("retry_delay", -1, "0 tries again at once"),
        ("max_errors", -1, "3 is a count, 0.1 a share"),
        ("max_errors", 2.5, "3 is a count, 0.1 a share"),
    ],
)
def test_a_refusal_tells_the_way_out(name: str, value: Any, remedy: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        made(**{name: value})
    assert remedy in str(caught.value)


def test_a_negative_text_is_shown_as_it_was_given() -> None:
    with pytest.raises(ValueError, match="'-1GB'"):
        made(max_bytes="-1GB")


def test_a_timeout_too_large_for_a_float_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"^timeout must be .*at most"):
        made(timeout=10**400)


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int32, np.int64, np.uint64])
def test_numpy_integers_count_as_integers(kind: Any) -> None:
    options = made(
        workers=kind(2), max_queue_size=kind(3), seed=kind(4), retries=kind(5)
    )
    for value in (
        options.workers,
        options.max_queue_size,
        options.seed,
        options.retries,
    ):
        assert type(value) is int
    assert (options.workers, options.max_queue_size) == (2, 3)
    assert (options.seed, options.retries) == (4, 5)


def test_numpy_booleans_count_as_booleans() -> None:
    options = made(
        use_multiprocessing=np.True_, shuffle=np.True_, in_order=np.bool_(False)
    )
    assert options.use_multiprocessing is True
    assert options.shuffle is True
    assert options.in_order is False


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2)])
def test_any_real_number_is_a_timeout(value: Any) -> None:
    timeout = made(timeout=value).timeout
    assert type(timeout) is float
    assert timeout == 2.0


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("2GB", 2 * 10**9),
        ("2 gb", 2 * 10**9),
        (" 1.5 MB ", 1_500_000),
        ("64kb", 64_000),
        ("100B", 100),
        ("100", 100),
        ("1TB", 10**12),
        ("1e3KB", 10**6),
    ],
)
def test_a_text_with_a_unit_is_a_number_of_bytes(text: str, count: int) -> None:
    assert made(max_bytes=text).max_bytes == count


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_the_ends_of_the_range_of_seeds_are_in_it(seed: int) -> None:
    assert made(seed=seed).seed == seed


@pytest.mark.parametrize("workers", [0, 1024])
def test_the_ends_of_the_range_of_workers_are_in_it(workers: int) -> None:
    assert made(workers=workers).workers == workers


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_start_method_without_processes_is_refused_with_the_way_out(
    method: Any,
) -> None:
    with pytest.raises(ValueError, match=r"use_multiprocessing=True") as caught:
        made(start_method=method)
    assert repr(method) in str(caught.value)


def test_a_start_method_that_the_system_has_not_is_refused_with_those_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: ["spawn"])
    with pytest.raises(ValueError, match=r"'fork' does not exist .* has \['spawn'\]"):
        made(use_multiprocessing=True, start_method="fork")
    assert made(use_multiprocessing=True).settled().start_method == "spawn"


def test_processes_start_by_fork_where_nothing_else_is_said() -> None:
    assert made(use_multiprocessing=True).settled().start_method == "fork"


def test_a_start_method_means_nothing_without_workers() -> None:
    options = made(workers=0, use_multiprocessing=True, start_method="spawn")
    assert options.start_method is None
    assert not options.processes


@pytest.mark.parametrize(
    ("workers", "multiprocessing", "processes"),
    [(0, False, False), (0, True, False), (2, False, False), (2, True, True)],
)
def test_there_are_processes_only_with_workers_and_multiprocessing(
    workers: int, multiprocessing: bool, processes: bool
) -> None:
    options = made(workers=workers, use_multiprocessing=multiprocessing)
    assert options.processes is processes


def test_a_function_of_the_worker_s_number_is_kept() -> None:
    assert made(worker_init_fn=print).worker_init_fn is print


class Sized(PyDataset):
    def __init__(self, length: Any) -> None:
        super().__init__()
        self.length = length

    def __len__(self) -> Any:
        return self.length


class Numbered(PyDataset):
    def __init__(self, length: Any) -> None:
        super().__init__()
        self.length = length

    @property
    def num_batches(self) -> Any:
        return self.length


class Both(Sized):
    @property
    def num_batches(self) -> Any:
        return 2


@pytest.mark.parametrize(
    ("dataset", "length"),
    [
        ([1, 2, 3], 3),
        ([], 0),
        (range(5), 5),
        (Sized(4), 4),
        (Sized(np.int64(4)), 4),
        (Numbered(4), 4),
        (Numbered(np.uint8(4)), 4),
        (Numbered(0), 0),
        (Numbered(None), None),
        (Both(9), 2),
        (SimpleNamespace(num_batches=6), 6),
        (SimpleNamespace(num_batches=None), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_length_is_num_batches_or_else_len(
    dataset: Any, length: int | None
) -> None:
    found = length_of(dataset)
    assert found == length
    assert found is None or type(found) is int


@pytest.mark.parametrize(
    "value", [2.0, "2", True, np.float64(2), np.array([2, 3])], ids=repr
)
def test_a_number_of_batches_that_is_no_integer_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="num_batches must be an integer") as caught:
        length_of(Numbered(value))
    assert repr(value) in str(caught.value)


def test_a_negative_number_of_batches_is_refused() -> None:
    with pytest.raises(ValueError, match="num_batches must be 0 or more, got -3"):
        length_of(Numbered(-3))


def test_a_method_in_place_of_the_property_is_told_apart() -> None:
    class Method:
        def num_batches(self) -> int:
            return 3

    with pytest.raises(TypeError, match="@property"):
        length_of(Method())


@pytest.mark.parametrize(
    "dataset",
    [object(), PyDataset(), iter([1])],
    ids=["object", "PyDataset", "iterator"],
)
def test_a_dataset_without_any_length_is_refused(dataset: Any) -> None:
    with pytest.raises(TypeError, match="__len__ or num_batches"):
        length_of(dataset)


def test_what_a_broken_len_says_is_what_the_user_reads() -> None:
    class Broken(PyDataset):
        def __len__(self) -> int:
            raise TypeError("my own words")

    with pytest.raises(TypeError, match=r"^my own words$"):
        length_of(Broken())


def test_what_a_broken_num_batches_says_is_what_the_user_reads() -> None:
    class Broken(PyDataset):
        @property
        def num_batches(self) -> int:
            raise TypeError("my own words")

    with pytest.raises(TypeError, match=r"^my own words$"):
        length_of(Broken())


def test_an_attribute_missing_inside_num_batches_is_not_taken_for_no_length() -> None:
    class Broken:
        @property
        def num_batches(self) -> Any:
            return self.missing  # type: ignore[attr-defined]

    with pytest.raises(AttributeError, match="missing"):
        length_of(Broken())


@pytest.mark.parametrize(
    "dataset", [None, 5, {"a": 1}, {1, 2}, iter("ab"), lambda i: i], ids=type
)
def test_what_has_no_batches_by_number_is_refused_at_the_door(dataset: Any) -> None:
    with pytest.raises(
        TypeError, match=r"dataset must have __getitem__\(index\).*, got"
    ):
        Loader(dataset)


def test_a_class_is_refused_with_the_way_to_an_object() -> None:
    with pytest.raises(TypeError, match=r"got the class Range; make one: Range\("):
        Loader(type("Range", (), {"__getitem__": None, "__len__": None}))


@pytest.mark.parametrize("runtime", ["jax", "TensorFlow", "CUDA"])
def test_where_a_fork_would_break_a_runtime_another_way_is_the_default(
    runtime: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "feedline")
    options.__dict__["_say_once"].cache_clear()

    def chosen(**more: Any) -> Any:
        made = LoaderOptions(workers=2, use_multiprocessing=True, **more)
        return made.settled().start_method

    early = LoaderOptions(workers=2, use_multiprocessing=True)
    assert chosen() == "fork"
    in_use = SimpleNamespace(
        backends_are_initialized=lambda: True,
        _context=SimpleNamespace(_initialized=True),
        cuda=SimpleNamespace(is_initialized=lambda: True),
    )
    module = {
        "jax": "jax._src.xla_bridge",
        "TensorFlow": "tensorflow.python.eager.context",
        "CUDA": "torch",
    }
    monkeypatch.setitem(sys.modules, module[runtime], in_use)
    assert [chosen(), chosen()] == ["forkserver"] * 2
    assert len(caplog.messages) == 1
    assert runtime.lower() in caplog.text.lower()
    assert early.settled().start_method == "forkserver"
    assert chosen(start_method="fork") == "fork"
    assert LoaderOptions(workers=2).settled() == LoaderOptions(workers=2)


def test_what_a_fork_would_break_is_looked_for_when_workers_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def method_of(loader: Loader) -> Any:
        return loader.options.start_method

    chosen: dict[str, Any] = {"workers": 1, "use_multiprocessing": True}
    with (
        Loader([1, 2], **chosen) as loader,
        Loader([1, 2], **chosen, start_method="fork") as forking,
    ):
        assert method_of(loader) is None
        in_use = SimpleNamespace(_context=SimpleNamespace(_initialized=True))
        monkeypatch.setitem(sys.modules, "tensorflow.python.eager.context", in_use)
        assert list(loader) == list(forking) == [1, 2]
        assert method_of(loader) == "forkserver"
        assert method_of(forking) == "fork"


@pytest.mark.parametrize(
    ("alone", "words"),
    [
        ({"on_timeout": "replace"}, r"^on_timeout='replace' is .* got timeout=None"),
        ({"max_errors": 3}, r"^max_errors=3 bounds .* add on_error='skip'"),
        ({"max_errors": 0, "on_error": "raise"}, r"^max_errors=0 bounds"),
        ({"retry_delay": 0.5}, r"^retry_delay=0.5 is .* got retries=0; add retries"),
    ],
)
def test_an_option_that_would_do_nothing_without_another_is_refused(
    alone: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        made(**alone)


@pytest.mark.parametrize(
    ("max_errors", "length", "most"),
    [
        (None, 100, None), (None, None, None), (0, 100, 0), (7, None, 7), (1, 100, 1),
        (1.0, 100, 100), (0.0, 100, 0), (0.29, 100, 29), (0.1, 5, 0), (0.5, 5, 2),
        (np.float32(0.25), 8, 2), (np.int8(3), 8, 3),
    ],
)  # fmt: skip
def test_an_integer_is_a_count_and_a_number_with_a_point_a_share(
    max_errors: Any, length: int | None, most: int | None
) -> None:
    options = made(max_errors=max_errors, on_error="skip")
    assert options.most_errors(length) == most


def test_a_share_of_an_epoch_without_end_is_refused_at_the_door() -> None:
    with pytest.raises(ValueError, match=r"max_errors=0.5 .* has no end .* a number"):
        Loader(datasets.Blocks(None), on_error="skip", max_errors=0.5)
