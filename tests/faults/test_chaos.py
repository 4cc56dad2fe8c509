"""The chaos soak's short form, and that it finds what is wrong."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from feedline import thread_pool

from .chaos import __main__ as chaos
from .chaos.log import Log
from .chaos.script import KINDS, draw_script
from .chaos.tally import Tally

if TYPE_CHECKING:
    from pathlib import Path

    from feedline.records import Order


def soak(file: Path, *arguments: str) -> tuple[int, Tally]:
    status = chaos.main([*arguments, "--minutes", "1", "--state", str(file)])
    return status, Tally.kept(file)


@pytest.mark.parametrize(
    ("start_method", "kills"), [("fork", 40), ("forkserver", 4), ("spawn", 4)]
)
def test_every_batch_is_right_while_workers_are_killed_at_random(
    start_method: str, kills: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = "--only", "SIGKILL", "--pool", start_method, "--faults", str(kills)
    status, tally = soak(tmp_path / "tally", *only)
    assert tally.wrong == tally.left_behind == []
    assert status == 0
    assert set(tally.faults) == {f"SIGKILL/{start_method}"}
    assert tally.number_of_faults >= kills
    assert f"{tally.number_of_faults} faults" in capsys.readouterr().out


def test_a_soak_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    only = "--only", "exception", "--pool", "thread"
    _, first = soak(tmp_path / "tally", *only, "--faults", "3")
    _, both = soak(tmp_path / "tally", *only, "--faults", "8")
    assert both.episodes > first.episodes > 0
    assert both.batches.total() > first.batches.total() > 0
    assert both.number_of_faults >= 8
    with pytest.raises(SystemExit, match="another seed"):
        soak(tmp_path / "tally", "--seed", "2")


def test_an_episode_is_a_function_of_seed_and_number() -> None:
    scripts = [draw_script(seed, number) for seed in (1, 2) for number in range(50)]
    assert scripts == [draw_script(seed, n) for seed in (1, 2) for n in range(50)]
    assert len({script.seed for script in scripts}) == 100


def test_every_kind_of_fault_and_deed_comes_up() -> None:
    parts = [part for number in range(300) for part in draw_script(1, number).parts]
    seen = {kind for part in parts for kind in (*part.strikes, *part.deeds)}
    seen |= {kind for number in range(300) for kind in draw_script(1, number).signals}
    assert seen == set(KINDS)


def test_an_episode_that_ends_its_process_is_a_failure_with_its_number(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    status, tally = soak(tmp_path / "tally", "--episode", "7")
    assert status == 1
    assert tally.wrong == ["episode 7: it hung or ended its process, status 1"]
    assert tally.wrong[0] in capsys.readouterr().out


def one_thread_episode(monkeypatch: pytest.MonkeyPatch) -> Tally:
    tally = Tally(1)
    monkeypatch.setattr(chaos, "_SETTLING", 0.1)
    with Log() as log:
        chaos.play_episode(tally, ("collection",), "thread", log)
    return tally


def test_a_quiet_episode_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = one_thread_episode(monkeypatch)
    assert tally.batches["thread"] > 0
    assert not tally.failed, str(tally)


def test_a_batch_with_another_byte_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = thread_pool._answer

    def spoilt(*arguments: Any) -> Any:
        completion = answer(*arguments)
        if completion.batch["index"] == 0:
            completion.batch["x"][1][-1] ^= 1
        return completion

    monkeypatch.setattr(thread_pool, "_answer", spoilt)
    tally = one_thread_episode(monkeypatch)
    assert "not what an inline run builds" in tally.wrong[0]
    assert tally.failed


def test_a_batch_in_another_s_place_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    submit = thread_pool.ThreadPool.submit

    def twisted(self: Any, orders: list[Order]) -> None:
        submit(self, [replace(order, index=order.index ^ 1) for order in orders])

    monkeypatch.setattr(thread_pool.ThreadPool, "submit", twisted)
    assert "where" in one_thread_episode(monkeypatch).wrong[0]


def test_what_is_left_behind_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr(
        chaos, "play", lambda *_: left.append(os.open(os.devnull, os.O_RDONLY))
    )
    tally = one_thread_episode(monkeypatch)
    os.close(left[0])
    assert "descriptor" in tally.left_behind[0]
    assert tally.failed


def test_growth_of_the_parent_is_a_failure() -> None:
    steady = Tally(1, memory=[*([40.0] * 10), *([300.0] * 100)])
    assert not steady.failed
    leaking = Tally(1, memory=[40.0 + 2 * episode for episode in range(200)])
    assert leaking.growth == 200
    assert leaking.failed
