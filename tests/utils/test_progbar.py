"""Tests for feedline.utils.progbar."""

from __future__ import annotations

import fcntl
import io
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from feedline.utils import Progbar, console, progbar

FULL = "\x1b[32m" + "━" * 20 + "\x1b[0m\x1b[37m\x1b[0m"


def replace_stdout(monkeypatch: pytest.MonkeyPatch, stream: Any) -> None:
    """Replace what the package sees; sys.stdout itself is exchanged by pytest."""
    monkeypatch.setattr(console, "sys", SimpleNamespace(stdout=stream))


class Terminal(io.StringIO):
    """A stdout that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Stands in for ``time.monotonic``; goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def go_on(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progbar, "time", SimpleNamespace(monotonic=clock))
    return clock


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    stream = Terminal()
    replace_stdout(monkeypatch, stream)
    monkeypatch.setenv("COLUMNS", "200")
    return stream


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    replace_stdout(monkeypatch, stream)
    return stream


def taken(stream: io.StringIO) -> str:
    """What was written since the last call."""
    text = stream.getvalue()
    stream.seek(0)
    stream.truncate()
    return text


def seen(text: str) -> str:
    """What is left of a line without colours and control characters."""
    return re.sub(r"\x1b\[\d+m|[\b\r\n]", "", text)


def shown(value: Any, stream: io.StringIO) -> str:
    """How a metric of this value is shown."""
    Progbar(2).update(1, [("m", value)])
    return seen(taken(stream)).rpartition("m: ")[2]


# ---- on a terminal -------------------------------------------------------------------


def test_bar_is_redrawn_over_the_line_before(terminal: Terminal, clock: Clock) -> None:
    bar = Progbar(3)
    lines = []
    for step, loss in ((1, 1.0), (2, 0.5), (3, 1 / 3)):
        clock.go_on(0.5)
        bar.update(step, [("loss", loss)])
        lines.append(taken(terminal))
    assert lines == [
        (
            "\r\x1b[1m1/3\x1b[0m \x1b[32m━━━━━━\x1b[0m\x1b[37m━━━━━━━━━━━━━━\x1b[0m"
            " \x1b[1m1s\x1b[0m 500ms/step - loss: 1.0000"
        ),
        "\b"
        * 53
        + "\r\x1b[1m2/3\x1b[0m \x1b[32m━━━━━━━━━━━━━\x1b[0m\x1b[37m━━━━━━━\x1b[0m"
        " \x1b[1m0s\x1b[0m 500ms/step - loss: 0.7500",
        "\b" * 53
        + f"\r\x1b[1m3/3\x1b[0m {FULL} \x1b[1m2s\x1b[0m 500ms/step - loss: 0.3333\n",
    ]


@pytest.mark.parametrize(
    ("options", "step", "seconds", "line"),
    [
        (
            {"target": 5},
            0,
            0.5,
            "\r\x1b[1m0/5\x1b[0m \x1b[37m"
            + "━" * 20
            + "\x1b[0m \x1b[1m0s\x1b[0m 0s/step",
        ),
        ({"target": None}, 1, 0.5, "\r      1/Unknown \x1b[1m0s\x1b[0m 500ms/step"),
        ({"target": 0}, 0, 0.5, "\r      0/Unknown \x1b[1m0s\x1b[0m 0s/step\n"),
        (
            {"target": float("inf")},
            1,
            1,
            "\r      1/Unknown \x1b[1m1s\x1b[0m 1s/step",
        ),
        (
            {"target": 2, "width": 0},
            1,
            1,
            "\r\x1b[1m1/2\x1b[0m \x1b[37m\x1b[0m \x1b[1m1s\x1b[0m 1s/step",
        ),
        (
            {"target": 1000, "width": 5, "unit_name": "sample"},
            7,
            1,
            (
                "\r\x1b[1m   7/1000\x1b[0m \x1b[37m━━━━━\x1b[0m"
                " \x1b[1m2:21\x1b[0m 143ms/sample"
            ),
        ),
    ],
    ids=["nothing-done", "unknown", "zero", "endless", "no-width", "samples"],
)
def test_first_line_is(
    terminal: Terminal,
    clock: Clock,
    options: dict[str, Any],
    step: int,
    seconds: float,
    line: str,
) -> None:
    bar = Progbar(**options)
    clock.go_on(seconds)
    bar.update(step)
    assert taken(terminal) == line


@pytest.mark.parametrize(
    ("units_left", "text"),
    [
        (60, "60s"),
        (61, "1:01"),
        (3600, "60:00"),
        (3601, "1:00:01"),
        (90061, "25:01:01"),
    ],
)
def test_time_left_is_told_as(
    terminal: Terminal, clock: Clock, units_left: int, text: str
) -> None:
    bar = Progbar(1 + units_left, width=0)
    clock.go_on(1)
    bar.update(1)
    assert seen(taken(terminal)).split()[-2:] == [text, "1s/step"]


@pytest.mark.parametrize(
    ("seconds", "pace"),
    [(0, "0s"), (2e-6, "2us"), (0.0012, "1ms"), (0.9996, "1000ms"), (12.4, "12s")],
)
def test_pace_is_told_as(
    terminal: Terminal, clock: Clock, seconds: float, pace: str
) -> None:
    bar = Progbar(10)
    clock.go_on(seconds)
    bar.update(1)
    assert seen(taken(terminal)).endswith(f" {pace}/step")


def test_pace_leaves_out_the_first_unit(terminal: Terminal, clock: Clock) -> None:
    bar = Progbar(5)
    clock.go_on(100)
    bar.update(1)
    clock.go_on(4)
    bar.update(3)
    assert seen(taken(terminal)).rstrip().endswith(" 4s 2s/step")


def test_updates_within_the_interval_are_counted_but_not_drawn(
    terminal: Terminal, clock: Clock
) -> None:
    bar = Progbar(10, interval=1)
    bar.update(1, [("loss", 1.0)])
    taken(terminal)
    clock.go_on(0.9)
    bar.update(2, [("loss", 3.0)])
    assert taken(terminal) == ""
    clock.go_on(0.1)
    bar.update(3)
    assert seen(taken(terminal)).endswith("loss: 2.0000")


def test_final_update_is_drawn_within_the_interval(
    terminal: Terminal, clock: Clock
) -> None:
    bar = Progbar(2, interval=100)
    bar.update(1)
    taken(terminal)
    bar.update(2)
    assert seen(taken(terminal)).startswith("2/2")


def test_shorter_line_covers_the_longer_one_before(
    terminal: Terminal, clock: Clock
) -> None:
    bar = Progbar(9, stateful_metrics=["loss"])
    bar.update(1, [("loss", 1234567.0)])
    before = seen(taken(terminal))
    clock.go_on(1)
    bar.update(2, [("loss", 1.0)])
    assert len(seen(taken(terminal))) == len(before)


@pytest.mark.parametrize(("current", "cells"), [(5, 20), (-1, 0)])
def test_bar_stays_within_its_width(
    terminal: Terminal, clock: Clock, current: int, cells: int
) -> None:
    Progbar(3).update(current, finalize=False)
    text = taken(terminal)
    assert text.count("━") == 20
    assert text.partition("\x1b[37m")[0].count("━") == cells


def test_time_left_is_never_negative(terminal: Terminal, clock: Clock) -> None:
    bar = Progbar(3)
    clock.go_on(50)
    bar.update(5, finalize=False)
    assert " 0s 10s/step" in seen(taken(terminal))


@pytest.mark.parametrize("wide", [10, 30, 45, 50])
def test_line_is_narrower_than_the_terminal(
    terminal: Terminal, clock: Clock, monkeypatch: pytest.MonkeyPatch, wide: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(wide))
    bar = Progbar(3)
    for step in (1, 2, 3):
        clock.go_on(1)
        bar.update(step, [("loss", 1.0)])
        assert len(seen(taken(terminal))) == wide - 1


def test_bar_gives_way_before_the_metrics_do(
    terminal: Terminal, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    Progbar(3).update(1, [("loss", 1.0)])
    assert seen(taken(terminal)).endswith("━ 0s 0s/step - loss: 1.0000")


def test_terminal_that_was_made_narrower_is_not_filled_with_spaces(
    terminal: Terminal, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bar = Progbar(9)
    bar.update(1, [("loss", 1.0)])
    taken(terminal)
    monkeypatch.setenv("COLUMNS", "30")
    clock.go_on(1)
    bar.update(2)
    line, rest = taken(terminal).split("\x1b[K")
    assert len(seen(line)) == 29
    assert rest == ""


def test_close_ends_the_line_it_finds_unfinished(
    terminal: Terminal, clock: Clock
) -> None:
    bar = Progbar(3)
    bar.update(1)
    taken(terminal)
    bar.close()
    assert taken(terminal) == "\n"
    bar.close()
    assert taken(terminal) == ""


def test_close_after_the_final_update_writes_nothing(terminal: Terminal) -> None:
    bar = Progbar(1)
    bar.update(1)
    taken(terminal)
    bar.close()
    assert taken(terminal) == ""


def test_terminal_is_asked_for_its_width_at_every_drawing(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyte: Any = pytest.importorskip("pyte")
    monkeypatch.setenv("COLUMNS", "200")  # exported long ago
    ours, theirs = pty.openpty()
    screen = pyte.Screen(80, 5)
    emulator = pyte.ByteStream(screen)
    with open(ours, "rb", buffering=0) as shown, open(theirs, "w") as stream:
        replace_stdout(monkeypatch, stream)
        bar = Progbar(3, interval=0)
        for step, width in enumerate((80, 30, 60), 1):
            size = struct.pack("HHHH", 5, width, 0, 0)
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
            screen.resize(5, width)
            bar.update(step, [("loss", 1.0), ("val_loss", 2.0)], finalize=False)
            emulator.feed(shown.read(4096))
            line, *others = (text.rstrip() for text in screen.display)
            assert line.startswith(f"{step}/3 ")
            assert len(line) < width
            assert not any(others)


@pytest.mark.parametrize(
    ("columns", "metrics"),
    [
        (70, " - loss: 1.0000 - val_loss: 2.0000"),
        (50, " - loss: 1.0000 - val_loss: 2.0000"),
        (49, " - loss: 1.0000"),
        (31, " - loss: 1.0000"),
        (30, ""),
    ],
)
def test_metrics_that_do_not_fit_are_left_out_whole(
    terminal: Terminal,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    columns: int,
    metrics: str,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    Progbar(3).update(1, [("loss", 1.0), ("val_loss", 2.0)])
    line = seen(taken(terminal))
    assert line.endswith("0s 0s/step" + metrics)
    assert len(line) == columns - 1


@pytest.mark.parametrize("columns", [20, 24, 28, 40, 60])
def test_wide_and_combining_characters_count_as_columns(
    terminal: Terminal, clock: Clock, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    pyte: Any = pytest.importorskip("pyte")
    monkeypatch.setenv("COLUMNS", str(columns))
    screen = pyte.Screen(columns, 4)
    emulator = pyte.Stream(screen)
    bar = Progbar(3, interval=0, unit_name="件e\u0301")
    for step, loss in ((1, 123456.0), (2, 1.0), (2, 123.0)):
        bar.update(
            step, [("損失", loss), ("e\u0301", 1.0), ("👍", 1.0)], finalize=False
        )
        emulator.feed(taken(terminal))
        line, *others = (text.rstrip() for text in screen.display)
        assert line.startswith(f"{step}/3 ")
        assert not any(others)


def test_control_characters_of_a_name_are_left_out(
    terminal: Terminal, clock: Clock
) -> None:
    Progbar(3, unit_name="st\x1b[2Jep").update(1, [("lo\nss\t", 1.0)])
    assert taken(terminal).endswith(" 0s/st[2Jep - loss: 1.0000")


class Notebook(io.StringIO):
    """What a kernel puts in the place of stdout."""


Notebook.__module__ = "ipykernel.iostream"


@dataclass
class Cell:
    """Stands in for IPython.display: the outputs of one cell."""

    outputs: list[dict[str, str]]

    def display(
        self, data: dict[str, str], *, raw: bool, display_id: bool
    ) -> SimpleNamespace:
        position = len(self.outputs)
        self.outputs.append(data)

        def update(data: dict[str, str], *, raw: bool) -> None:
            self.outputs[position] = data

        return SimpleNamespace(update=update)


def test_notebook_cell_has_one_output_for_each_bar(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = Cell([])
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "IPython.display", cell)
    replace_stdout(monkeypatch, notebook := Notebook())
    monkeypatch.setenv(
        "COLUMNS", "20"
    )  # of the terminal that the server was started in
    for target in (2, 3):
        bar = Progbar(target)
        for step in range(1, target + 1):
            bar.update(step, {"loss": 1.0})
        bar.close()
    assert taken(notebook) == ""
    assert [seen(output["text/plain"]) for output in cell.outputs] == [
        "2/2 ━━━━━━━━━━━━━━━━━━━━ 0s 0s/step - loss: 1.0000",
        "3/3 ━━━━━━━━━━━━━━━━━━━━ 0s 0s/step - loss: 1.0000",
    ]


def test_notebook_without_a_way_to_show_anything_does_not_stop_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "IPython", None)
    replace_stdout(monkeypatch, Notebook())
    Progbar(1).update(1)


# ---- elsewhere -----------------------------------------------------------------------


def test_file_gets_one_plain_line_for_a_short_run(
    file: io.StringIO, clock: Clock
) -> None:
    bar = Progbar(9)
    for loss in range(9):
        clock.go_on(1)
        bar.add(1, [("loss", loss)])
    assert taken(file) == "9/9 - 9s - 1s/step - loss: 8.0000\n"


def test_file_gets_a_line_every_ten_seconds(file: io.StringIO, clock: Clock) -> None:
    bar = Progbar(100)
    for _ in range(100):
        clock.go_on(0.25)
        bar.add(1)
    assert taken(file) == (
        " 40/100 - 10s - ETA 15s - 250ms/step\n"
        " 80/100 - 20s - ETA 5s - 250ms/step\n"
        "100/100 - 25s - 250ms/step\n"
    )


def test_file_gets_plain_lines_while_the_length_is_unknown(
    file: io.StringIO, clock: Clock
) -> None:
    bar = Progbar(None)
    for _ in range(3):
        clock.go_on(5)
        bar.add(1)
    bar.target = 3
    bar.update(3, finalize=True)
    assert taken(file) == "2/Unknown - 10s - 5s/step\n3/3 - 15s - 5s/step\n"


# ---- verbose -------------------------------------------------------------------------


def test_verbose_2_writes_one_line_at_the_end(terminal: Terminal, clock: Clock) -> None:
    bar = Progbar(3, verbose=2)
    for step in (1, 2, 3):
        clock.go_on(0.5)
        bar.update(step, [("loss", 1 / step), ("neg", -2.0)])
    line = "3/3 - 2s - 500ms/step - loss: 0.3333 - neg: -2.0000\n"
    assert taken(terminal) == line


@pytest.mark.parametrize("target", [None, 0, -1, float("inf")])
def test_verbose_2_writes_its_line_for_an_unknown_length_too(
    terminal: Terminal, clock: Clock, target: float | None
) -> None:
    bar = Progbar(target, verbose=2)
    bar.update(1, finalize=False)
    clock.go_on(2)
    bar.update(2, [("loss", 1.0)], finalize=True)
    assert taken(terminal) == "2/Unknown - 2s - 2s/step - loss: 1.0000\n"


@pytest.mark.parametrize("verbose", [0, 3, "auto"])
def test_other_verbosities_are_silent(terminal: Terminal, verbose: Any) -> None:
    Progbar(1, verbose=verbose).update(1, [("loss", 1.0)])
    assert taken(terminal) == ""


# ---- metrics -------------------------------------------------------------------------


def test_average_is_weighted_by_the_units_done(
    terminal: Terminal, clock: Clock
) -> None:
    bar = Progbar(10, interval=0)
    bar.update(3, [("loss", 1.0)])
    bar.update(4, [("loss", 5.0)])
    assert seen(taken(terminal)).endswith("loss: 2.0000")


def test_going_back_or_nowhere_weighs_one(terminal: Terminal, clock: Clock) -> None:
    bar = Progbar(10, interval=0)
    for current, loss in ((1, 0.0), (1, 3.0), (0, 6.0)):
        bar.update(current, [("loss", loss)])
    assert seen(taken(terminal)).endswith("loss: 3.0000")


def test_final_update_shows_the_last_value_and_keeps_the_other_averages(
    terminal: Terminal, clock: Clock
) -> None:
    bar = Progbar(3)
    bar.update(1, [("loss", 1.0), ("other", 1.0)])
    bar.update(2, [("loss", 1.0), ("other", 2.0)])
    bar.update(3, [("loss", 7.0)])
    assert seen(taken(terminal)).endswith("loss: 7.0000 - other: 1.5000")


@pytest.mark.parametrize(
    "choice",
    [
        {"stateful_metrics": ["rate"]},
        {"stateful_metrics": "rate"},
        {"stateless_metrics": ["loss"]},
    ],
)
def test_metric_is_averaged_or_shown_as_it_comes(
    terminal: Terminal, clock: Clock, choice: dict[str, Any]
) -> None:
    bar = Progbar(9, interval=0, **choice)
    bar.update(1, {"loss": 1.0, "rate": 1.0})
    bar.update(2, {"loss": 2.0, "rate": 2.0})
    assert seen(taken(terminal)).endswith("loss: 1.5000 - rate: 2.0000")


def test_both_lists_of_metrics_at_once_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^stateful_metrics and stateless_metrics excl"
    ):
        Progbar(3, stateful_metrics=[], stateless_metrics=[])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.0000e+00"),
        (0.001, "1.0000e-03"),
        (0.00101, "0.0010"),
        (-2.0, "-2.0000"),
        (True, "1.0000"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (1e30, "1000000000000000019884624838656.0000"),
        ([0, 1, 2], "1.0000"),
        ([[0.0, 4.0]], "2.0000"),
        (np.float32(0.5), "0.5000"),
        (np.array([1.0, 2.0]), "1.5000"),
        (np.array([]), "nan"),
        (np.array([np.inf, -np.inf]), "nan"),
        (np.array([60000, 60000], np.float16), "60000.0000"),
        (np.array([100, 100], np.int8), "100.0000"),
    ],
)
def test_value_is_shown_as(
    terminal: Terminal, clock: Clock, value: Any, text: str
) -> None:
    assert shown(value, terminal) == text


def test_lists_are_averaged_over_updates(terminal: Terminal, clock: Clock) -> None:
    bar = Progbar(9, interval=0)
    bar.update(2, [("loss", [0, 1, 2])])
    bar.update(3, [("loss", [3, 4, 5])])
    assert seen(taken(terminal)).endswith("loss: 2.0000")


def test_array_given_is_left_as_it_was(terminal: Terminal) -> None:
    values = np.array([1.0, 2.0])
    bar = Progbar(9)
    bar.update(1, [("loss", values)])
    bar.update(2, [("loss", values)])
    assert values.tolist() == [1.0, 2.0]


class Tensor:
    """What a torch tensor that needs its gradient lets one do."""

    def __array__(self, dtype: object = None, copy: object = None) -> Any:
        raise RuntimeError("call detach() first")

    def detach(self) -> Any:
        return self

    def cpu(self) -> Any:
        return self

    def double(self) -> Any:
        return np.array([1.0, 4.0])


def test_tensor_is_taken_from_its_graph_and_device(
    terminal: Terminal, clock: Clock
) -> None:
    assert shown(Tensor(), terminal) == "2.5000"


@pytest.mark.parametrize("value", ["0.5", None, [None], 1j, ["a"], [[1], [1, 2]]])
def test_value_that_is_no_number_is_refused_by_name(
    terminal: Terminal, value: object
) -> None:
    with pytest.raises(TypeError, match=r"^metric 'loss' must be a number or an array"):
        Progbar(3).update(1, [("loss", value)])


def test_update_that_is_refused_counts_nothing(
    terminal: Terminal, clock: Clock
) -> None:
    bar = Progbar(9, interval=0)
    bar.update(1, [("loss", 1.0)])
    with pytest.raises(TypeError):
        bar.update(2, [("loss", 5.0), ("accuracy", None)])
    taken(terminal)
    bar.add(1)
    line = seen(taken(terminal))
    assert line.startswith("2/9 ")
    assert line.endswith("step - loss: 1.0000")


def test_target_that_is_no_number_is_refused(terminal: Terminal) -> None:
    wrong: Any = "5"
    with pytest.raises(TypeError):
        Progbar(wrong).update(1)


# ---- a stdout in trouble -------------------------------------------------------------


class Broken(Terminal):
    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


class Mute:
    """Has neither flush nor isatty."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("verbose", [1, 2])
