"""What every test has to leave behind: nothing. And what a hang becomes: a failure."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.belongings import Belongings
from tests.limits import TEST_HANGS

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

SETTLING = 5.0  # seconds that what is ending may take to end; most need none

_REPORTS = pytest.StashKey[dict[str, pytest.TestReport]]()
_STDERR = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep a way to the terminal for the last words of a test that hangs."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # So a shell without job control starts what it puts into the background, and
        # programs that tests start would take no notice of their Ctrl-C either.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is None:
        config.stash[_STDERR] = os.dup(2)
        return
    with capture.global_and_fixture_disabled():
        config.stash[_STDERR] = os.dup(2)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Spare the garbage collector what was imported: hundreds of tests call it."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close it again."""
    os.close(config.stash[_STDERR])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let fixtures see how their test went."""
    report = yield
    item.stash.setdefault(_REPORTS, {})[report.when] = report
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where everything is installed, a skipped test is a failed run."""
    if _skipped(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say why such a run failed."""
    if skipped := _skipped(config):
        terminalreporter.write_line(
            f"FEEDLINE_ALL_FRAMEWORKS=1 allows no skipped test, got {skipped}", red=True
        )


def _skipped(config: pytest.Config) -> int:
    if os.environ.get("FEEDLINE_ALL_FRAMEWORKS") != "1":
        return 0
    reporter: Any = config.pluginmanager.getplugin("terminalreporter")
    return 0 if reporter is None else len(reporter.stats.get("skipped", ()))


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves something, end the run at one that hangs."""
    _arm(request.config)
    before = Belongings.now()
    try:
        yield
        reports = request.node.stash.get(_REPORTS, {})
        if "call" not in reports or reports["call"].passed:
            _expect_nothing_beyond(before)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _arm(config: pytest.Config) -> None:
    faulthandler.dump_traceback_later(TEST_HANGS, exit=True, file=config.stash[_STDERR])


def _expect_nothing_beyond(before: Belongings) -> None:
    deadline = time.monotonic() + SETTLING
    while left := Belongings.now().beyond(before):
        gc.collect()  # not for every test: it takes long once torch is there
        if time.monotonic() > deadline:
            pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)
        time.sleep(0.01)
