"""Progbar against keras.utils.Progbar: one script, one clock, the same bytes.

Where they are meant to differ, a rule names the difference and says what is expected
instead; what no rule names has to be equal.
"""

from __future__ import annotations

import copy
import io
import re
import sys
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedline.utils import Progbar, progbar
from tests.utils.differential import cases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

keras: Any = pytest.importorskip("keras")
keras_bar = keras.utils.Progbar


class Clock:
    """Both bars' time; it stands where a clock of seconds since 1970 would."""

    def __init__(self) -> None:
        self.now = 1.7e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    theirs = sys.modules[keras_bar.__module__]
    monkeypatch.setattr(theirs, "time", SimpleNamespace(time=clock))
    monkeypatch.setattr(progbar, "time", SimpleNamespace(monotonic=clock))
    return clock


class Terminal(io.TextIOWrapper):
    """A terminal of some encoding, which it may keep to itself."""

    def __init__(self, encoding: str = "utf-8", *, named: bool = True) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, newline="")
        self._named = named
        self._known_as = encoding

    @property
    def encoding(self) -> Any:  # type: ignore[override]
        return super().encoding if self._named else None

    def isatty(self) -> bool:
        return True

    def taken(self) -> str:
        """What was written since the last call."""
        raw: Any = self.buffer
        data: bytes = raw.getvalue()
        raw.seek(0)
        raw.truncate()
        return data.decode(self._known_as)


TERMINALS: list[Callable[[], Terminal]] = [
    Terminal,
    lambda: Terminal("ascii"),
    lambda: Terminal("cp1251"),
    lambda: Terminal("ascii", named=False),
]


# ---- scripts -------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One call: some time later, so many units more, or so many in all."""

    seconds: float
    units: float
    added: bool
    values: list[tuple[str, Any]]
    finalize: bool | None
    new_target: int | None


@dataclass(frozen=True)
class Script:
    """A bar and what it is told."""

    columns: int
    terminal: int
    options: dict[str, Any]
    steps: list[Step]


# NumPy's scalars and arrays keep the sign of -0.0 on some ways through Keras and lose it
# on others, so they come without; a float of -0.0 keeps it everywhere.
dyadic = st.integers(-(2**12), 2**12).map(lambda n: n / 64)  # their sums are exact
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "float": st.one_of(
        st.floats(-1e6, 1e6),
        st.sampled_from([0.0, -0.0, 1e-3, -1e-3, 1e-9, -1e-9, 1e30, -2.0]),
        st.sampled_from([float("nan"), float("inf"), float("-inf")]),
    ),
    "int": st.integers(-(2**30), 2**30),
    "bool": st.booleans(),
    "np.float64": st.floats(-10, 10).map(np.float64),
    "np.int64": st.integers(-99, 99).map(np.int64),
    "np.bool_": st.booleans().map(np.bool_),
    "0-d": st.floats(-10, 10).map(lambda x: np.array(x + 0.0)),
    "1-d": st.tuples(dyadic, dyadic).map(np.array),
}
# Keras calculates with these in their own type, which overflows, drifts or cannot take a
# fraction; feedline does it in double precision. Where nothing is added up they are equal,
# but for the one number that is on the border of two formats.
NARROW: dict[str, st.SearchStrategy[Any]] = {
    "np.float32": st.floats(-10, 10, width=32)
    .map(lambda x: np.float32(x + 0.0))
    .filter(lambda x: abs(x) != np.float32(1e-3)),
    "np.int8": st.integers(-128, 127).map(np.int8),
    "1-d integers": st.tuples(*[st.integers(0, 99)] * 4).map(np.array),
}
CHOICES = {
    False: st.sampled_from(sorted(VALUES)),
    True: st.sampled_from(sorted(VALUES | NARROW)),  # of a metric shown as it comes
}
NAMES = ["loss", "accuracy", "lr"]
WHICH = st.lists(st.sampled_from(NAMES), unique=True)
OPTIONS = st.fixed_dictionaries(
    {
        "target": st.one_of(
            st.none(),
            st.integers(0, 12),
            st.sampled_from([99, 100, 1000, 10**6]),
            st.floats(0.01, 50),
        ),
        "width": st.integers(0, 40),
        "interval": st.sampled_from([0, 0, 0.05, 0.05, 1e6]),
        "verbose": st.sampled_from([1, 1, 1, 1, 1, True, 2, 2, 0, 3]),
        "unit_name": st.sampled_from(["step", "sample", "B"]),
    }
)
MODES = st.sampled_from(["averaged", "stateful_metrics", "stateless_metrics"])
SECONDS = st.one_of(
    st.sampled_from([0, 1e-6, 4e-4, 0.02, 0.05, 0.5, 0.9996, 1, 61, 4000, 90061]),
    st.floats(0, 200),
)
# How a loop goes on: to the next unit, over some, nowhere, back, to its end, past it.
MOVES = st.sampled_from(
    [
        "add 1",
        "add 1",
        "next",
        "next",
        "add 4",
        "add 25",
        "add 0.5",
        "stay",
        "0",
        "half",
        "half",
        "end",
        "end",
        "past",
        "-1",
    ]
)
STEPS = st.lists(
    st.tuples(
        SECONDS,
        MOVES,
        st.sampled_from([3, 3, 1, 0]),  # how many of the metrics come
        st.sampled_from([None, None, None, False, True, "new target"]),
    ),
    min_size=3,
    max_size=7,
)
PLACES = st.tuples(
    st.sampled_from([200] * 6 + [80, 40, 20]), st.sampled_from([0, 0, 0, 1, 2, 3])
)


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    columns, terminal = draw(PLACES)
    options: dict[str, Any] = draw(OPTIONS)
    mode, chosen, used = draw(MODES), draw(WHICH), draw(WHICH)
    if mode != "averaged":
        options[mode] = chosen
    kinds = {
        name: draw(CHOICES[mode != "averaged" and (name in chosen) == ("ful" in mode)])
        for name in used
    }
    steps = []
    current: float = 0
    target = options["target"]
    for seconds, move, measured, event in draw(STEPS):
        finalize = event if isinstance(event, bool) else None
        new_target = 7 if event == "new target" else None
        target = new_target or target
        units: float
        if added := move.startswith("add"):
            units = float(move[4:]) if "." in move else int(move[4:])
        else:
            end = target or 5
            units = {
                "next": current + 1, "stay": current, "0": 0, "-1": -1,
                "half": end // 2, "end": end, "past": end + 2,
            }[move]  # fmt: skip
        current = current + units if added else units
        values = [
            (name, draw((VALUES | NARROW)[kind]))
            for name, kind in list(kinds.items())[:measured]
        ]
        steps.append(Step(seconds, units, added, values, finalize, new_target))
    return Script(columns, terminal, options, steps)


