"""An example program, run as a user runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.limits import PROCESS_HANGS

EXAMPLES = Path(__file__).parents[2] / "examples"

WAYS = {
    "in the calling thread": ["--workers", "0"],
    "2 threads": ["--workers", "2", "--threads"],
    "2 processes": ["--workers", "2", "--processes"],
}
LOADER_LINES = {
    "in the calling thread": "built in the calling thread, busy ",
    "2 threads": "2 thread workers busy ",
    "2 processes": "2 process workers busy ",
}


# What imageio says of an image that it was about to open when the interrupt came.
_HALF_OPENED = re.compile(
    r"Exception ignored in: <function PluginV3\.__del__.*?\nAttributeError: [^\n]*\n",
    re.DOTALL,
)


class Program:
    """One file of the examples.

    Args:
        name: Of the file.
        environment: Variables that it is given.
    """

    def __init__(self, name: str, **environment: str) -> None:
        self.path = EXAMPLES / name
        self.environment = {**os.environ, **environment}

    def command(self, *options: object) -> list[str]:
        """What a user types."""
        return [sys.executable, str(self.path), *map(str, options)]

    def run(self, *options: object) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            self.command(*options),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PROCESS_HANGS,
            check=False,
        )

    def print_lines(self, *options: object) -> list[str]:
        """Run it to a good end; return what it printed."""
        done = self.run(*options)
        assert done.stderr == ""
        assert done.returncode == 0
        return done.stdout.splitlines()

    def refuse(self, *options: object) -> str:
        """Run it to status 2; return the one line it has on stderr."""
        done = self.run(*options)
        assert done.returncode == 2, done
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr.removesuffix("\n")

    def expect_the_same_weights(self, *options: object) -> dict[str, list[str]]:
        """Train with every kind of worker; the loader's line tells which it was.

        Returns:
            What each run printed.
        """
        printed = {}
        for way, kind in WAYS.items():
            printed[way] = self.print_lines(*options, *kind)
            assert LOADER_LINES[way] in loader(printed[way])
        assert len({weights(lines) for lines in printed.values()}) == 1, printed
        return printed

    def interrupt_after(self, beginning: str, *options: object) -> tuple[int, str]:
        """Press Ctrl-C once such a line came out; return the exit status and stderr."""
        process = subprocess.Popen(
            self.command(*options),
            env={**self.environment, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        with process:
            try:
                assert process.stdout is not None
                assert any(line.startswith(beginning) for line in process.stdout)
                os.killpg(process.pid, signal.SIGINT)  # to workers too, as a terminal
                _, said = process.communicate(timeout=60)
            finally:
                process.kill()
        return process.returncode, _HALF_OPENED.sub("", said)


def accuracy(lines: list[str]) -> float:
    """The test accuracy that a run printed, in percent."""
    return float(_only(r"test accuracy (\d+\.\d) %.*", lines))


def weights(lines: list[str]) -> str:
    """The fingerprint that a run printed."""
    return _only(r"weights ([0-9a-f]{12})", lines)


def loader(lines: list[str]) -> str:
    """What a run printed about its loader."""
    return _only(r"loader: (.*)", lines)


def _only(pattern: str, lines: list[str]) -> str:
    (found,) = filter(None, (re.fullmatch(pattern, line) for line in lines))
    return found[1]
