"""The main process ends, is interrupted or is forked: nothing is left, nothing breaks.

Where the main process is the victim, it is a program of its own with a hard limit.
"""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from feedline import Loader, LoaderForkedError
from tests import datasets
from tests.datasets import PATIENCE, Gate

from .programs import consumer, expect_all_gone, family, in_child, program
from .scene import Scene
from .test_death import expect_blocks, fork

if TYPE_CHECKING:
    from pathlib import Path

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


# Forks of the parent


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
        "            scene.gate.arrive(f'child-{pid}'); scene.gate.arrive('forked')\n"
        "            time.sleep(30)"
    )
    scene = Scene("fork", tmp_path)
    with consumer(scene, fork_and_wait) as process:
        scene.gate.await_arrival("forked")
        workers = [
            child
            for child in family(process.pid)
            if f"child-{child.pid}" not in scene.gate.arrived()
        ]
        assert len(workers) == 2
        process.kill()
        expect_all_gone(workers, AT_ONCE)


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


TWO_ITERATORS = """
from feedline import Loader
from tests.datasets import Blocks

def interrupt(*_):
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
