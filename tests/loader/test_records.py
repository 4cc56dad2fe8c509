"""Records fill 32 bytes each and come back as they were."""

from __future__ import annotations

import select
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedline.records import RECORD_BYTES, Completion, Kind, Result, Task

KINDS = [Kind.BATCH, Kind.RAISED, Kind.ERROR, Kind.READY, Kind.FAILED]
INT64 = st.integers(-(2**63), 2**63 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)
TASKS = st.builds(
    Task, number=INT64, index=INT64, epoch=INT32, slot=INT32, version=INT32,
    state_slot=INT32,
)  # fmt: skip
RESULTS = st.builds(
    Result, number=INT64, size=INT64, busy=INT64, slot=INT32,
    worker=st.integers(0, 2**16 - 1), kind=st.sampled_from(KINDS),
)  # fmt: skip


def test_a_record_is_far_below_what_a_pipe_writes_in_one_piece() -> None:
    assert RECORD_BYTES == 32
    assert select.PIPE_BUF % RECORD_BYTES == 0


@given(TASKS)
def test_a_task_comes_back_as_it_was(task: Task) -> None:
    record = task.pack()
    assert len(record) == RECORD_BYTES
    assert Task.unpack(record) == task


@given(st.lists(RESULTS, max_size=20))
def test_results_come_back_as_they_were_and_in_order(results: list[Result]) -> None:
    records = b"".join(result.pack() for result in results)
    assert len(records) == RECORD_BYTES * len(results)
    assert Result.unpack_all(records) == results


def test_no_two_kinds_are_the_same_number() -> None:
    assert len(set(KINDS)) == len(KINDS)


def test_the_largest_of_everything_fits() -> None:
    task = Task(2**63 - 1, 2**63 - 1, 2**31 - 1, 2**31 - 1, 2**31 - 1, 2**31 - 1)
    assert Task.unpack(task.pack()) == task
    result = Result(2**63 - 1, 2**63 - 1, 2**63 - 1, 2**31 - 1, 2**16 - 1, Kind.FAILED)
    assert Result.unpack_all(result.pack()) == [result]


@pytest.mark.parametrize(
    "result",
    [
        Result(1, 1, 1, 1, 2**16, Kind.BATCH),
        Result(1, 1, 1, 1, 1, 2**16),
        Result(2**63, 1, 1, 1, 1, Kind.BATCH),
    ],
)
def test_what_does_not_fit_fails_in_place_of_arriving_changed(result: Result) -> None:
    with pytest.raises(struct.error):
        result.pack()


def test_half_a_record_is_no_record() -> None:
    whole = Result(1, 2, 3, 4, 5, Kind.BATCH).pack()
    with pytest.raises(struct.error):
        Result.unpack_all(whole[:-1])
    with pytest.raises(struct.error):
        Task.unpack(whole[:-1])


def test_no_records_are_no_results() -> None:
    assert Result.unpack_all(b"") == []


def test_a_completion_is_empty_unless_told_otherwise() -> None:
    completion = Completion(3)
    assert completion.batch is None
    assert completion.error is None
    assert (completion.size, completion.busy, completion.again) == (0, 0, False)
