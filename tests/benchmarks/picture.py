"""A picture of the rows that deliver batches: a bar for each contestant, log scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .peers import LIMITS, OURS

if TYPE_CHECKING:
    from pathlib import Path

    from .result import Report

__all__ = ["draw"]

_COLOURS = {"ours": "#d9480f", "limit": "#adb5bd", "peer": "#4c6ef5"}
_COLUMNS = 2


def draw(report: Report, rows: list[str], path: Path) -> None:
    """Draw the rows that were measured, and write the picture."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if report.of(row)]
    if not rows:
        return
    lines = -(-len(rows) // _COLUMNS)
    figure = Figure(figsize=(11, 2.7 * lines), layout="constrained")
    figure.suptitle("Microseconds a batch: less is better", fontsize=13)
    axes: Any = figure.subplots(lines, _COLUMNS, squeeze=False)
    for place, row in zip(axes.flat, rows, strict=False):
        _bars(place, report, row)
    for place in axes.flat[len(rows) :]:
        place.set_axis_off()
    figure.savefig(path, dpi=110)


def _bars(place: Any, report: Report, row: str) -> None:
    from matplotlib.ticker import NullFormatter

    results = [result for result in report.of(row) if result.best == result.best]
    results.sort(key=lambda result: result.best, reverse=True)
    names = [result.who for result in results]
    values = [result.best for result in results]
    bars = place.barh(names, values, color=[_COLOURS[_kind(name)] for name in names])
    place.bar_label(bars, [f" {value:,.0f}" for value in values], fontsize=7)
    place.set_xscale("log")
    place.xaxis.set_minor_formatter(NullFormatter())
    place.set_xlim(min(values) / 2, max(values) * 4)
    place.set_title(row, loc="left", fontsize=10, fontweight="bold")
    place.tick_params(labelsize=7)
    place.spines[["top", "right"]].set_visible(False)


def _kind(name: str) -> str:
    if name in OURS:
        return "ours"
    return "limit" if name in (*LIMITS, "perfect workers") else "peer"
