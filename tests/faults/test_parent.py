"""The main process ends, is interrupted or is forked: nothing is left, nothing breaks.

Where the main process is the victim, it is a program of its own with a hard limit.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from feedline import Loader, LoaderForkedError
from tests import datasets
from tests.datasets import PATIENCE, Gate, block, wait_until

from .test_death import expect_blocks, fork, pids

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
AT_ONCE = 1.0  # seconds
KINDS = {
    "inline": "workers=0",
    "thread": "workers=2",
    **{
        method: f"workers=2, use_multiprocessing=True, start_method={method!r}"
        for method in ("fork", "forkserver", "spawn")
    },
}
PROCESSES = ["fork", "forkserver", "spawn"]

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from feedline import Loader, PyDataset
from tests.datasets import Gate, block

class Blocks(PyDataset):
    def __len__(self):
        return 1000
    def __getitem__(self, index):
        if LONG and index >= 2:
            gate.arrive(f"long-{{index}}")
            time.sleep(30)
        return block(index)

gate = Gate(Path({folder!r}))
LONG = {long}

def main():
    global iterator, loader
    loader = Loader(Blocks(), {options})
    iterator = iter(loader)
    for index, array in enumerate(iterator):
        assert (array == block(index)).all()
        if index == 1:
            if LONG:
                gate.await_arrival("long-2")
                gate.await_arrival("long-3")
            gate.arrive("ready")
            {then}

if __name__ == "__main__":
    main()
"""


