"""What a loader shares is its own: nobody else gets it, listens to it or is trusted."""

from __future__ import annotations

import json
import os
import pickle
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import pytest

from feedline import Loader
from tests.datasets import Blocks, Calls, Numbers

from .programs import ROOT
from .scene import KINDS

POOLS = ["threads", "fork", "forkserver", "spawn"]
PROCESSES = POOLS[1:]


@pytest.fixture(params=PROCESSES)
def kind(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A loader's options, for each kind of worker process."""
    return KINDS[request.param]


def targets(pid: int | str) -> dict[str, str]:
    """Where the descriptors of a process lead."""
    folder = Path(f"/proc/{pid}/fd")
    found = {}
    for name in os.listdir(folder):
        try:
            found[name] = os.readlink(folder / name)
        except FileNotFoundError:
            continue  # the listing's own
    return found


def inherited(_: object = None) -> set[str]:
    """What a program has that is started here and takes all that it can get."""
    with subprocess.Popen(["sleep", "60"], close_fds=False) as sleeper:
        try:
            return set(targets(sleeper.pid).values())
        finally:
            sleeper.kill()


def shared(loader: Loader) -> set[str]:
    """All that the two sides have in common: pipes, arena, process descriptors."""
    pool: Any = loader._pool
    crew = pool._dispatch.crew
    ours = [
        crew.pipes._tasks_in, crew.pipes.tasks,
        crew.pipes.results, crew.pipes.answers, crew._parent, crew.slots.arena.fd,
        *(member.trace for member in crew._members.values()),
        *(member.exit for member in crew._members.values()),
    ]  # fmt: skip
    return {os.readlink(f"/proc/self/fd/{fd}") for fd in ours}


def test_a_program_that_user_code_starts_inherits_nothing_of_a_loader(
    kind: dict[str, Any],
) -> None:
    with Loader(Calls(inherited), **kind) as loader:
        batches = iter(loader)
        by_a_worker = next(batches)
        ours = shared(loader)
        assert any("memfd:feedline" in target for target in ours)
        assert sum(target.startswith("pipe:") for target in ours) >= 4
        assert not ours & inherited()
        assert not ours & by_a_worker


def test_no_descriptor_of_a_worker_is_inheritable(kind: dict[str, Any]) -> None:
    def mine(_: int) -> set[str]:
        return {
            target for fd, target in targets("self").items() if is_inheritable(int(fd))
        }

    with Loader(Calls(mine), **kind) as loader:
        batches = iter(loader)
        by_a_worker = next(batches)
        assert not shared(loader) & by_a_worker


def is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:  # the listing's own
        return False


def test_nothing_of_a_loader_has_a_name(kind: dict[str, Any]) -> None:
    before = names()
    with Loader(Blocks(20), **kind) as loader:
        batches = iter(loader)
        next(batches)
        # Python's own fork server has a folder for its socket.
        assert not {name for name in names() - before if "/pymp-" not in name}
        for target in shared(loader):
            assert target.startswith(("pipe:[", "/memfd:feedline (", "anon_inode:["))
        arena: Any = loader._pool._dispatch.crew.slots.arena  # type: ignore[union-attr]
        assert os.fstat(arena.fd).st_nlink == 0


def test_nor_has_the_arena_where_there_is_no_anonymous_memory() -> None:
    before = names()
    loader = Loader(Blocks(20), **KINDS["fork"])
    loader._portable = True
    with loader:
        batches = iter(loader)
        next(batches)
        assert names() <= before
        arena: Any = loader._pool._dispatch.crew.slots.arena  # type: ignore[union-attr]
        facts = os.fstat(arena.fd)
        assert facts.st_nlink == 0
        assert stat.S_IMODE(facts.st_mode) == 0o600


def names() -> set[str]:
    return {
        f"{folder}/{name}"
        for folder in ("/dev/shm", tempfile.gettempdir())
        for name in os.listdir(folder)
        if name.startswith(("feedline", "pymp-", "psm_", "sem."))
    }


@pytest.mark.parametrize("pool", POOLS)
def test_nothing_listens(pool: str) -> None:
    before = sockets(psutil.Process())
    with Loader(Blocks(20), **KINDS[pool]) as loader:
        batches = iter(loader)
        next(batches)
        assert sockets(psutil.Process()) == before
        for child in psutil.Process().children(recursive=True):
            for address in sockets(child):
                # Python's own, for this user alone.
                folder = Path(address).parent
                assert "multiprocessing.forkserver" in " ".join(child.cmdline())
                assert folder.name.startswith("pymp-")
                assert stat.S_IMODE(folder.stat().st_mode) == 0o700
                assert child.pid not in getattr(loader._pool, "pids", ())


def sockets(process: psutil.Process) -> set[str]:
    """Addresses of all kinds; a socket without one belongs to a pair."""
    return {str(socket.laddr) for socket in process.net_connections("all")} - {""}


WATCHED = """
import json, sys
seen = []

def hear(event, args):
    if event == "pickle.find_class":
        seen.append(".".join(args))

sys.addaudithook(hear)
from tests.datasets import Blocks, Numbers
from tests.faults.scene import KINDS
from feedline import Loader

if __name__ == "__main__":
    with Loader(Numbers(6), **KINDS["threads"]) as loader:
        list(loader)
    assert seen == [], seen  # threads need no pickles
    with Loader(Numbers(6), shuffle=True, **KINDS["fork"]) as loader:
        batches = iter(loader)
        next(batches)
        state = json.loads(json.dumps(loader.state_dict()))
    with Loader(Numbers(6), shuffle=True, **KINDS["fork"]) as loader:
        loader.load_state_dict(state)
        assert len(list(loader)) == 5
    assert seen == [], seen  # numbers are no classes, and a state is no pickle
    with Loader(Blocks(6), **KINDS["fork"]) as loader:
        list(loader)
    print(sorted(set(seen)))
"""


def test_the_main_process_unpickles_nothing_but_what_its_workers_built() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert all("numpy" in name for name in json.loads(done.stdout.replace("'", '"')))


class Trap:
    """Tells if it is ever unpickled."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("a state was unpickled",)


def test_a_state_is_data_and_is_never_unpickled() -> None:
    with Loader(Numbers(6), workers=0) as loader:
        state = loader.state_dict()
        assert json.loads(json.dumps(state)) == state
        for false in (pickle.dumps(Trap()), {**state, "seed": pickle.dumps(Trap())}):
            with pytest.raises((TypeError, ValueError)):
                loader.load_state_dict(false)  # type: ignore[arg-type]
