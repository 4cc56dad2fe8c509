"""What the tests of get_file run in processes of their own; prints JSON.

``once``: fetch a URL into a cache, after filling up the cache's disk if told to.
``crowd``: many processes fetch the same URL at once.
``kills``: fetch and unpack a URL again and again, killed at random moments.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feedline.utils import get_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


def run(command: str, *arguments: object, mount: str = "", folder: str = "") -> Any:
    """Run one of the commands of this module in a new process.

    Args:
        command: Name of the command.
        arguments: Its arguments.
        mount: Shell commands that prepare ``$1`` in mounts of its own.
        folder: What ``$1`` is.

    Returns:
        What it printed; None if this system does not allow such mounts.
    """
    line = [sys.executable, "-m", "tests.utils.download_children", command]
    line += [str(argument) for argument in arguments]
    if mount:
        user = [] if os.geteuid() == 0 else ["--map-root-user"]
        script = f'{mount} || exit 77; shift; exec "$@"'
        line = ["unshare", "--mount", *user, "sh", "-c", script, "sh", folder, *line]
    done = subprocess.run(
        line,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    refused = done.returncode == 77 or done.stderr.startswith("unshare:")
    if mount and refused:
        return None
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def once(url: str, cache: str, limit: str = "") -> dict[str, Any]:
    """Fetch; ``limit`` is how many bytes a file may have."""
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    try:
        path = get_file(origin=url, cache_dir=cache)
    except OSError as error:
        return {"error": type(error).__name__, "files": _files(cache)}
    return {"sha256": _sha256(path), "files": _files(cache)}


def crowd(url: str, cache: str, count: str) -> list[str]:
    """The hash of what each process got."""
    gate = os.pipe()
    answers = [_fork(lambda: _behind(gate, url, cache)) for _ in range(int(count))]
    os.close(gate[1])  # all at once
    os.close(gate[0])
    return [_answer(*answer)[0] for answer in answers]


def _behind(gate: tuple[int, int], url: str, cache: str) -> str:
    os.close(gate[1])
    os.read(gate[0], 1)  # until the last writer closes it
    return _sha256(get_file(origin=url, cache_dir=cache))


def kills(url: str, sha256: str, caches: str, count: str) -> list[dict[str, Any]]:
    """What there is after each kill, and after the retry."""
    whole, status = _answer(*_fork(partial(_traced, url, f"{caches}/whole", 0)))
    assert status == 0
    chance = random.Random(7)
    seen = []
    for number in range(int(count)):
        lines = whole
        for attempt in range(20):
            cache = f"{caches}/{number}-{attempt}"
            moment = chance.randint(1, int(lines))
            lines, status = _answer(*_fork(partial(_traced, url, cache, moment)))
            if killed := os.WIFSIGNALED(status):
                break
            # It had fewer lines than the one before, because more bytes came at once.
        file = Path(cache, "datasets", "a.tar_archive")
        before = _sha256(str(file)) if file.exists() else None
        folder = get_file(origin=url, cache_dir=cache, extract=True)
        seen.append(
            {
                "killed": killed,
                "before": before in (None, sha256),
                "file": _sha256(str(file)) == sha256,
                "members": sorted(os.listdir(folder)),
            }
        )
    return seen


def _traced(url: str, cache: str, moment: int) -> str:
    """Fetch and unpack; the process is killed before its n-th line of feedline's."""
    lines = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        if not frame.f_globals.get("__name__", "").startswith("feedline."):
            return None
        lines += event == "line"
        if lines == moment and event == "line":
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    get_file(origin=url, cache_dir=cache, extract=True)
    sys.settrace(None)
    return str(lines)


def _fork(work: Callable[[], str]) -> tuple[int, int]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                os.write(writing, work().encode())
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)
    os.close(writing)
    return pid, reading


def _answer(pid: int, reading: int) -> tuple[str, int]:
    with open(reading) as answer:
        text = answer.read()
    return text, os.waitpid(pid, 0)[1]


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _files(cache: str) -> list[str]:
    found = (path for path in Path(cache).rglob("*") if path.is_file())
    return sorted(str(path.relative_to(cache)) for path in found)


if __name__ == "__main__":
    commands: dict[str, Callable[..., Any]] = {
        "once": once,
        "crowd": crowd,
        "kills": kills,
    }
    sys.stdout.write(json.dumps(commands[sys.argv[1]](*sys.argv[2:])) + "\n")