@contextmanager
def program(text: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a program in a process group of its own, and end it whatever happens."""
    script = folder / "program.py"
    script.write_text(text)
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    try:
        with process:
            try:
                yield process
            finally:
                process.kill()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def family(pid: int) -> list[psutil.Process]:
    return list(psutil.Process(pid).children(recursive=True))


def is_gone(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def expect_all_gone(processes: list[psutil.Process]) -> None:
    wait_until(lambda: all(map(is_gone, processes)), f"{processes} end", AT_ONCE)


def filled(folder: Path, kind: str, *, then: str = "pass", long: bool = False) -> str:
    return PROGRAM.format(folder=str(folder), options=KINDS[kind], then=then, long=long)


@pytest.mark.parametrize(
    ("kind", "long", "sent"),
    [
        ("fork", False, "SIGTERM"),
        ("fork", False, "SIGKILL"),
        ("fork", True, "SIGTERM"),
        ("fork", True, "SIGKILL"),
        ("forkserver", True, "SIGTERM"),
        ("forkserver", False, "SIGKILL"),
        ("spawn", False, "SIGTERM"),
        ("spawn", True, "SIGKILL"),
    ],
)
def test_workers_end_at_once_when_their_parent_is_killed(
    kind: str, long: bool, sent: str, tmp_path: Path
) -> None:
    then = "pass" if long else "time.sleep(30)"
    with program(filled(tmp_path, kind, then=then, long=long), tmp_path) as process:
        Gate(tmp_path).await_arrival("ready")
        workers = family(process.pid)
        assert len(workers) >= 2
        process.send_signal(getattr(signal, sent))
        expect_all_gone(workers)
        assert process.wait(timeout=PATIENCE) == -getattr(signal, sent)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("group", [False, True])
def test_ctrl_c_ends_the_program_at_once_with_one_traceback(
    kind: str, group: bool, tmp_path: Path
) -> None:
    long = kind != "inline"
    # A signal that falls between a look for signals and a sleep is seen after the sleep.
    then = "pass" if long else "[time.sleep(0.01) for _ in range(3000)]"
    with program(filled(tmp_path, kind, then=then, long=long), tmp_path) as process:
        Gate(tmp_path).await_arrival("ready")
        workers = family(process.pid)
        (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
        start = time.monotonic()
        _, errors = process.communicate(timeout=PATIENCE)
        assert time.monotonic() - start < AT_ONCE + 0.5  # the interpreter's own end
        expect_all_gone(workers)
    assert process.returncode == -signal.SIGINT
    assert errors.count("Traceback") == 1, errors
    assert errors.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize(
    ("then", "code", "last"),
    [
        ("sys.exit(7)", 7, ""),
        ("os._exit(9)", 9, ""),
        ("return", 0, ""),
        ("raise ValueError('mine')", 1, "ValueError: mine"),
    ],
)
def test_a_program_that_ends_in_mid_epoch_ends_at_once_and_leaves_nothing(
    kind: str, then: str, code: int, last: str, tmp_path: Path
) -> None:
    then = f"gate.pass_through('end'); {then}"
    with program(filled(tmp_path, kind, then=then), tmp_path) as process:
        gate = Gate(tmp_path)
        gate.await_arrival("end")
        workers = family(process.pid)
        start = time.monotonic()
        gate.let_all()
        output, errors = process.communicate(timeout=PATIENCE)
        assert time.monotonic() - start < AT_ONCE + 0.5
        expect_all_gone(workers)
    assert process.returncode == code, errors
    assert output == ""
    assert errors.rstrip().endswith(last)
    assert errors.count("Traceback") == bool(last), errors


@pytest.mark.parametrize("kind", ["thread", "fork"])
def test_a_program_that_ends_while_workers_are_in_a_long_batch_ends_at_once(
    kind: str, tmp_path: Path
) -> None:
    text = filled(tmp_path, kind, then="return", long=True)
    with program(text, tmp_path) as process:
        Gate(tmp_path).await_arrival("ready")
        workers = family(process.pid)
        start = time.monotonic()
        _, errors = process.communicate(timeout=PATIENCE)
        assert time.monotonic() - start < AT_ONCE + 0.5
        expect_all_gone(workers)
    assert (process.returncode, errors) == (0, "")


UNGUARDED = """
from feedline import Loader
from tests.datasets import Numbers

with Loader(Numbers(), workers=2, use_multiprocessing=True,
            start_method={method!r}) as loader:
    print(list(loader))
"""


@pytest.mark.parametrize("method", PROCESSES)
def test_a_script_without_a_main_guard_is_told_about_it(
    method: str, tmp_path: Path
) -> None:
    with program(UNGUARDED.format(method=method), tmp_path) as process:
        output, errors = process.communicate(timeout=PATIENCE)
    if method == "fork":
        assert (output, errors) == (f"{list(range(12))}\n", "")
        return
    assert process.returncode == 1
    assert "WorkerStartError: worker" in errors
    assert 'if __name__ == "__main__":' in errors.rpartition("WorkerStartError")[2]


# Forks of the parent


def in_child(act: Any) -> int:
    """Run something in a forked copy of this process; its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = act()
        finally:
            os._exit(code)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise TimeoutError("the child hangs")


@pytest.mark.parametrize(
    "workers", [{"workers": 2}, {"workers": 2, "use_multiprocessing": True}]
)
def test_a_child_of_a_fork_that_uses_the_loader_is_told_and_harms_nobody(
    workers: dict[str, Any],
) -> None:
    def use(again: bool) -> int:
        try:
            if again:
                dataset.size = 4000  # would have to be sent to the workers
                next(iter(loader))
            else:
                while True:
                    next(iterator)
        except LoaderForkedError as error:
            return 41 if "make a Loader in this process" in str(error) else 42
        return 43

    dataset = datasets.Blocks(400, 5000)
    with Loader(dataset, **workers) as loader:
        expect_length(loader, 400, 5000)
        assert in_child(lambda: use(again=True)) == 41
        iterator = iter(loader)
        seen = [next(iterator) for _ in range(5)]
        assert in_child(lambda: use(again=False)) == 41
        assert in_child(lambda: 0) == 0
        before = set(pids(loader)) if len(workers) > 1 else set()
        seen += iterator
        assert [index for index, _ in seen] == list(range(400))
        assert all((array == block(i, 5000)).all() for i, array in seen)
        if before:
            assert set(pids(loader)) == before
            assert loader.stats().deaths == 0


@pytest.mark.parametrize("processes", [False, True])
def test_a_child_of_a_fork_gets_none_of_the_batches_that_were_there_already(
    processes: bool, tmp_path: Path
) -> None:
    def take() -> int:
        try:
            next(iterator)
        except LoaderForkedError:
            return 41
        return 43

    dataset = datasets.Reversing(tmp_path, length=3)
    with Loader(dataset, workers=2, use_multiprocessing=processes) as loader:
        iterator = iter(loader)
        assert next(iterator) == 0
        ready = loader._epochs[0]._delivery._ready
        assert 1 in [answer.batch for answer in ready.values()]
        assert in_child(take) == 41
        assert list(iterator) == [1, 2]


def expect_length(loader: Loader, length: int, size: int) -> None:
    seen = 0
    for index, array in loader:
        assert (array == block(index, size)).all()
        seen += 1
    assert seen == length


def test_a_child_of_a_fork_may_close_and_drop_the_loader() -> None:
    def drop() -> int:
        loader.close()
        iterators.clear()
        return 0

    with fork(datasets.Blocks(50)) as loader:
        iterator = iter(loader)
        assert [next(iterator)[0] for _ in range(3)] == [0, 1, 2]
        iterators = [iter(loader)]
        assert next(iterators[0])[0] == 0
        assert in_child(drop) == 0
        assert [index for index, _ in iterator] == list(range(3, 50))
        expect_blocks(loader, 50)


def test_a_child_of_a_fork_may_make_a_loader_of_its_own() -> None:
    def use() -> int:
        with fork(datasets.Blocks(20)) as own:
            expect_blocks(own, 20)
        return 0

    with fork(datasets.Blocks(50)) as loader:
        iterator = iter(loader)
        next(iterator)
        assert in_child(use) == 0
        assert [index for index, _ in iterator] == list(range(1, 50))


def test_a_child_that_outlives_the_parent_does_not_keep_its_workers(
    tmp_path: Path,
) -> None:
    fork_and_wait = (
        "pid = os.fork()\n"
        "            if pid == 0: time.sleep(5); os._exit(0)\n"
        "            gate.arrive(f'child-{pid}'); gate.arrive('forked'); time.sleep(30)"
    )
    with program(filled(tmp_path, "fork", then=fork_and_wait), tmp_path) as process:
        gate = Gate(tmp_path)
        gate.await_arrival("forked")
        workers = [
            p for p in family(process.pid) if f"child-{p.pid}" not in gate.arrived()
        ]
        assert len(workers) == 2
        process.kill()
        expect_all_gone(workers)


# Ctrl-C that is caught


INTERRUPTED = """
import faulthandler, os, signal, sys
from feedline import Loader, PyDataset
import feedline
from tests.datasets import block

HOME = os.path.dirname(os.path.realpath(feedline.engine.__file__))
ME = os.getpid()

class Blocks(PyDataset):
    epoch = 0
    def on_epoch_begin(self):
        self.epoch += 1
    def __len__(self):
        return 5
    def __getitem__(self, index):
        return self.epoch, index, block(index)

class Interrupt:
    '''Sends the signal of Ctrl-C at the n-th line of feedline's own code.'''

    def __init__(self, at):
        self.left = at

    def __call__(self, frame, event, argument):
        if os.path.dirname(os.path.realpath(frame.f_code.co_filename)) != HOME:
            return None
        return self.line

    def line(self, frame, event, argument):
        if event == "line" and os.getpid() == ME:
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return self.line

def expect_exact(loader, dataset):
    seen = list(loader)
    assert [batch[:2] for batch in seen] == [(dataset.epoch, i) for i in range(5)], seen
    assert all((array == block(i)).all() for _, i, array in seen)

def interrupted(loader, at):
    trace = Interrupt(at)
    sys.settrace(trace)
    try:
        for batch in loader:
            pass
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return trace.left <= 0

if __name__ == "__main__":
    faulthandler.dump_traceback_later(60, exit=True)
    dataset = Blocks()
    at, step, first = {at}, {step}, {first}
    while True:
        loader = Loader(dataset, {options}, max_queue_size=3)
        with loader:
            if not first:
                expect_exact(loader, dataset)
            hit = interrupted(loader, at)
            faulthandler.dump_traceback_later(20, exit=True)
            try:
                expect_exact(loader, dataset)
            except BaseException as error:
                error.add_note(f"interrupted at line event {{at}}")
                raise
        if not hit:
            break
        at += step
    print("fine", at > 50)
"""


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("kind", "step"), [("thread", 1), ("fork", 9)])
def test_after_an_interrupt_anywhere_the_next_epoch_is_exact(
    kind: str, step: int, first: bool, tmp_path: Path
) -> None:
    # One Python in three looks at one place in three, and each at others.
    here = 1 + step * (sys.version_info.minor % 3)
    text = textwrap.dedent(INTERRUPTED).format(
        at=here, step=3 * step, first=first, options=KINDS[kind]
    )
    with program(text, tmp_path) as process:
        output, errors = process.communicate(timeout=60)
    assert (output, errors) == ("fine True\n", "")


