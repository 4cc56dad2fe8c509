"""Progbar against keras.utils.Progbar: one script, one clock, the same bytes.

Where they are meant to differ, a rule names the difference and says what is expected
instead; what no rule names has to be equal.
"""

from __future__ import annotations

import copy
import io
import os
import re
import sys
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from feedline.utils import Progbar, progbar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

keras: Any = pytest.importorskip("keras")

EXAMPLES = int(os.environ.get("FEEDLINE_EXAMPLES", "1"))  # how many times as deep


def thorough(examples: int) -> Callable[[Any], Any]:
    """The same cases in every run, and many of them."""
    chosen = settings(
        max_examples=examples * EXAMPLES,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: seed(20_260_101)(chosen(test))


class Clock:
    """Both bars' time; it stands where a clock of seconds since 1970 would."""

    def __init__(self) -> None:
        self.now = 1.7e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    theirs = sys.modules[keras.utils.Progbar.__module__]
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
    def encoding(self) -> Any:
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
# Keras adds these up in their own type, which overflows, drifts or cannot take a
# fraction; feedline does it in double precision.
NARROW: dict[str, st.SearchStrategy[Any]] = {
    "np.float32": st.floats(-10, 10, width=32).map(lambda x: np.float32(x + 0.0)),
    "np.int8": st.integers(-128, 127).map(np.int8),
    "1-d integers": st.tuples(*[st.integers(0, 99)] * 4).map(np.array),
}
NAMES = ["loss", "accuracy", "lr"]
SECONDS = st.one_of(
    st.sampled_from([0, 1e-6, 4e-4, 0.02, 0.05, 0.5, 0.9996, 1, 61, 4000, 90061]),
    st.floats(0, 200),
)
TARGETS = st.one_of(
    st.none(),
    st.integers(0, 12),
    st.sampled_from([99, 100, 1000, 10**6]),
    st.floats(0.01, 50),
)


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    how = draw(st.sampled_from(["averaged", "stateful", "stateless"]))
    chosen = draw(st.sets(st.sampled_from(NAMES)))
    lists = {"averaged": {}, "stateful": {"stateful_metrics": chosen}}
    as_they_come = {"averaged": set(), "stateful": chosen}.get(how, {*NAMES} - chosen)
    kinds = {
        name: draw(
            st.sampled_from(
                sorted(VALUES | NARROW if name in as_they_come else VALUES)
            )
        )
        for name in draw(st.lists(st.sampled_from(NAMES), unique=True))
    }
    target = draw(TARGETS)
    options = {
        "target": target,
        "width": draw(st.integers(0, 40)),
        "interval": draw(st.sampled_from([0, 0.05, 0.05, 1e6])),
        "verbose": draw(st.sampled_from([1, 1, 1, True, 2, 0, 3])),
        "unit_name": draw(st.sampled_from(["step", "sample", "B"])),
        **lists.get(how, {"stateless_metrics": chosen}),
    }
    steps = []
    current: float = 0
    for _ in range(draw(st.integers(1, 8))):
        units, added = draw(steps_of(target, current))
        current = current + units if added else units
        values = [
            (name, draw((VALUES | NARROW)[kind]))
            for name, kind in kinds.items()
            if draw(st.sampled_from([True, True, False]))
        ]
        finalize = draw(st.sampled_from([None, None, None, False, True]))
        new = draw(st.sampled_from([None] * 9 + [7]))
        steps.append(Step(draw(SECONDS), units, added, values, finalize, new))
    columns = draw(st.sampled_from([200, 200, 200, 80, 40, 20]))
    return Script(columns, draw(st.sampled_from([0, 0, 0, 1, 2, 3])), options, steps)


def steps_of(
    target: float | None, current: float
) -> st.SearchStrategy[tuple[float, bool]]:
    """How a loop goes on: to the next unit, over some, nowhere, back, past its end."""
    return st.one_of(
        st.just((1, True)),
        st.just((current + 1, False)),
        st.just((current, False)),
        st.integers(2, 400).map(lambda n: (n, True)),
        st.integers(0, 12).map(lambda n: (n, False)),
        st.just((target or 3, False)),
        st.sampled_from([(-1, False), (0.5, True), ((target or 5) + 2, False)]),
    )


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
        final = step.finalize and not step.added
        if not target and (final or (target == 0 and current >= 0)):
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

    @thorough(1500)
    @given(scripts())
    def compare(script: Script) -> None:
        monkeypatch.setenv("COLUMNS", str(script.columns))
        displaced = False
        theirs_of = list(played(keras.utils.Progbar, script, clock))
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
        assert steps[difference] >= 20, steps
    print(steps)
