"""What every test has to leave behind: nothing. And what a hang becomes: a failure."""

from __future__ import annotations

import faulthandler
import gc
import os
import re
import signal
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

HANG = 100  # seconds; far above the slowest honest test
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


@dataclass(frozen=True)
class Belongings:
    """What this process has at one moment."""

    children: frozenset[int]
    threads: frozenset[threading.Thread]
    descriptors: frozenset[tuple[int, str]]
    mappings: int
    files: frozenset[str]

    @classmethod
    def now(cls) -> Belongings:
        return cls(
            frozenset(_children()),
            frozenset(threading.enumerate()),
            frozenset(_descriptors()),
            _arena_mappings(),
            frozenset(_named_files()),
        )

    def beyond(self, before: Belongings) -> list[str]:
        """What is here and was not there."""
        more = [f"process {_describe(pid)}" for pid in self.children - before.children]
        more += [f"thread {thread.name}" for thread in self.threads - before.threads]
        more += [f"file {name}" for name in self.files - before.files]
        new = self.descriptors - before.descriptors
        more += [f"descriptor {fd} -> {target}" for fd, target in sorted(new)]
        if self.mappings > before.mappings:
            more.append(f"{self.mappings - before.mappings} mappings of an arena")
        return more


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
    faulthandler.dump_traceback_later(HANG, exit=True, file=config.stash[_STDERR])


def _expect_nothing_beyond(before: Belongings) -> None:
    deadline = time.monotonic() + SETTLING
    while left := Belongings.now().beyond(before):
        gc.collect()  # not for every test: it takes long once torch is there
        if time.monotonic() > deadline:
            pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)
        time.sleep(0.01)


def _children() -> list[int]:
    """Our processes, but for the two helpers that Python keeps to its end."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            line = " ".join(child.cmdline())
            if child.name() in {"ps", "git"} or _is_helper(line):
                # A served worker has its server's command line, and is one level below.
                parent = child.ppid()
                if parent == os.getpid():
                    continue
            found.append(child.pid)
    return found


def _is_helper(line: str) -> bool:
    return "multiprocessing.resource_tracker" in line or (
        "multiprocessing.forkserver" in line
    )


def _describe(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        return f"{pid} ({process.status()}: {' '.join(process.cmdline())[:100]})"
    except psutil.Error:
        return f"{pid} (ended just now)"


def _descriptors() -> Iterator[tuple[int, str]]:
    helpers: set[Any] = {
        getattr(forkserver._forkserver, "_forkserver_alive_fd", None),
        getattr(resource_tracker._resource_tracker, "_fd", None),
    }
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if int(name) not in helpers and not target.startswith("/proc/"):
                yield int(name), target


def _arena_mappings() -> int:
    maps = Path("/proc/self/maps").read_text()
    return len(re.findall(r"/memfd:feedline|/feedline-\S* \(deleted\)", maps))


def _named_files() -> Iterator[str]:
    for folder in {"/dev/shm", tempfile.gettempdir()}:
        for name in os.listdir(folder):
            if "feedline" in name:
                yield f"{folder}/{name}"
