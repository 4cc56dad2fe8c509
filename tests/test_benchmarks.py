"""The benchmarks measure what they say, and compare it as they say."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.benchmarks import rounds
from tests.benchmarks.result import Report, Result, Target, summary
from tests.benchmarks.workloads import Arrays

ROOT = Path(__file__).parents[1]
SPDL = "spdl process pool"


def test_one_command_measures_a_row_and_writes_it_down(tmp_path: Path) -> None:
    contestants = ["inline", "feedline threads", "feedline processes"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "mid", "--rounds", "2", "--to",
         str(tmp_path), "--only", *contestants],
        cwd=ROOT, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stored = json.loads((tmp_path / "benchmarks.json").read_text())
    assert [result["who"] for result in stored["results"]] == contestants
    for result in stored["results"]:
        assert 0 < result["best"] <= result["median"]
    table = (tmp_path / "benchmarks.md").read_text()
    assert table.strip() == done.stdout.strip()
    assert "| feedline processes |" in table
    assert (tmp_path / "benchmarks.png").exists() == has_matplotlib()


def has_matplotlib() -> bool:
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def test_a_batch_that_is_lost_or_repeated_fails_the_run() -> None:
    dataset = Arrays(5, 2)
    for wrong in ([0, 1, 2, 3], [0, 1, 2, 3, 4, 4]):
        with pytest.raises(AssertionError, match="lost or repeated"):
            rounds.timed(dataset, partial(map, dataset.__getitem__, wrong))


def test_a_peer_that_is_missing_is_a_row_that_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "spdl.pipeline", None)
    found = list(rounds.measure("small", 1, ("inline", SPDL), lambda words: None))
    assert [result.who for result in found] == ["inline", SPDL]
    assert "ModuleNotFoundError" in found[1].note
    report = Report(found, {})
    assert f"| {SPDL} | ModuleNotFoundError" in report.table([], None)


def report(**best: float) -> Report:
    found = [
        summary("small", who.replace("_", " "), "us a batch", [value, 2 * value])
        for who, value in best.items()
    ]
    return Report(found, {"cores": 2})


def test_a_target_is_reached_from_its_bound_on() -> None:
    measured = report(feedline_processes=10, torch_tensors=300)
    bounds = {29: "yes", 30: "yes", 31: "no"}
    targets = [
        Target("small", "feedline processes", b, "torch tensors") for b in bounds
    ]
    lines = measured.table(targets, None).splitlines()[-3:]
    assert [line.split("|")[-2].strip() for line in lines] == list(bounds.values())
    assert all("30.00x" in line for line in lines)
    most = [Target("small", "feedline processes", bound) for bound in (9, 10)]
    lines = measured.table(most, None).splitlines()[-2:]
    assert [line.split("|")[-2].strip() for line in lines] == ["no", "yes"]


def test_what_was_not_measured_reaches_nothing() -> None:
    measured = report(feedline_processes=10)
    target = Target("small", "feedline processes", 2, "grain")
    assert measured.table([target], None).splitlines()[-1].endswith("not measured | |")


def test_an_earlier_run_stands_beside(tmp_path: Path) -> None:
    report(feedline_processes=40, inline=2).save(tmp_path / "earlier.json")
    earlier = Report.load(tmp_path / "earlier.json")
    table = report(feedline_processes=10, inline=1).table([], earlier)
    assert "| feedline processes | 10 | 15 | 1.00x | 40 |" in table
    assert "| inline | 1 | 1.5 | 0.10x | 2 |" in table


def test_every_target_is_of_a_row_that_there_is() -> None:
    from tests.benchmarks.targets import TARGETS

    for target in TARGETS:
        row = rounds.DELIVERED.get(target.row)
        if row is not None:
            assert target.who in row.contestants
            assert target.peer in (*row.contestants, "perfect workers")


def test_a_figure_that_there_is_none_of_is_no_best() -> None:
    nothing = Result("small", "grain", "us a batch", float("nan"), float("nan"), "why")
    assert "| grain | why |" in Report([nothing], {}).table([], None)
