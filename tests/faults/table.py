"""Every fault with every pool, and the page that shows what came of it.

``python -m tests.faults.table`` plays them all and writes docs/faults.md, or plays only the
modules that it is given, and leaves the others as they are. The tests play each row, and
compare the page with the rows. What stands above its first section is written by hand.
"""

from __future__ import annotations

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .judge import ROOT, Report, judge
from .rows import EVERYWHERE, PEERS, Row

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PAGE = ROOT / "docs" / "faults.md"
SECTIONS = {
    "rows_deaths": "Worker death",
    "rows_moments": "Every moment of a worker's life",
    "rows_hangs": "Hangs",
    "rows_exceptions": "Exceptions in `__getitem__`",
    "rows_travel": "Exceptions that hardly travel",
    "rows_policies": "Second tries, other workers, batches left out",
    "rows_transport": "Start and transport",
    "rows_sizes": "Sizes and types",
    "rows_resources": "Resources",
    "rows_growth": "Resources, many times over",
    "rows_parent": "The parent",
    "rows_forks": "Forks, signals, and an end from elsewhere",
    "rows_context": "Context",
    "rows_epochs": "Draws, lengths, hooks, garbage",
}
_CELL = r"([A-Z ]+) (\d+\.\d\d)s"
Key = tuple[str, str, str]  # module, row, pool


def rows() -> dict[str, list[Row]]:
    """All rows, by the module that they stand in."""
    return {
        module: [
            value
            for value in vars(import_module(f"tests.faults.{module}")).values()
            if isinstance(value, Row)
        ]
        for module in SECTIONS
        if find_spec(f"tests.faults.{module}")
    }


def cases() -> dict[Key, Row]:
    """Every row with every pool in which it can be played here."""
    return {
        (module, row.name, pool): row
        for module, found in rows().items()
        for row in found
        for pool in row.pools
        if all(map(find_spec, row.needs))
    }


def page(reports: Mapping[Key, Report]) -> str:
    """The page; a row that was not played is taken to be what it should."""
    above, *_ = PAGE.read_text().partition("\n## ")
    tables = (
        f"\n## {SECTIONS[module]}\n\n" + "\n".join(_section(module, found, reports))
        for module, found in rows().items()
    )
    return above + "\n".join(tables) + "\n"


def shown() -> dict[Key, Report]:
    """What the page shows of each row that it has."""
    lines = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines()]
    cells = {line[0]: line[1:] for line in lines}
    reports = {}
    for module, found in rows().items():
        for row in found:
            pools = _pools_of(found)
            for pool, cell in zip(pools, cells.get(row.fault, ()), strict=False):
                if pool in row.pools and (said := re.fullmatch(_CELL, cell)):
                    report = Report(said[1], float(said[2]), (), "")
                    reports[module, row.name, pool] = report
    return reports


def _pools_of(found: list[Row]) -> list[str]:
    return [pool for pool in EVERYWHERE if any(pool in row.pools for row in found)]


def _section(
    module: str, found: list[Row], reports: Mapping[Key, Report]
) -> Iterator[str]:
    pools = _pools_of(found)
    yield _line(["fault", *pools, "left", *PEERS, "the bar"])
    yield _line(["---"] * (len(pools) + len(PEERS) + 3))
    for row in found:
        played = {
            pool: reports.get(
                (module, row.name, pool), Report(row.outcome, 0.0, (), "")
            )
            for pool in row.pools
        }
        cells = [_cell(played[pool]) if pool in played else "-" for pool in pools]
        left = sorted({what for report in played.values() for what in report.left})
        yield _line([row.fault, *cells, ", ".join(left) or "none", *row.peers, row.bar])


def _cell(report: Report) -> str:
    if report.seconds is None:
        return report.outcome
    return f"{report.outcome} {report.seconds:.2f}s"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """``MODULE ...``: play those, or all, two rows at a time; write the page."""
    wanted = set(sys.argv[1:]) or set(SECTIONS)
    reports = shown()
    chosen = {
        key: row
        for key, row in cases().items()
        if key[0] in wanted or key not in reports
    }
    wrong = 0

    def play(key: Key, row: Row) -> None:
        nonlocal wrong
        module, _, pool = key
        for _ in range(3):  # where another program took the machine's time
            report = reports[key] = judge(module, row, pool)
            if report.seconds is not None and report.seconds <= row.within:
                break
        if report.outcome != row.outcome or report.left:
            wrong += 1
            sys.stdout.write(f"{key}: {report.outcome}, left {report.left}\n")
            sys.stdout.write(f"{report.detail}\n")

    with ThreadPoolExecutor(2) as both:
        for done in [both.submit(play, *case) for case in chosen.items()]:
            done.result()
    PAGE.write_text(page(reports))
    sys.stdout.write(f"{len(chosen)} played, {wrong} went wrong\n")
    sys.exit(min(wrong, 1))


if __name__ == "__main__":
    main()
