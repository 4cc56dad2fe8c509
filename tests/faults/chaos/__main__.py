"""The command line, and the process that survives what ends the soak's own.

The episodes run in a child process, which keeps the tally in a file after each. So a hang
or a crash of the parent of all loaders is a failure with a number, the summary is printed
all the same, and a soak that was stopped goes on from its file.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from tests.belongings import Belongings, memory
from tests.datasets import wait_until

from .episode import play
from .log import Log
from .script import KINDS, POOLS, draw_script
from .tally import Tally

if TYPE_CHECKING:
    from collections.abc import Sequence

_HANG = 90.0  # seconds for one episode; the slowest take ten
_MOST_WRONG = 10  # failures after which there is enough to look at
_SETTLING = 5.0  # seconds that what is ending may take to end


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, and print what was found; 0 if nothing was wrong."""
    chosen = _parser().parse_args(arguments)
    if chosen.child:
        return _soak(chosen, chosen.state)
    with tempfile.TemporaryDirectory() as folder:
        file = chosen.state or Path(folder) / "chaos.json"
        if not file.exists():
            Tally(chosen.seed, episodes=chosen.episode or 0).keep(file)
        elif Tally.kept(file).seed != chosen.seed:
            raise SystemExit(f"{file} is of another seed than --seed {chosen.seed}")
        _watch(sys.argv[1:] if arguments is None else list(arguments), file, chosen)
        tally = Tally.kept(file)
    sys.stdout.write(f"{tally}\n")
    return 1 if tally.failed else 0


def _watch(arguments: list[str], file: Path, chosen: argparse.Namespace) -> None:
    """Run the child, and another one where it did not end by itself."""
    command = [sys.executable, "-m", "tests.faults.chaos", *arguments, "--child"]
    while not _is_over(Tally.kept(file), chosen):
        # With one heap for all threads, what they have freed goes back to the system.
        environment = os.environ | {"MALLOC_ARENA_MAX": "1"}
        own = [*command, "--state", str(file)]
        with subprocess.Popen(own, env=environment) as child:
            try:
                status = child.wait()
            except KeyboardInterrupt:
                child.terminate()
                return
        tally = Tally.kept(file)
        if status:
            tally.wrong.append(
                f"episode {tally.episodes}: it hung or ended its process, status {status}"
            )
            tally.episodes += 1
            tally.keep(file)


def _is_over(tally: Tally, chosen: argparse.Namespace) -> bool:
    if chosen.episode is not None:
        return tally.episodes > int(chosen.episode)
    return (
        tally.seconds >= float(chosen.minutes) * 60
        or len(tally.wrong) >= _MOST_WRONG
        or tally.number_of_faults >= chosen.faults
    )


def _soak(chosen: argparse.Namespace, file: Path) -> int:
    """Play one episode after the other."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")  # of loaders that are dropped, and of forks
    tally = Tally.kept(file)
    kinds = tuple(chosen.only) if chosen.only else KINDS
    with Log() as log:
        while not _is_over(tally, chosen):
            faulthandler.dump_traceback_later(_HANG, exit=True)
            play_episode(tally, kinds, chosen.pool, log)
            faulthandler.cancel_dump_traceback_later()
            tally.episodes += 1
            tally.keep(file)
    return 0


def play_episode(
    tally: Tally, kinds: tuple[str, ...], pool: str | None, log: Log
) -> None:
    """Play the next episode, and note what was wrong with it."""
    number, start = tally.episodes, time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    before = Belongings.now()
    try:
        play(draw_script(tally.seed, number, kinds, pool), folder, tally, log)
    except Exception:  # noqa: BLE001 - all of it is what the soak looks for
        tally.wrong.append(f"episode {number}: {traceback.format_exc(limit=-6)}")
    gc.collect()
    try:
        wait_until(lambda: not Belongings.now().beyond(before), "all ends", _SETTLING)
    except TimeoutError:
        left = Belongings.now().beyond(before)
        tally.left_behind += [f"episode {number}: {what}" for what in left]
    shutil.rmtree(folder)
    tally.seconds += time.monotonic() - start
    tally.memory.append(round(memory() / 1e6, 1))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.chaos",
        description="Loaders among faults of every kind, every batch compared.",
    )
    add = parser.add_argument
    add("--minutes", type=float, default=60.0, help="how long, in all (60)")
    add("--seed", type=int, default=1, help="decides every episode (1)")
    add("--state", type=Path, help="file of the tally; a soak goes on where it was")
    add("--episode", type=int, help="this one alone")
    add("--only", action="append", choices=KINDS, help="this fault; may be repeated")
    add("--pool", choices=POOLS, help="this pool alone")
    add("--faults", type=int, default=sys.maxsize, help="until so many have happened")
    add("--child", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