@pytest.mark.parametrize("stream", [None, closed(), Broken()])
def test_stdout_in_trouble_does_not_stop_training(
    monkeypatch: pytest.MonkeyPatch, stream: Any, verbose: int
) -> None:
    replace_stdout(monkeypatch, stream)
    bar = Progbar(2, verbose=verbose, interval=0)
    bar.update(1)
    bar.update(2)
    bar.close()


def test_stream_that_can_only_write_is_written_to(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    stream = Mute()
    replace_stdout(monkeypatch, stream)
    Progbar(1).update(1)
    assert stream.text == "1/1 - 0s - 0s/step\n"


def test_encoding_without_the_bar_gets_equal_signs(
    terminal: Terminal, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    replace_stdout(monkeypatch, stream)
    bar = Progbar(2)
    clock.go_on(3e-6)
    bar.update(1, [("größe", 1.0)])
    assert raw.getvalue() == (
        b"\r\x1b[1m1/2\x1b[0m \x1b[32m==========\x1b[0m\x1b[37m==========\x1b[0m"
        b" \x1b[1m0s\x1b[0m 3us/step - gre: 1.0000"
    )


@pytest.mark.parametrize("encoding", ["cp866", "cp1251", "latin-1"])
def test_code_page_gets_what_it_has(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    raw = io.BytesIO()
    replace_stdout(monkeypatch, io.TextIOWrapper(raw, encoding=encoding))
    Progbar(1, unit_name="Ж").update(1, [("größe損", 1.0)])
    said = raw.getvalue().decode(encoding)
    known = "größe損Ж".encode(encoding, "ignore").decode(encoding)
    assert (
        said
        == f"1/1 - 0s - 0s/{known.partition('Ж')[1]} - {known.rstrip('Ж')}: 1.0000\n"
    )


TRAINING = """
import sys
from feedline.utils import Progbar
for verbose in (1, 2):
    bar = Progbar(2000, verbose=verbose, interval=0)
    for step in range(2000):
        bar.add(1, {"loss": 1.0})
        bar.update(step + 1, finalize=True)
    bar.close()
sys.stderr.write("trained")
"""


@pytest.mark.parametrize("command", ["| true", ">&-", "> /dev/full"])
def test_training_goes_on_without_a_reader_a_stdout_or_space(command: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$0" -c "$1" {command}', sys.executable, TRAINING],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.stderr.startswith("trained")


# ---- threads -------------------------------------------------------------------------


def test_no_unit_added_from_several_threads_is_lost(file: io.StringIO) -> None:
    bar = Progbar(4000, verbose=2)

    def add_a_thousand() -> None:
        for _ in range(1000):
            bar.add(1)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=add_a_thousand) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert taken(file).startswith("4000/4000 - ")


def test_lines_of_several_threads_never_mix(
    terminal: Terminal, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bar = Progbar(401, interval=0)
    start = threading.Barrier(8)

    def add_fifty(loss: int) -> None:
        start.wait()
        for _ in range(50):
            bar.add(1, [("loss", loss)])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add_fifty, range(1, 9)))
    lines = [seen(line).rstrip() for line in taken(terminal).split("\r")[1:]]
    assert [int(line.partition("/")[0]) for line in lines] == list(range(1, 401))
    shape = r" *\d+/401 ━{20} 0s 0s/step - loss: [1-8]\.\d{4}"
    assert all(re.fullmatch(shape, line) for line in lines)
    assert lines[-1].endswith(" - loss: 4.5000")


# ---- what others read and assign -----------------------------------------------------


def test_what_was_given_can_be_read_and_assigned(
    terminal: Terminal, clock: Clock
) -> None:
    bar = Progbar(None, 10, 1, 0.5, ["a"], "sample")
    assert (bar.target, bar.width, bar.verbose, bar.interval) == (None, 10, 1, 0.5)
    assert (bar.unit_name, bar.stateful_metrics) == ("sample", {"a"})
    assert bar.stateless_metrics is None
    bar.target, bar.width, bar.unit_name = 2, 4, "B"
    bar.update(1)
    assert seen(taken(terminal)) == "1/2 ━━━━ 0s 0s/B"


def test_the_list_that_was_not_given_is_none() -> None:
    bar = Progbar(1, stateless_metrics=["a"])
    assert bar.stateful_metrics is None
    assert bar.stateless_metrics == {"a"}
    assert Progbar(1).stateful_metrics == set()
