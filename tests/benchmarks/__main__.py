"""The benchmarks: ``python -m tests.benchmarks [row ...] [--to FOLDER]``.

Every row is measured against peers in the same run, in turns. Speed is a ratio of two
figures of one run; absolute figures move with the machine and its other work.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from .figures import FIGURES
from .peers import CONTESTANTS
from .picture import draw
from .result import Report
from .rounds import DELIVERED, measure
from .targets import TARGETS


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure feedline beside its peers.",
        epilog=f"rows: {', '.join([*DELIVERED, *FIGURES])}",
    )
    parser.add_argument(
        "rows", nargs="*", metavar="row", help="all of them, by default"
    )
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WHO", choices=list(CONTESTANTS),
        help=f"of {', '.join(CONTESTANTS)}",
    )  # fmt: skip
    parser.add_argument(
        "--to", type=Path, metavar="FOLDER",
        help="write benchmarks.md, benchmarks.json and benchmarks.png there",
    )  # fmt: skip
    parser.add_argument(
        "--before", type=Path, metavar="FILE",
        help="an earlier benchmarks.json, shown beside",
    )  # fmt: skip
    options = parser.parse_args()
    rows = options.rows or [*DELIVERED, *FIGURES]
    for row in rows:
        if row not in DELIVERED and row not in FIGURES:
            parser.error(f"row must be one of {[*DELIVERED, *FIGURES]}, got {row!r}")
    os.environ.setdefault("KERAS_BACKEND", "torch")
    before = Report.load(options.before) if options.before else None
    report = Report.of_this_machine()
    for row in rows:
        _say(row)
        if row in DELIVERED:
            report.results += measure(row, options.rounds, tuple(options.only), _say)
        else:
            report.results += FIGURES[row](options.rounds)
    table = report.table(TARGETS, before)
    print(table)
    if options.to is not None:
        options.to.mkdir(parents=True, exist_ok=True)
        (options.to / "benchmarks.md").write_text(table)
        report.save(options.to / "benchmarks.json")
        if find_spec("matplotlib") is None:
            _say("there is no picture, because matplotlib is not installed")
        else:
            draw(report, list(DELIVERED), options.to / "benchmarks.png")


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
