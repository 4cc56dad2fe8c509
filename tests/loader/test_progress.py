"""A state says what was received, briefly, and nothing else is taken for one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedline.progress import Progress
from tests.utils.differential import cases


def progress(position: int, missing: list[int], length: int | None = 90) -> Progress:
    return Progress.of(3, position, missing, length, seed=7, shuffle=True)


@cases(100)
@given(st.sets(st.integers(0, 60)), st.integers(0, 60))
def test_what_was_received_is_what_is_told(missing: set[int], more: int) -> None:
    position = max(missing, default=0) + more
    missing = {number for number in missing if number < position}
    told = progress(position, list(missing))
    received = set(range(position)) - missing
    assert set(range(told.position)) - set(told.missing) == received
    assert told.position - 1 not in told.missing  # no briefer way to say it
    assert list(told.missing) == sorted(told.missing)


@cases(100)
@given(st.sets(st.integers(0, 60)), st.none() | st.just(90))
def test_a_state_survives_json(missing: set[int], length: int | None) -> None:
    told = progress(61, list(missing), length)
    assert Progress.from_state(json.loads(json.dumps(told.state()))) == told


@pytest.mark.parametrize("state", [None, [], "{}", 7])
def test_what_is_no_mapping_is_no_state(state: Any) -> None:
    with pytest.raises(TypeError, match="must be what state_dict"):
        Progress.from_state(state)


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": -1}, {"epoch": "3"}, {"epoch": 2**31}, {"position": 2.0},
        {"position": 91}, {"position": True}, {"missing": [61]}, {"missing": [5, 4]},
        {"missing": [5, 5]}, {"missing": [-1]}, {"missing": 5}, {"length": -1},
        {"length": "90"}, {"seed": 2**64}, {"seed": None}, {"shuffle": "yes"},
    ],
    ids=str,
)  # fmt: skip
def test_a_state_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    state = progress(61, [4, 9]).state()
    Progress.from_state(state)
    with pytest.raises(ValueError, match="loader's state must be"):
        Progress.from_state(state | change)


@pytest.mark.parametrize("name", progress(61, [4]).state())
def test_a_state_with_a_part_missing_is_refused(name: str) -> None:
    state = progress(61, [4, 9]).state()
    del state[name]
    with pytest.raises(ValueError, match="loader's state must"):
        Progress.from_state(state)


def test_a_state_of_another_format_says_so() -> None:
    with pytest.raises(ValueError, match=r"must have format 1.*another version"):
        Progress.from_state({**progress(5, []).state(), "format": 2})
