"""Run an example as a user does, and read what it prints."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"

KINDS = {"thread": "--threads", "process": "--processes"}

# What imageio says of an image that it was about to open when the interrupt came.
_HALF_OPENED = re.compile(
    r"Exception ignored in: <function PluginV3\.__del__.*?\nAttributeError: [^\n]*\n",
    re.DOTALL,
)


def run(
    example: str, *arguments: object, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run an example to its end."""
    return subprocess.run(
        _command(example, arguments),
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def expect_the_same_weights(
    example: str, kind: str, *arguments: object, **environment: str
) -> None:
    """Train without workers, and with two of a kind; nothing is on stderr."""
    found = []
    for options, built in (
        (["--workers", 0], "built in the calling thread"),
        (["--workers", 2, KINDS[kind]], f"2 {kind} workers"),
    ):
        done = run(example, *options, *arguments, **environment)
        assert done.stderr == ""
        assert done.returncode == 0
        lines = done.stdout.splitlines()
        assert lines[-1].startswith("loader: ")
        assert built in lines[-1]
        found.append(weights(lines))
    assert found[0] == found[1]


def weights(lines: list[str]) -> str:
    """The fingerprint that a run printed."""
    (line,) = (line for line in lines if re.fullmatch("weights [0-9a-f]{12}", line))
    return line


def accuracy(lines: list[str]) -> float:
    """The accuracy that a run printed, in percent."""
    (found,) = re.findall(r"^test accuracy (\d+\.\d) %", "\n".join(lines), re.MULTILINE)
    return float(found)


def interrupt_after(
    line_start: str, example: str, *arguments: object, **environment: str
) -> tuple[int, str]:
    """Press Ctrl-C once a line came out; return the exit status and stderr."""
    process = subprocess.Popen(
        _command(example, arguments),
        env=os.environ | environment | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert any(line.startswith(line_start) for line in process.stdout)
            os.killpg(process.pid, signal.SIGINT)  # to the workers too, as a terminal
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, _HALF_OPENED.sub("", said)


def _command(example: str, arguments: tuple[object, ...]) -> list[str]:
    return [sys.executable, str(EXAMPLES / example), *map(str, arguments)]