SHIELDED = """
import signal
from pathlib import Path
from feedline import Loader
from tests.datasets import Gate, Numbers

if __name__ == "__mp_main__":
    closed = {{signal.SIGINT, signal.SIGTERM}} <= signal.pthread_sigmask(0, ())
    Gate(Path({folder!r})).arrive("closed" if closed else "open")

if __name__ == "__main__":
    with Loader(Numbers(4), {options}) as loader:
        print(list(loader))
"""


@pytest.mark.parametrize("kind", ["forkserver", "spawn"])
def test_a_worker_that_is_not_ready_yet_cannot_be_interrupted(
    kind: str, tmp_path: Path
) -> None:
    text = SHIELDED.format(folder=str(tmp_path), options=KINDS[kind])
    with program(text, tmp_path) as process:
        output, errors = process.communicate(timeout=PATIENCE)
    assert (output, errors) == ("[0, 1, 2, 3]\n", "")
    assert Gate(tmp_path).arrived() == {"closed"}


CAUGHT = """
import time
from pathlib import Path
from feedline import Loader
from tests.datasets import Slow

if __name__ == "__main__":
    dataset = Slow(Path({folder!r}), at=3)
    with Loader(dataset, {options}) as loader:
        iterator = iter(loader)
        assert [next(iterator) for _ in range(3)] == [0, 1, 2]
        try:
            next(iterator)
        except KeyboardInterrupt:
            dataset.gate.arrive("caught")
        dataset.gate.arrive("over")
        assert list(loader) == list(range(8))
    print("fine")
"""


