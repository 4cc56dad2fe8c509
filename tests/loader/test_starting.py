"""What is done while a worker starts, and what is not."""

from __future__ import annotations

import signal
import threading
import warnings

import pytest

from feedline.starting import undisturbed


class Ended(Exception):
    """What a handler raises."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_what_is_begun_is_done(number: int) -> None:
    steps = []

    def end(*_: object) -> None:
        steps.append("handled")
        raise Ended

    def run() -> None:
        with undisturbed():
            with undisturbed():
                signal.pthread_kill(threading.get_ident(), number)
            steps.append("done")

    before = signal.signal(number, end)
    try:
        with pytest.raises(Ended):
            run()
    finally:
        signal.signal(number, before)
    assert steps == ["done", "handled"]
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {number}


def test_filters_of_warnings_are_the_program_s_own() -> None:
    before = list(warnings.filters)
    with undisturbed():
        assert list(warnings.filters) == before
