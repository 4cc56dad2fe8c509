"""Answers come back into order, each once, within the bounds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedline.delivery import Delivery
from feedline.records import Completion
from tests.utils.differential import cases


def popped(delivery: Delivery) -> list[int]:
    tickets = []
    while (completion := delivery.pop()) is not None:
        tickets.append(completion.ticket)
    return tickets


@cases(100)
@given(st.permutations(range(12)))
def test_completions_come_out_in_ticket_order(finished: list[int]) -> None:
    delivery = Delivery(12, in_order=True)
    for ticket in range(12):
        delivery.issue(ticket)
    seen = []
    for ticket in finished:
        delivery.complete(Completion(ticket))
        seen += popped(delivery)
        assert seen == list(range(len(seen)))
    assert seen == list(range(12))
    assert delivery.idle


@cases(100)
@given(st.permutations(range(12)))
def test_unordered_completions_come_out_as_they_were_finished(
    finished: list[int],
) -> None:
    delivery = Delivery(12, in_order=False)
    for ticket in range(12):
        delivery.issue(ticket)
    for ticket in finished:
        delivery.complete(Completion(ticket))
    assert popped(delivery) == finished


def test_a_late_first_answer_holds_the_ordered_ones_and_not_the_unordered() -> None:
    for in_order, expected in ((True, []), (False, [1, 2])):
        delivery = Delivery(3, in_order=in_order)
        for ticket in range(3):
            delivery.issue(ticket)
        for ticket in (1, 2):
            delivery.complete(Completion(ticket))
        assert popped(delivery) == expected


def test_a_ready_batch_counts_against_the_bound_until_it_is_delivered() -> None:
    delivery = Delivery(2, in_order=True)
    assert delivery.room == 2
    delivery.issue(5)
    delivery.issue(6)
    assert delivery.room == 0
    delivery.complete(Completion(5))
    assert delivery.room == 0
    delivery.pop()
    assert delivery.room == 1


@pytest.mark.parametrize("in_order", [True, False])
def test_a_second_answer_to_one_ticket_is_dropped(in_order: bool) -> None:
    delivery = Delivery(2, in_order=in_order, max_bytes=100)
    delivery.issue(0)
    delivery.issue(1)
    delivery.complete(Completion(0, "first", size=10))
    delivery.complete(Completion(0, "second", size=90))
    completion = delivery.pop()
    assert completion is not None
    assert completion.batch == "first"
    delivery.complete(Completion(0, "third", size=90))
    assert delivery.pop() is None
    assert delivery.outstanding == [1]
    delivery.complete(Completion(1, size=10))
    assert popped(delivery) == [1]


def test_an_answer_that_nobody_asked_for_is_dropped() -> None:
    delivery = Delivery(2, in_order=False)
    delivery.complete(Completion(99))
    assert delivery.pop() is None
    assert delivery.idle


def test_outstanding_tickets_are_told_oldest_first() -> None:
    delivery = Delivery(5, in_order=False)
    for ticket in (8, 3, 9):
        delivery.issue(ticket)
    delivery.complete(Completion(3))
    assert delivery.outstanding == [8, 3, 9]
    delivery.pop()
    assert delivery.outstanding == [8, 9]
    assert not delivery.idle


def test_errors_keep_their_place_among_the_batches() -> None:
    delivery = Delivery(3, in_order=True)
    for ticket in range(3):
        delivery.issue(ticket)
    wrong = ValueError("wrong")
    delivery.complete(Completion(2, "c"))
    delivery.complete(Completion(1, error=wrong))
    delivery.complete(Completion(0, "a"))
    found = [delivery.pop() for _ in range(3)]
    assert [c.error for c in found if c is not None] == [None, wrong, None]


def test_until_a_size_is_known_there_is_one_batch_at_a_time() -> None:
    delivery = Delivery(10, in_order=True, max_bytes=1000, builders=9)
    assert delivery.room == 1
    delivery.issue(0)
    assert delivery.room == 0
    delivery.complete(Completion(0, size=100))
    assert delivery.room == 9


def test_delivering_a_batch_takes_no_room_away() -> None:
    delivery = Delivery(10, in_order=True, max_bytes=1000, builders=9)
    delivery.issue(0)
    delivery.complete(Completion(0, size=100))
    before = delivery.room
    delivery.pop()
    assert delivery.room >= before


def test_the_bound_on_bytes_takes_the_unbuilt_for_as_large_as_the_largest() -> None:
    delivery = Delivery(10, in_order=True, max_bytes=1000, builders=9)
    delivery.issue(0)
    delivery.complete(Completion(0, size=300))
    assert delivery.room == 2  # 300 ready, 700 left
    delivery.issue(1)
    delivery.issue(2)
    assert delivery.room == 0
    delivery.complete(Completion(1, size=10))
    assert delivery.room == 1  # 310 ready, 300 expected


def test_with_a_bound_on_bytes_no_more_are_unbuilt_than_can_be_built_at_once() -> None:
    delivery = Delivery(10, in_order=True, max_bytes=10**9, builders=2)
    delivery.issue(0)
    delivery.complete(Completion(0, size=1))
    assert delivery.room == 2
    delivery.issue(1)
    delivery.issue(2)
    assert delivery.room == 0
    delivery.complete(Completion(2, size=1))
    assert delivery.room == 1


def test_a_batch_larger_than_the_bound_goes_alone() -> None:
    delivery = Delivery(10, in_order=True, max_bytes=1000, builders=9)
    delivery.issue(0)
    delivery.complete(Completion(0, size=5000))
    assert delivery.room == 0
    assert popped(delivery) == [0]
    assert delivery.room == 1
    delivery.issue(1)
    assert delivery.room == 0


def test_the_bound_on_the_number_holds_beside_the_one_on_bytes() -> None:
    delivery = Delivery(3, in_order=True, max_bytes=10**9, builders=9)
    delivery.issue(0)
    delivery.complete(Completion(0, size=1))
    assert delivery.room == 2


@pytest.mark.parametrize("size", [0, 1, 2000])
def test_an_error_says_nothing_about_the_size_of_batches(size: int) -> None:
    delivery = Delivery(10, in_order=True, max_bytes=1000, builders=9)
    delivery.issue(0)
    delivery.complete(Completion(0, error=ValueError(), size=size))
    delivery.pop()
    delivery.issue(1)
    assert delivery.room == 0  # no batch has been seen yet: still one at a time


KINDS = st.sampled_from(["batch", "batch", "error", "stray", "late"])
STEPS = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 400), KINDS), max_size=80)


@cases(100)
@given(
    steps=STEPS,
    limit=st.integers(1, 6),
    in_order=st.booleans(),
    max_bytes=st.none() | st.integers(1, 1000),
    builders=st.integers(1, 4),
)
def test_whatever_happens_bounds_hold_and_every_ticket_comes_once(
    steps: list[tuple[int, int, str]],
    limit: int,
    in_order: bool,
    max_bytes: int | None,
    builders: int,
) -> None:
    delivery = Delivery(
        limit, in_order=in_order, max_bytes=max_bytes, builders=builders
    )
    building: list[int] = []
    ready: dict[int, int] = {}
    seen: list[int] = []
    finished: list[int] = []
    issued = largest = 0

    def fill() -> None:
        nonlocal issued
        for _ in range(delivery.room):
            if max_bytes is not None and (building or ready):
                expected = sum(ready.values()) + (len(building) + 1) * largest
                assert 0 < expected <= max_bytes
            delivery.issue(issued)
            building.append(issued)
            issued += 1
        assert len(building) + len(ready) <= limit
        assert max_bytes is None or len(building) <= builders
        assert building or ready, "nothing is under way and nothing may be asked for"

    def drain() -> None:
        while (completion := delivery.pop()) is not None:
            seen.append(completion.ticket)
            del ready[completion.ticket]
            fill()

    fill()
    for which, size, kind in steps:
        if not building:
            break
        if kind == "stray":  # nobody asked for it
            delivery.complete(Completion(10**6 + which, size=size))
            continue
        if kind == "late" and seen:  # it was delivered
            delivery.complete(Completion(seen[which % len(seen)], size=size))
            continue
        ticket = building.pop(which % len(building))
        ready[ticket] = size
        error = ValueError() if kind == "error" else None
        largest = max(largest, 0 if error else size)
        finished.append(ticket)
        delivery.complete(Completion(ticket, size=size, error=error))
        delivery.complete(Completion(ticket, size=size + 1))  # a duplicate
        drain()
    assert seen == (list(range(len(seen))) if in_order else finished)
    assert delivery.outstanding == sorted([*building, *ready])


def test_popping_from_an_empty_delivery_is_none() -> None:
    for in_order in (True, False):
        assert Delivery(1, in_order=in_order).pop() is None


def test_a_delivered_completion_is_no_longer_held() -> None:
    import weakref

    class Batch:
        pass

    batch: Any = Batch()
    watch = weakref.ref(batch)
    delivery = Delivery(1, in_order=True)
    delivery.issue(0)
    delivery.complete(Completion(0, batch))
    del batch
    delivery.pop()
    assert watch() is None


def test_what_is_cleared_is_forgotten() -> None:
    delivery = Delivery(3, in_order=True, max_bytes=100)
    for ticket in range(3):
        delivery.issue(ticket)
    delivery.complete(Completion(1, "batch", size=60))
    delivery.clear()
    assert delivery.idle
    assert delivery.pop() is None
    delivery.complete(Completion(2, "late"))
    assert delivery.pop() is None
    delivery.issue(3)
    delivery.complete(Completion(3, size=100))
    assert popped(delivery) == [3]
