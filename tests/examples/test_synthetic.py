"""Tests for examples/synthetic.py, run as a user runs it."""

from __future__ import annotations

import pytest

from tests.examples.program import (
    LOADER_LINES,
    WAYS,
    Program,
    accuracy,
    loader,
    weights,
)

PROGRAM = Program("synthetic.py")
SHORT = ["--epochs", 3, "--steps", 200]
STREAMS = {"finite": [], "endless": ["--endless"]}


@pytest.fixture(scope="module")
def printed() -> dict[str, dict[str, list[str]]]:
    return {
        stream: {
            way: PROGRAM.print_lines(*SHORT, *more, *options)
            for way, options in WAYS.items()
        }
        for stream, more in STREAMS.items()
    }


@pytest.mark.parametrize("stream", STREAMS)
def test_weights_are_the_same_with_every_kind_of_worker(
    printed: dict[str, dict[str, list[str]]], stream: str
) -> None:
    assert len({weights(lines) for lines in printed[stream].values()}) == 1, printed
    for way, lines in printed[stream].items():
        assert loader(lines).startswith("600 batches, waited ")
        assert LOADER_LINES[way] in loader(lines)


@pytest.mark.parametrize("stream", STREAMS)
def test_three_short_epochs_tell_more_than_three_of_four_waves_apart(
    printed: dict[str, dict[str, list[str]]], stream: str
) -> None:
    assert accuracy(printed[stream]["2 processes"]) > 75


def test_endless_stream_goes_on_where_a_finite_one_begins_a_new_epoch(
    printed: dict[str, dict[str, list[str]]],
) -> None:
    finite, endless = (printed[stream]["2 threads"] for stream in STREAMS)
    assert weights(finite) != weights(endless)
    one_epoch = ["--epochs", 1, "--steps", 100]
    assert weights(PROGRAM.print_lines(*one_epoch)) == weights(
        PROGRAM.print_lines(*one_epoch, "--endless")
    )


def test_ctrl_c_ends_it_with_one_line_and_status_130() -> None:
    ended = PROGRAM.interrupt_after("Epoch 2/", "--endless", "--epochs", 99999)
    assert ended == (130, "interrupted\n")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--workers", -1], "argument --workers: must be 0 or more, got '-1'"),
        (["--steps", "many"], "argument --steps: must be 1 or more, got 'many'"),
        (["--threads", "--processes"], "argument --processes: not allowed with "),
    ],
)
def test_bad_options_get_one_line_and_status_2(option: list[object], said: str) -> None:
    assert PROGRAM.refuse(*option).startswith(f"synthetic.py: error: {said}")
