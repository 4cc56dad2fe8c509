"""Errors keep what they know across processes, and say rule, value and way out."""

from __future__ import annotations

import inspect
import pickle
import signal

import pytest

from feedline import errors
from feedline.errors import (
    BatchEncodingError,
    BatchTimeoutError,
    DatasetEncodingError,
    LoaderBusyError,
    LoaderClosedError,
    LoaderError,
    LoaderForkedError,
    RemoteError,
    SkipLimitError,
    WorkerDiedError,
    WorkerStartError,
    brief,
    describe_exit,
    likely_cause,
)

ONE_OF_EACH = [
    LoaderClosedError("closed"),
    LoaderBusyError("busy"),
    LoaderForkedError("forked"),
    BatchTimeoutError(7, 2.5, "worker 1 was building it"),
    BatchEncodingError(7, "batch['x'][2]", "of type 'lock' (cannot pickle)"),
    DatasetEncodingError("dataset.lock", "of type 'lock' (cannot pickle)"),
    WorkerStartError(3, -9, "a script needs a main guard"),
    WorkerDiedError(7, 3, -11, 3, "frame one", None, "it had 5 MB"),
    SkipLimitError(2, 4, 0.1, 3, (1, 5, 6, 9)),
    RemoteError("some.Kind", "what it said", "where it was"),
]


@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda e: type(e).__name__)
def test_an_error_is_the_same_after_pickling(error: LoaderError) -> None:
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is type(error)
    assert vars(twin) == vars(error)
    assert twin.args == error.args
    assert str(twin) == str(error)


def test_every_class_of_the_room_is_pickled_above() -> None:
    classes = {
        value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, LoaderError)
    }
    assert classes == {type(error) for error in ONE_OF_EACH} | {LoaderError}


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (LoaderClosedError, RuntimeError),
        (LoaderBusyError, RuntimeError),
        (LoaderForkedError, RuntimeError),
        (BatchTimeoutError, TimeoutError),
        (BatchEncodingError, TypeError),
        (DatasetEncodingError, TypeError),
        (WorkerStartError, RuntimeError),
        (WorkerDiedError, RuntimeError),
        (SkipLimitError, RuntimeError),
        (RemoteError, Exception),
    ],
)
def test_a_plain_except_of_the_builtin_catches_it(
    kind: type[Exception], builtin: type[Exception]
) -> None:
    assert issubclass(kind, LoaderError)
    assert issubclass(kind, builtin)


def test_a_timeout_that_is_an_oserror_keeps_its_own_sentence() -> None:
    error = BatchTimeoutError(7, 2.5, "no worker had begun it")
    assert (error.index, error.seconds, error.where) == (
        7,
        2.5,
        "no worker had begun it",
    )
    assert "batch 7" in str(error)
    assert "timeout=2.5" in str(error)
    assert "no worker had begun it" in str(error)


def test_a_timeout_that_is_not_the_first_tells_the_attempt() -> None:
    error = BatchTimeoutError(7, 2.5, "worker 1 was building it", 3)
    assert "batch 7 took longer than timeout=2.5 seconds, in attempt 3;" in str(error)


def test_one_failure_too_many_tells_count_limit_batches_and_way_out() -> None:
    said = str(SkipLimitError(2, 4, 3, 3, (1, 5, 6, 9)))
    for part in (
        "4 batches of epoch 2",
        "max_errors=3 allows",
        "the last ones are 1, 5",
    ):
        assert part in said
    assert "loader.skipped" in said
    share = str(SkipLimitError(2, 4, 0.1, 3, (1, 5, 6, 9)))
    assert "max_errors=0.1 (3 batches) allows" in share
    assert str(SkipLimitError(0, 1, 0, 0, (8,))).startswith(
        "1 batch of epoch 0 failed, more than max_errors=0 allows; it is 8;"
    )


class Mute(Exception):
    def __repr__(self) -> str:
        raise LookupError


def test_an_exception_is_shown_in_a_line_whatever_it_holds() -> None:
    assert brief(ValueError("x")) == "ValueError('x')"
    assert brief(ValueError("x" * 10**6)).startswith("ValueError('xxx")
    assert len(brief(ValueError("x" * 10**6))) < 600
    assert brief(Mute()) == "Mute"


def test_an_encoding_error_names_batch_path_type_and_way_out() -> None:
    said = str(BatchEncodingError(7, "batch['x'][2]", "of type 'lock' (no)"))
    assert "batch 7" in said
    assert "batch['x'][2]" in said
    assert "of type 'lock'" in said
    assert "use_multiprocessing=False" in said


def test_a_dataset_error_names_the_attribute_and_the_way_out() -> None:
    said = str(DatasetEncodingError("dataset.lock", "of type 'lock' (no)"))
    assert "dataset.lock" in said
    assert "of type 'lock'" in said
    assert "__getstate__" in said
    assert "start_method='fork'" in said


def test_a_start_error_names_worker_exit_and_detail() -> None:
    said = str(WorkerStartError(3, 1, "a script needs a main guard"))
    assert "worker 3" in said
    assert "exited with code 1" in said
    assert "main guard" in said


def test_a_death_names_batch_worker_attempts_signal_and_stack() -> None:
    error = WorkerDiedError(7, 3, -11, 4, "frame one")
    said = str(error)
    for part in ("batch 7", "4 times", "worker 3", "SIGSEGV", "workers=0", "frame one"):
        assert part in said
    assert "\n" not in str(WorkerDiedError(7, 3, -11, 4))


def test_a_stand_in_says_type_message_and_trace() -> None:
    assert str(RemoteError("a.B", "said")) == "a.B: said"
    assert str(RemoteError("a.B", "said", "trace")) == "a.B: said\ntrace"


@pytest.mark.parametrize(
    ("exitcode", "said"),
    [
        (0, "exited with code 0"),
        (3, "exited with code 3"),
        (-9, "SIGKILL (signal 9)"),
        (-signal.SIGTERM, "SIGTERM (signal 15)"),
        (-200, "an unnamed signal (signal 200)"),
    ],
)
def test_an_exit_code_is_said_as_a_person_would(exitcode: int, said: str) -> None:
    assert said in describe_exit(exitcode)


@pytest.mark.parametrize(
    ("exitcode", "said"),
    [
        (-signal.SIGKILL, "out-of-memory"),
        (-signal.SIGSEGV, "compiled code"),
        (-signal.SIGBUS, "compiled code"),
        (-signal.SIGTERM, "outside"),
        (0, "os._exit()"),
        (3, "sys.exit()"),
    ],
)
def test_each_kind_of_end_has_its_likely_cause(exitcode: int, said: str) -> None:
    assert said in likely_cause(exitcode)


def test_a_kill_is_laid_to_the_kernel_or_not_as_far_as_it_is_known() -> None:
    killed = -signal.SIGKILL
    assert "killer did it: lower workers" in likely_cause(killed, oom_killed=True)
    assert "killer does that most often: lower" in likely_cause(killed)
    said = likely_cause(killed, oom_killed=False)
    assert "killer did not do it: something else sent SIGKILL" in said
