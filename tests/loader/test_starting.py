"""What must not be cut short is not, whoever receives the signal."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Never

import pytest

from feedline.starting import undisturbed
from tests.datasets import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


class Ended(Exception):
    """What a handler raises."""


def end(*_: Any) -> Never:
    raise Ended


@contextmanager
def handler(number: int) -> Iterator[None]:
    """Have a handler that raises, and a thread that is open to signals."""
    before, over = signal.signal(number, end), threading.Event()
    helper = threading.Thread(target=over.wait)
    helper.start()
    try:
        yield
    finally:
        over.set()
        helper.join()
        signal.signal(number, before)


@contextmanager
def heard() -> Iterator[Any]:
    """Tell when this process has received a signal, whatever its handler does."""
    inside, outside = os.pipe()
    os.set_blocking(inside, False)
    os.set_blocking(outside, False)
    before = signal.set_wakeup_fd(outside)

    def has_come() -> bool:
        try:
            return bool(os.read(inside, 1))
        except BlockingIOError:
            return False

    try:
        yield has_come
    finally:
        signal.set_wakeup_fd(before)
        os.close(inside)
        os.close(outside)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("nested", [False, True])
def test_a_signal_that_another_thread_receives_waits_too(
    number: int, nested: bool
) -> None:
    steps = []
    with handler(number), heard() as has_come:

        def hear() -> None:
            os.kill(os.getpid(), number)
            wait_until(has_come, "the signal")
            steps.append("heard")

        def run() -> None:
            with undisturbed():
                if nested:
                    with undisturbed():
                        hear()
                else:
                    hear()
                steps.append("over")

        with pytest.raises(Ended):
            run()
        assert signal.getsignal(number) is end
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {number}
    assert steps == ["heard", "over"]


def test_what_is_ignored_stays_ignored_and_what_fails_inside_fails() -> None:
    def fail() -> None:
        with undisturbed():
            os.kill(os.getpid(), signal.SIGTERM)
            end()

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with pytest.raises(Ended):
            fail()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_another_thread_has_no_handlers_to_keep() -> None:
    ran = []

    def run() -> None:
        with undisturbed():
            ran.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert {signal.SIGINT, signal.SIGTERM} <= ran[0]


def test_filters_of_warnings_are_the_program_s_own() -> None:
    before = list(warnings.filters)
    with undisturbed():
        assert list(warnings.filters) == before
