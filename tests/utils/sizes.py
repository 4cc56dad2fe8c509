"""Sizes of halves, right and wrong, and what they have to come to."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Sequence

Outcome: TypeAlias = "tuple[int, int] | type[Exception]"

NO_SIZES: list[Any] = [True, False, "1", b"1", [1], (0.5,), 1j, Fraction(1, 2), {}]
LIMITS = [0.0, 1.0, -0.0, 5e-324, 1 - 2**-53, float("nan"), float("inf"), -float("inf")]


def sizes(total: int) -> st.SearchStrategy[Any]:
    """What may be given as the size of one half of ``total`` samples."""
    halves = st.integers(0, 2 * total).map(lambda k: k / (2 * total or 1))
    return st.one_of(
        st.none(),
        st.integers(1, max(1, total - 1)),
        st.integers(-2, total + 2),
        st.floats(0.01, 0.99),
        st.floats(-0.2, 1.2),
        st.sampled_from([k / 20 for k in range(21)]),
        halves,
        st.sampled_from([0, 2**70, -(2**70), *LIMITS]),
        st.sampled_from(NO_SIZES),
    )


def pairs(total: int) -> st.SearchStrategy[tuple[Any, Any]]:
    """Sizes of both halves: independent, or such that they come to all there is."""
    return st.one_of(
        st.tuples(sizes(total), sizes(total)),
        st.floats(0.01, 0.99).map(lambda left: (left, 1 - left)),
        st.integers(0, 100).map(lambda k: (k / 100, (100 - k) / 100)),
        st.integers(0, total).map(lambda left: (left, total - left)),
    )


def totals_and_pairs(
    smallest: int, largest: int
) -> st.SearchStrategy[tuple[int, tuple[Any, Any]]]:
    totals = st.integers(smallest, largest)
    return totals.flatmap(lambda total: st.tuples(st.just(total), pairs(total)))


def by_the_rules(total: int, left: Any, right: Any) -> Outcome:
    """What Keras' rules come to, or the kind of its refusal."""
    given = [size for size in (left, right) if size is not None]
    if not given:
        return ValueError
    if not all(type(size) in (int, float) for size in given):
        return TypeError
    if any(not 0 < size < (total if type(size) is int else 1) for size in given):
        return ValueError
    if (
        len(given) == 2
        and all(type(size) is float for size in given)
        and sum(given) > 1
    ):
        return ValueError
    counts = [None if size is None else _rounded(size, total) for size in (left, right)]
    known = [count for count in counts if count is not None]
    lengths = [total - known[0] if count is None else count for count in counts]
    if min(lengths) < 1 or sum(lengths) > total:
        return ValueError
    return lengths[0], lengths[1]


def head_and_tail(order: Sequence[Any], lengths: tuple[int, int]) -> tuple[Any, Any]:
    left, right = lengths
    return list(order[:left]), list(order[len(order) - right :])


def _rounded(size: float, total: int) -> int:
    if type(size) is int:
        return size
    product = Decimal(size * total)
    return int(product.quantize(Decimal(1), rounding=ROUND_HALF_EVEN))


def in_numpy(size: Any) -> Any:
    """The same number as one of NumPy's."""
    if type(size) is int and abs(size) < 2**63:
        return np.int64(size)
    return np.float64(size) if type(size) is float else size