def played(
    kind: Any, script: Script, clock: Clock
) -> Iterator[tuple[Step, float, float | None, str]]:
    """Each step with where it led, the target it had, and what was written."""
    clock.now = 1.7e9
    terminal = TERMINALS[script.terminal]()
    with redirect_stdout(terminal), np.errstate(all="ignore"):
        bar = kind(**copy.deepcopy(script.options))
        current: float = 0
        for step in script.steps:
            clock.now += step.seconds
            if step.new_target is not None:
                bar.target = step.new_target
            values = copy.deepcopy(step.values)
            if step.added:
                current += step.units
                bar.add(step.units, values)
            else:
                current = step.units
                bar.update(current, values, finalize=step.finalize)
            yield step, current, bar.target, terminal.taken()


# ---- differences that are meant ------------------------------------------------------


def meant(script: Script, step: Step, current: float, target: Any, theirs: str) -> str:
    """The name of the difference that a step shows; none is no difference."""
    if script.options["verbose"] == 2:
        final = None if step.added else step.finalize
        if final is None:
            final = target is not None and current >= target
        if final and not target:
            return "unknown length"
        numbers = re.findall(r": (-\d\.\d{4}e[+-]\d\d)", theirs)
        if any(float(number) <= -1e-3 for number in numbers):
            return "negative number"
    elif len(seen(theirs)) > script.columns - 1:
        return "too wide"
    elif target and theirs and not 0 <= current <= target:
        return "past the end"
    return ""


def seen(text: str) -> str:
    """A line without colours, control characters and padding."""
    return re.sub(r"\x1b\[\d+m|[\b\r\n]", "", text).rstrip(" ")


def bare(text: str) -> str:
    """A line without its bar, and without time that is left after the end."""
    return re.sub(r" -\d+s ", " 0s ", re.sub("[━=]", "", seen(text)))


def in_its_place(text: str) -> str:
    """A line without what depends on the line before."""
    return re.sub(" +(?=\n?$)", "", text.lstrip("\b"))


def check(difference: str, script: Script, ours: str, theirs: str) -> None:
    """What is expected where it is not Keras' line."""
    cells = len(re.findall("[━=]", ours))
    if difference == "unknown length":
        assert theirs == ""
        assert re.fullmatch(r"-?\d+/Unknown - \d+s - -?\d+[mu]?s/\w+.*\n", ours)
    elif difference == "negative number":
        number = r"(?<=: )[-+.\dainef]+"
        assert re.sub(number, "#", ours) == re.sub(number, "#", theirs)
        for mine, other in zip(
            re.findall(number, ours), re.findall(number, theirs), strict=True
        ):
            assert float(mine) == pytest.approx(float(other), 1e-4, 6e-5, nan_ok=True)
            assert ("e" in mine) == (abs(float(other)) <= 1e-3)
    elif difference == "too wide":
        assert len(seen(ours)) <= script.columns - 1
        assert bare(theirs).startswith(bare(ours))
        assert cells <= script.options["width"]
    else:
        assert bare(ours) == bare(theirs)
        assert cells == script.options["width"]