@pytest.mark.parametrize("kind", ["thread", *PROCESSES])
@pytest.mark.parametrize("group", [False, True])
def test_an_interrupt_while_the_consumer_waits_is_answered_at_once(
    kind: str, group: bool, tmp_path: Path
) -> None:
    text = CAUGHT.format(folder=str(tmp_path), options=KINDS[kind])
    gate = Gate(tmp_path)
    with program(text, tmp_path) as process:
        gate.await_arrival("hanging")
        # The consumer has what came before the batch that hangs, or is about to.
        wait_until(lambda: consumer_waits(process.pid), "the consumer waits")
        (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
        gate.await_arrival("caught", 0.5)
        output, errors = process.communicate(timeout=PATIENCE)
    assert (output, errors) == ("fine\n", "")


def consumer_waits(pid: int) -> bool:
    """Whether it has used no time for a while."""
    process = psutil.Process(pid)
    before = process.cpu_times()
    time.sleep(0.1)
    return bool(process.cpu_times() == before)


TWO_ITERATORS = """
from feedline import Loader
from tests.datasets import Blocks

def interrupt(tasks):
    del pipes.send  # once
    raise KeyboardInterrupt

if __name__ == "__main__":
    with Loader(Blocks(30), {options}, max_queue_size=3, timeout=3) as loader:
        left, right = iter(loader), iter(loader)
        assert (next(left)[0], next(right)[0]) == (0, 0)
        pipes = loader._pool._dispatch.crew.pipes
        pipes.send = interrupt
        try:
            list(left)
        except KeyboardInterrupt:
            print("interrupted")
        assert [index for index, _ in right] == list(range(1, 30))
        assert [index for index, _ in loader] == list(range(30))
    print("fine")
"""


def test_an_interrupt_of_one_iterator_is_not_forgotten_by_another(
    tmp_path: Path,
) -> None:
    text = TWO_ITERATORS.format(options=KINDS["fork"])
    with program(text, tmp_path) as process:
        output, errors = process.communicate(timeout=10)
    assert (output, errors) == ("interrupted\nfine\n", "")
