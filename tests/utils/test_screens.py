"""What Progbar looks like: on terminals of three widths, in a file, in a notebook.

``screens/`` keeps the pictures, and the documentation shows them. They are drawn anew here
and compared.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SCRIPT = HERE / "screens.py"
PAGE = HERE.parents[1] / "docs" / "progress-bar.md"
ROWS = 10
LONG = 60  # seconds; far above the slowest honest run


def picture(name: str) -> str:
    return (HERE / "screens" / f"{name}.txt").read_text()


def environment(**more: str) -> dict[str, str]:
    """Ours, without a width from elsewhere."""
    inherited = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    return inherited | {"PYTHONUTF8": "1", "LC_ALL": "C.UTF-8"} | more


def trimmed(lines: list[str]) -> str:
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


def written_on_a_terminal(columns: int) -> str:
    """All that the script writes on a terminal as wide as that."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    written = b""
    with subprocess.Popen(
        [sys.executable, SCRIPT], stdin=theirs, stdout=theirs, env=environment()
    ) as process:
        os.close(theirs)
        with open(ours, "rb", buffering=0) as terminal, suppress(OSError):
            while part := terminal.read(65536):  # an OSError is the end of a terminal
                written += part
    assert process.returncode == 0
    return written.decode()


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_terminal_shows(columns: int) -> None:
    pyte: Any = pytest.importorskip("pyte")
    screen = pyte.Screen(columns, ROWS)
    pyte.Stream(screen).feed(written_on_a_terminal(columns))
    assert trimmed(screen.display) == picture(f"terminal-{columns}")
    last = screen.buffer[screen.cursor.y]
    cells = [last[x].fg for x in range(columns) if last[x].data == "━"]
    done = int(len(cells) * 0.37)
    assert cells == ["green"] * done + ["white"] * (len(cells) - done)


def in_tmux(folder: Path, *arguments: str) -> str:
    """Run a command of a tmux server of our own."""
    done = subprocess.run(
        ["tmux", "-S", folder / "socket", "-u", "-f", "/dev/null", *arguments],
        env=environment(TERM="screen"),
        capture_output=True,
        text=True,
        check=True,
        timeout=LONG,
    )
    return str(done.stdout)


if shutil.which("tmux"):

    @pytest.mark.parametrize("columns", [40, 80, 200])
    def test_tmux_shows(tmp_path: Path, columns: int) -> None:
        size = ["-x", str(columns), "-y", str(ROWS)]
        drawn = f"tmux -S {tmp_path}/socket wait-for -S drawn"
        # It stays until the screen has been looked at.
        command = f"{sys.executable} {SCRIPT}; {drawn}; exec cat"
        in_tmux(tmp_path, "new-session", "-d", *size, command)
        try:
            in_tmux(tmp_path, "wait-for", "drawn")
            shown = in_tmux(tmp_path, "capture-pane", "-p")
        finally:
            in_tmux(tmp_path, "kill-server")
        assert trimmed(shown.split("\n")) == picture(f"terminal-{columns}")


def test_file_holds(tmp_path: Path) -> None:
    with open(tmp_path / "log", "w") as file:
        subprocess.run(
            [sys.executable, SCRIPT], stdout=file, env=environment(), check=True
        )
    assert (tmp_path / "log").read_text() == picture("file")


def test_notebook_shows(tmp_path: Path) -> None:
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    folders = dict.fromkeys(
        ("HOME", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR"), str(tmp_path)
    )
    done = subprocess.run(
        [sys.executable, SCRIPT, "notebook"],
        env=environment(**folders),
        capture_output=True,
        text=True,
        check=True,
        timeout=LONG,
    )
    shown = [
        output.get("text") or output["data"]["text/plain"] + "\n"
        for output in json.loads(done.stdout)
    ]
    assert not re.search(r"[\r\b]", "".join(shown))
    assert re.sub(r"\x1b\[\d+m", "", "".join(shown)) == picture("notebook")


@pytest.mark.parametrize(
    "path", sorted((HERE / "screens").iterdir()), ids=lambda p: p.stem
)
def test_the_page_shows_this_picture(path: Path) -> None:
    assert f"```text\n{path.read_text()}```" in PAGE.read_text()