# ---- the comparison ------------------------------------------------------------------


def test_a_terminal_gets_the_same_bytes(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: Counter[str] = Counter()

    @cases(2000)
    @given(scripts())
    def compare(script: Script) -> None:
        monkeypatch.setenv("COLUMNS", str(script.columns))
        displaced = False
        theirs_of = list(played(keras_bar, script, clock))
        for (step, current, target, theirs), (*_, ours) in zip(
            theirs_of, played(Progbar, script, clock), strict=True
        ):
            difference = meant(script, step, current, target, theirs)
            steps[difference or ("line" if theirs else "silence")] += 1
            if difference:
                check(difference, script, ours, theirs)
            elif displaced:
                assert in_its_place(ours) == in_its_place(theirs)
            else:
                assert ours == theirs
            if theirs:
                displaced = difference in ("too wide", "past the end")

    compare()
    assert steps["line"] >= 2000
    for difference in ("unknown length", "negative number", "too wide", "past the end"):
        assert steps[difference] >= 10, steps


def walked(kind: Any, target: int, width: int) -> str:
    """What is written on the way to every unit, when the first one takes a second."""
    with redirect_stdout(terminal := Terminal()):
        bar = kind(target, width=width, interval=0)
        for current in range(target + 1):
            bar.update(current, finalize=False)
    return terminal.taken()


@pytest.mark.parametrize("width", [1, 10, 20, 22, 39])  # 22, 39: rounding shows
def test_the_bar_is_as_long_at_every_unit(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for target in range(1, 60):
        ours, theirs = (walked(kind, target, width) for kind in (Progbar, keras_bar))
        assert ours == theirs


def first_line(kind: Any, clock: Clock, units_left: float, seconds: float) -> str:
    """What is written when the first unit took as long as that."""
    clock.now = 0.0  # where it can tell every second from the next
    with redirect_stdout(terminal := Terminal()):
        bar = kind(1 + units_left, interval=-1)
        clock.now += seconds
        bar.update(1, finalize=False)
    return terminal.taken()


@pytest.mark.parametrize("seconds", [1e-6, 9.996e-4, 1e-3, 0.9996, 1.0, 1.5, 60.0])
def test_time_changes_its_form_at_the_same_places(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for left in (*range(130), *range(3590, 3610), *range(86_390, 86_410)):
        ours, theirs = (
            first_line(kind, clock, left, seconds) for kind in (Progbar, keras_bar)
        )
        assert ours == theirs


def test_an_average_of_nothing_but_minus_zero_keeps_its_sign(clock: Clock) -> None:
    values = [-0.0, -0.0]
    assert lines(Progbar, clock, values) == lines(keras_bar, clock, values)
    assert ": -0.0000e+00" in lines(Progbar, clock, values)[-1]


LISTS = st.lists(st.lists(dyadic, min_size=1, max_size=4), min_size=1, max_size=5)


def test_a_list_is_shown_as_keras_shows_its_mean(clock: Clock) -> None:
    @cases(200)
    @given(LISTS)
    def compare(lists: list[list[float]]) -> None:
        means = [sum(part) / len(part) for part in lists]
        assert lines(Progbar, clock, lists) == lines(keras_bar, clock, means)

    compare()


def lines(kind: Any, clock: Clock, values: list[Any], **options: Any) -> list[str]:
    """What is written for one update after the other."""
    options = {"target": len(values) + 1, "interval": 0} | options
    steps = [Step(1, 1, True, [("loss", value)], None, None) for value in values]
    script = Script(200, 0, options, steps)
    return [text for *_, text in played(kind, script, clock)]


def test_averages_are_taken_in_double_precision(clock: Clock) -> None:
    values = [np.float32(1e8)] + [np.float32(1)] * 3
    assert ": 25000000.7500" in lines(Progbar, clock, values)[-1]
    assert ": 25000000.0000" in lines(keras_bar, clock, values)[-1]
    values = [np.float32(1e-3)]  # which is a little more than 1e-3
    assert ": 0.0010" in lines(Progbar, clock, values)[-1]
    assert ": 1.0000e-03" in lines(keras_bar, clock, values)[-1]


def test_arrays_of_several_lengths_are_averaged(clock: Clock) -> None:
    values = [np.array([1.0, 3.0]), np.array([5.0, 6.0, 7.0])]
    assert ": 4.0000" in lines(Progbar, clock, values)[-1]
    with pytest.raises(ValueError, match="broadcast"):
        lines(keras_bar, clock, values)


def test_an_array_of_the_final_update_stays_the_callers(clock: Clock) -> None:
    for kind, left in ((Progbar, [1.0]), (keras_bar, [3.0])):
        array = np.array([1.0])
        with redirect_stdout(Terminal()):
            bar = kind(1)
            bar.update(1, [("loss", array)])
            bar.update(1, [("loss", np.array([2.0]))], finalize=False)
        assert array.tolist() == left


def test_an_update_after_the_final_one_is_shown_again(clock: Clock) -> None:
    values = [1.0, 2.0, 3.0]
    ours = lines(Progbar, clock, values, target=2)
    assert ours[:2] == lines(keras_bar, clock, values, target=2)[:2]
    assert [line.count("\n") for line in ours] == [0, 1, 1]


def test_an_endless_target_is_an_unknown_one(clock: Clock) -> None:
    endless, unknown = (
        lines(Progbar, clock, [1.0], target=target) for target in (float("inf"), None)
    )
    assert endless == unknown
    with pytest.raises(OverflowError):
        lines(keras_bar, clock, [1.0], target=float("inf"))


def test_a_file_gets_no_control_characters(clock: Clock) -> None:
    written = {}
    for kind in (keras_bar, Progbar):
        with redirect_stdout(io.StringIO()) as file:
            bar = kind(2)
            bar.update(1)
            bar.update(2)
        written[kind] = file.getvalue()
    assert "\b" in written[keras_bar]
    assert written[Progbar] == "2/2 - 0s - 0s/step\n"


# ---- errors --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        lambda kind: kind(3, stateful_metrics=[], stateless_metrics=[]),
        lambda kind: kind("3").update(1),
        lambda kind: kind([3]).update(1),
        lambda kind: kind(3).update("1"),
        lambda kind: kind(3).update(None),
        lambda kind: kind(None).update(None),
        lambda kind: kind(3).add("1"),
        lambda kind: kind(3, width="20").update(1),
        lambda kind: kind(3).update(1, [("loss", None)]),
        lambda kind: kind(3).update(1, [("loss", "0.5")]),
        lambda kind: kind(3).update(1, [1.0]),
        lambda kind: kind(3).update(1, 1.0),
        lambda kind: kind(3, stateful_metrics=3),
    ],
)
def test_a_mistake_is_the_same_kind_of_error(clock: Clock, wrong: Any) -> None:
    with redirect_stdout(Terminal()):
        with pytest.raises((TypeError, ValueError)) as theirs:
            wrong(keras_bar)
        with pytest.raises((TypeError, ValueError)) as ours:
            wrong(Progbar)
    assert issubclass(theirs.type, ours.type)


# ---- as Keras drives it --------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """What ``fit`` tells its progress logger."""

    steps: int
    known: bool
    epochs: int
    verbose: Any
    logs: list[dict[str, float]]


fits = st.builds(
    Fit,
    steps=st.integers(1, 5),
    known=st.booleans(),
    epochs=st.integers(1, 2),
    verbose=st.sampled_from([1, 1, 2, "auto", 0]),
    logs=st.lists(
        st.fixed_dictionaries(
            {"loss": st.floats(1, 9), "accuracy": st.floats(0.01, 1)},
            optional={"val_loss": st.floats(1, 9)},
        ),
        min_size=12,
        max_size=12,
    ),
)


def logged(kind: Any, run: Fit, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> str:
    """What Keras' own ProgbarLogger writes when its bars are of this kind."""
    logger = keras.callbacks.ProgbarLogger()
    monkeypatch.setattr(sys.modules[type(logger).__module__], "Progbar", kind)
    clock.now = 1.7e9
    logs = iter(run.logs)
    with redirect_stdout(terminal := Terminal()):
        logger.set_params(
            {
                "verbose": run.verbose,
                "epochs": run.epochs,
                "steps": run.steps if run.known else None,
            }
        )
        logger.on_train_begin()
        for epoch in range(run.epochs):
            logger.on_epoch_begin(epoch)
            for batch in range(run.steps):
                clock.now += 0.04
                logger.on_train_batch_end(batch, next(logs))
            logger.on_epoch_end(epoch, next(logs))
        return terminal.taken()


def test_keras_own_logger_draws_the_same_with_it(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    @cases(200)
    @given(fits)
    def compare(run: Fit) -> None:
        theirs = logged(keras_bar, run, clock, monkeypatch)
        assert logged(Progbar, run, clock, monkeypatch) == theirs

    compare()
